"""The application: its commands, what is printed, and how errors become one line."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from ..errors import one_line
from ..processes import launched_processes, require_every_process
from . import (
    check,
    cluster,
    convert,
    data,
    demo,
    detect,
    encode,
    evaluate,
    finetune,
    impute,
    list_models,
    predict,
    pretrain,
    push,
    results,
    search,
)
from .arguments import FREE_FIELDS, FieldsCommand, UsageError

EXIT_FAILED = 1
EXIT_REFUSED = 2
EXIT_INTERRUPTED = 130
_HANDLER = "hf-tsrep command line"  # name of the logging handler
_SHARED = ("pretrain", "finetune", "encode")  # commands whose work several processes can share
_GLOBAL_FLAGS = ("--debug", "--quiet", "-q")

app = typer.Typer(
    name="hf-tsrep",
    help="Pretrained time-series encoders: train, encode, evaluate and publish.",
    epilog="--quiet and --debug may stand anywhere. hf-tsrep COMMAND --help tells the options of a command.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _show_version(asked: bool) -> None:
    if asked:
        from hf_tsrep import __version__

        typer.echo(f"hf-tsrep {__version__}")
        raise typer.Exit


@app.callback()
def global_options(
    context: typer.Context,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars and no information.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Pretrained time-series encoders: train, encode, evaluate and publish."""
    count = require_every_process().count
    if count > 1 and context.invoked_subcommand not in _SHARED:
        raise UsageError(
            f"{context.invoked_subcommand} works in one process, and the launcher has started {count}, each of which "
            f"would do everything. Start it without a launcher; several processes can share {', '.join(_SHARED)}.",
            ctx=context,
        )


app.command("pretrain", cls=FieldsCommand, context_settings=FREE_FIELDS)(pretrain.pretrain_command)
app.command("finetune", cls=FieldsCommand, context_settings=FREE_FIELDS)(finetune.finetune_command)
app.command("encode", cls=FieldsCommand, context_settings=FREE_FIELDS)(encode.encode_command)
app.command("predict", cls=FieldsCommand, context_settings=FREE_FIELDS)(predict.predict_command)
app.command("detect", cls=FieldsCommand, context_settings=FREE_FIELDS)(detect.detect_command)
app.command("search", cls=FieldsCommand, context_settings=FREE_FIELDS)(search.search_command)
app.command("cluster", cls=FieldsCommand, context_settings=FREE_FIELDS)(cluster.cluster_command)
app.command("impute", cls=FieldsCommand, context_settings=FREE_FIELDS)(impute.impute_command)
app.command("evaluate", cls=FieldsCommand, context_settings=FREE_FIELDS)(evaluate.evaluate_command)
app.command("convert")(convert.convert_command)
app.command("check")(check.check_command)
app.command("push")(push.push_command)
app.command("list")(list_models.list_command)
app.add_typer(data.app, name="data")
app.command("results")(results.results_command)
app.command("demo")(demo.demo_command)


def main() -> None:
    """Run the command of `sys.argv` and leave with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command.

    Args:
        arguments: What stands after the program's name.

    Returns:
        Exit code: 0, 2 for what was asked in a wrong way, 1 for what failed, 130 when interrupted.
    """
    given = [one for one in arguments if one in _GLOBAL_FLAGS]
    configure_output(quiet="--quiet" in given or "-q" in given)
    rest = [one for one in arguments if one not in _GLOBAL_FLAGS]
    try:
        code = app(args=[*given, *rest], prog_name="hf-tsrep", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except BrokenPipeError:  # `hf-tsrep list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as error:
        if "--debug" in given:
            traceback.print_exc()
        return _report(error)
    if code == EXIT_INTERRUPTED:  # typer turns Ctrl-C into this code
        _print_error("interrupted.")
    return code if isinstance(code, int) else 0


def _report(error: Exception) -> int:
    """Print an error of the user's as one line; anything else is a fault of the program and is raised."""
    if isinstance(error, UsageError):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "hf-tsrep"
        _print_error(f"{one_line(error.format_message())} (see {command} --help)")
        return EXIT_REFUSED
    if isinstance(error, ValueError):
        _print_error(one_line(error))
        return EXIT_REFUSED
    if isinstance(error, ImportError):
        message = one_line(error)
        named = "hf-tsrep[" in message  # the extra that it needs
        _print_error(message if named else f'{message}. Install it with: pip install "hf-tsrep[data,viz]"')
        return EXIT_FAILED
    if isinstance(error, (OSError, RuntimeError)):
        hint = " (--debug shows the traceback)" if isinstance(error, RuntimeError) else ""
        _print_error((one_line(error) or type(error).__name__) + hint)
        return EXIT_FAILED
    raise error


def _print_error(message: str) -> None:
    typer.echo(f"hf-tsrep: error: {message}", err=True)


def configure_output(*, quiet: bool) -> None:
    """Show the library's information and progress bars on stderr, or neither; other processes of a group warn only.

    Args:
        quiet: Errors only.
    """
    from transformers.utils import logging as transformers_logging

    level = logging.ERROR if quiet else logging.INFO if launched_processes().is_first else logging.WARNING
    logger = logging.getLogger("hf_tsrep")
    logger.setLevel(level)
    if not any(handler.get_name() == _HANDLER for handler in logger.handlers):
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        handler.set_name(_HANDLER)
        logger.addHandler(handler)
        logger.propagate = False
    transformers_logging.set_verbosity_error() if quiet else transformers_logging.set_verbosity_warning()
    if not quiet:
        transformers_logging.enable_progress_bar()
    else:
        transformers_logging.disable_progress_bar()
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
