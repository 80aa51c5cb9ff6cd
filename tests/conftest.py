"""What every test may use."""

import gc
import importlib
import logging
import sys
from pathlib import Path

import pytest

from hf_tsrep.imports import after_import

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path[:0] = [str(Path(__file__).parent / "support"), str(SCRIPTS), str(SCRIPTS / "studies")]
pytest.register_assert_rewrite("company", "training_runs", "two_processes")

gc.disable()  # collecting the tests imports a million objects that stay: garbage is not worth looking for


# What trainings import when they are asked for. A worker of the whole suite needs it sooner or later.
LATE = ("accelerate", "datasets", "matplotlib.pyplot", "pandas", "sklearn.svm", "transformers.trainer")


def pytest_collection_finish(session):
    """Look for garbage again, but not among what was imported: every training ends with a look at all that is left."""
    if hasattr(session.config, "workerinput"):
        for name in LATE:
            importlib.import_module(name)
    gc.freeze()
    gc.enable()


def _draw_the_loss_once():
    """Give every training of this process the picture of the first one: hundreds are trained, and one is looked at."""
    from hf_tsrep.training import saving

    draw, drawn = saving.plot_loss_curve, []

    def copy_the_first(history, path, title):
        if not drawn or not any("loss" in entry for entry in history):
            drawn[:] = [draw(history, path, title).read_bytes()]
        return Path(path).write_bytes(drawn[0])

    saving.plot_loss_curve = copy_the_first


after_import("hf_tsrep.training.saving", _draw_the_loss_once)


def _reset_logger():
    logger = logging.getLogger("hf_tsrep")
    logger.setLevel(logging.NOTSET)  # not by assignment: the loggers below keep what they found enabled
    logger.propagate = True
    logger.handlers = [one for one in logger.handlers if one.get_name() != "hf-tsrep command line"]


@pytest.fixture(autouse=True)
def untouched_logger():
    """Undo what a command line in this process, also one of a module's fixture, has set for the library's logger."""
    _reset_logger()
    yield
    _reset_logger()


@pytest.fixture
def command_line(capfd):
    """Return a function that runs `hf-tsrep ARGUMENTS` in this process and gives its exit code, stdout and stderr."""
    from transformers.utils import logging as transformers_logging

    from hf_tsrep.cli.main import run

    logger = logging.getLogger("hf_tsrep")
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()

    def call(*arguments):
        logger.handlers = [one for one in logger.handlers if one.get_name() != "hf-tsrep command line"]
        capfd.readouterr()
        code = run([str(one) for one in arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    yield call
    transformers_logging.set_verbosity(verbosity)
    transformers_logging.enable_progress_bar() if bars else transformers_logging.disable_progress_bar()
