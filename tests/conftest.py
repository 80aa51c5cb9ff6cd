"""What every test may use."""

import logging

import pytest


@pytest.fixture
def command_line(capfd):
    """Return a function that runs `hf-tsrep ARGUMENTS` in this process and gives its exit code, stdout and stderr."""
    from transformers.utils import logging as transformers_logging

    from hf_tsrep.cli.main import run

    logger = logging.getLogger("hf_tsrep")
    before = logger.level, logger.propagate, list(logger.handlers), transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()

    def call(*arguments):
        logger.handlers = [one for one in logger.handlers if not getattr(one, "of_command_line", False)]
        capfd.readouterr()
        code = run([str(one) for one in arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    yield call
    logger.level, logger.propagate, logger.handlers = before[:3]
    transformers_logging.set_verbosity(before[3])
    transformers_logging.enable_progress_bar() if bars else transformers_logging.disable_progress_bar()
