"""What several commands share: free fields, and among them those that say how a file is to be read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from hf_tsrep.errors import near_matches

# typer >= 0.26 brings its own copy of click; the base classes of its errors are found where it keeps them.
UsageError: Any = typer.BadParameter.__mro__[1]

# Settings of the context of a command that takes fields besides its options.
FREE_FIELDS = {"allow_extra_args": True, "ignore_unknown_options": True}
_NUMBER = re.compile(r"-(\d|\.\d|inf)")

DataDirectory = Annotated[str | None, typer.Option(help="Where known corpora lie; default HF_TSREP_DATA.")]
Model = Annotated[str, typer.Option(help="Folder of a model, or its id on the Hub.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a model on the Hub.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the code of a repository whose method hf_tsrep does not have.")
]
Domain = Annotated[
    str | None,
    typer.Option(help="Model of several domains: the one to read the series in; default that of the corpus's name."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default cuda where there is one.")]


class FreeCommand(TyperCommand):
    """A command that takes further options than it declares, and names the misspelt one where a required one lacks."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments of the command.

        Raises:
            UsageError: A required option is missing; the message names what was probably meant by it.
        """
        given = [one.partition("=")[0] for one in args if one.startswith("--")]
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            options = {name for one in self.params for name in one.opts}
            required = {name for one in self.params if one.required for name in one.opts} - set(given)
            for name in given:
                hint = "" if name in options else near_matches(name, required, count=1, spell=str)
                if hint:
                    raise UsageError(f"Unknown option {name}.{hint}", ctx=ctx) from error
            raise


class FieldsCommand(FreeCommand):
    """A command that takes fields of settings; `--help` tells the documented ones after the options."""

    def fields(self) -> dict[str, str]:
        """Return the documented fields of the command by name, with what they do."""
        runs: dict[str, Any] = {"pretrain": "pretraining", "finetune": "finetuning"}
        return documented_fields(runs.get(self.name or "", "reading"))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, then the fields of the settings that go by the name of the command."""
        super().format_options(ctx, formatter)
        rows = [(f"--{name.replace('_', '-')}", text) for name, text in self.fields().items()]
        trains = self.name in ("pretrain", "finetune")
        title = "Fields, which a file and a recipe can hold too" if trains else "How a file is read"
        with formatter.section(title):
            formatter.write_dl(rows, col_max=32)


def documented_fields(run: Literal["pretraining", "finetuning", "reading"]) -> dict[str, str]:
    """Return what each field does, and its default, by name: ours, and those of transformers that most runs set.

    Args:
        run: What the fields are for; "reading" for those of any command that reads a corpus.
    """
    from hf_tsrep.training import settings
    from hf_tsrep.training.settings_sources import dataclass_fields

    owners: dict[str, tuple[type, ...]] = {
        "pretraining": (settings.RunSettings, settings.DataSettings),
        "finetuning": (settings.FinetuneRunSettings, settings.FinetuneDataSettings),
        "reading": (settings.FileSettings,),
    }
    found = {"recipe": "Name of the recipe; default that of the corpus.", **settings.TRAINING_FIELDS}
    found = {} if run == "reading" else found
    for owner in owners[run]:
        for name, one in dataclass_fields(run, owner).items():
            default = "" if one.default is None else f" [default: {str(one.default).lower()}]"
            found[name] = one.told.help + default
    return found


def parse_fields(arguments: Sequence[str]) -> dict[str, Any]:
    """Read `--name value`, `--name=value`, `--name` (true) and `--no-name` (false); a repeated name makes a list.

    Args:
        arguments: What a command did not know.

    Returns:
        Text, truth values or lists of text by name, with underscores.

    Raises:
        UsageError: An argument is no option.
    """
    fields: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--") or len(token) < 3:
            raise UsageError(f"Unexpected argument {token!r}; fields are given as --name value.")
        name, equals, value = token[2:].partition("=")
        name = name.replace("-", "_")
        parsed: Any = value
        if not equals:
            has_value = bool(rest) and (not rest[0].startswith("-") or _NUMBER.match(rest[0]))
            parsed = rest.pop(0) if has_value else True
        if parsed is True and name.startswith("no_"):
            name, parsed = name.removeprefix("no_"), False
        if name in fields:
            before = fields[name] if isinstance(fields[name], list) else [fields[name]]
            parsed = [*before, parsed]
        fields[name] = parsed
    return fields


def take_reading(fields: dict[str, Any]) -> dict[str, Any]:
    """Take the fields that say how a file is read out of free fields.

    Args:
        fields: Text by name; what is taken is removed.

    Returns:
        Arguments of `hf_tsrep.data.load_corpus`, of those that were given.

    Raises:
        SettingsError: A value has another type.
    """
    from hf_tsrep.training.settings import FileSettings
    from hf_tsrep.training.settings_sources import coerce, dataclass_fields

    known = dataclass_fields("reading", FileSettings)
    taken = {name: fields.pop(name) for name in list(fields) if name in known}
    return {name: coerce(name, value, known[name].annotation, "command line") for name, value in taken.items()}


def check_names(context: typer.Context, names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse an option that is neither a field nor one of the command's own, which are near matches too.

    Args:
        context: The command's.
        names: Fields that were given.
        known: Fields that there are.
        what: What the fields are for.

    Raises:
        UsageError: The message names the near matches.
    """
    own = [str(one.name) for one in context.command.params]
    if isinstance(context.command, FieldsCommand):
        own += context.command.fields()
    spelled = sorted({name.replace("_", "-") for name in [*known, *own, "help", "quiet", "debug"]})
    for name in names:
        option = name.replace("_", "-")
        if option in spelled:
            continue
        hint = near_matches(option, spelled, spell="--{}".format)
        raise UsageError(f"Unknown option --{option} for {what}.{hint}", ctx=context)


def split_at_commas(text: str | None) -> list[str] | None:
    """Return the parts of `a,b,c`; None of None."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def read_value(value: Any, *, is_list: bool) -> Any:
    """Return the number, truth value, None or text that a word on the command line means.

    Args:
        value: Text, or what parse_fields makes of it.
        is_list: Whether a list is expected; parts are separated by commas.
    """
    if is_list:
        parts = value if isinstance(value, list) else str(value).split(",")
        return [read_value(part, is_list=False) for part in parts]
    if not isinstance(value, str):
        return value
    text = value.strip()
    words: dict[str, Any] = {"true": True, "yes": True, "false": False, "no": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
