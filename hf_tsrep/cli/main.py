"""The application: its commands, what is printed, and how errors become one line."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from ..errors import one_line
from ..imports import after_import
from ..processes import launched_processes, require_every_process
from .arguments import FREE_FIELDS, FieldsCommand, UsageError

EXIT_FAILED = 1
EXIT_REFUSED = 2
EXIT_INTERRUPTED = 130
_HANDLER = "hf-tsrep command line"  # name of the logging handler
_SHARED = ("pretrain", "finetune", "encode")  # commands whose work several processes can share
_GLOBAL_FLAGS = ("--debug", "--quiet", "-q")

# What each command does, in the order of the help; its file is imported when it is used, because what it needs is slow
# to import. A command is `NAME_command` of the file of its name, or of the file named here.
COMMANDS = {
    "pretrain": "Pre-train a method on the training part of a corpus.",
    "finetune": "Fine-tune a pretrained model on a labelled corpus.",
    "encode": "Turn series into embeddings.",
    "predict": "Tell classes, numbers or the future of new series, by a model that `hf-tsrep finetune` trained.",
    "detect": "Find what is unlike the reference in series: a score a timestamp, a threshold, alarms.",
    "search": "Find the series, or windows, of a corpus that are most like a query.",
    "cluster": "Group series that are alike, by k-means over their embeddings.",
    "impute": "Fill in the missing values of series, in their own units; what was observed stays as it is.",
    "evaluate": "Evaluate a model by a protocol.",
    "convert": "Turn a checkpoint of an official code into a model folder.",
    "export": "Write a model as one file that runs without this library.",
    "check": "Tell whether a folder or a file is, bit for bit, what was written.",
    "card": "Cards of models: check one before it is published.",
    "info": "Tell what a model is: method, sizes, inputs, preparation, training, results, files.",
    "pull": "Download a model from the Hub, and verify every file.",
    "push": "Publish a model folder on the Hub.",
    "list": "List methods, their papers and their model classes.",
    "data": "Corpora: list them, look at one, write one as Parquet.",
    "results": "Show results in a Markdown table for each task.",
    "demo": "Train, encode, evaluate, save and reload an encoder.",
}
_FILES = {"list": "list_models"}
_WITHOUT_FIELDS = ("convert", "export", "check", "card", "info", "pull", "push", "list", "data", "results", "demo")


class CommandsOnDemand(TyperGroup):
    """The commands of COMMANDS."""

    def __init__(self, *positional: Any, **named: Any) -> None:
        super().__init__(*positional, **named)
        self.commands: dict[str, Any] = dict.fromkeys(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, its file imported; None where there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        if self.commands[cmd_name] is None:
            module = importlib.import_module(f".{_FILES.get(cmd_name, cmd_name)}", __package__)
            found = getattr(module, "app", None)
            if found is None:
                found = typer.Typer(add_completion=False, rich_markup_mode=None)
                options: dict[str, Any] = {}
                if cmd_name not in _WITHOUT_FIELDS:
                    options = {"cls": FieldsCommand, "context_settings": FREE_FIELDS}
                found.command(cmd_name, **options)(getattr(module, f"{cmd_name}_command"))
            self.commands[cmd_name] = get_command(found)
            self.commands[cmd_name].name = cmd_name
        return self.commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write what each command does, without importing it."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(
    name="hf-tsrep",
    cls=CommandsOnDemand,
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
    level = logging.ERROR if quiet else logging.INFO if launched_processes().is_first else logging.WARNING
    logger = logging.getLogger("hf_tsrep")
    logger.setLevel(level)
    if not any(handler.get_name() == _HANDLER for handler in logger.handlers):
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        handler.set_name(_HANDLER)
        logger.addHandler(handler)
        logger.propagate = False
    if quiet:
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    after_import("transformers.utils.logging", partial(_configure_transformers, quiet))


def _configure_transformers(quiet: bool) -> None:
    from transformers.utils import logging as transformers_logging

    if quiet:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
    else:
        transformers_logging.set_verbosity_warning()
        transformers_logging.enable_progress_bar()
