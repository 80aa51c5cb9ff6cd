"""`hf-tsrep data`: list, info, prepare."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import near_matches
from .arguments import (
    FREE_FIELDS,
    DataDirectory,
    FieldsCommand,
    check_names,
    parse_fields,
    split_at_commas,
    take_reading,
)

app = typer.Typer(
    help="Corpora: list them, look at one, write one as Parquet.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Corpus = Annotated[str, typer.Argument(help="File, folder, known name or Hub id.")]


@app.command("list")
def list_corpora(
    pattern: Annotated[str, typer.Argument(help='Shell-style pattern, such as "uea/*".')] = "*",
    data_directory: DataDirectory = None,
) -> None:
    """List the known corpora that are on this machine.

    These are those of HF_TSREP_DATA and those that the aeon package carries.
    """
    from hf_tsrep.data import list_known_corpora

    known = list_known_corpora(data_directory)
    found = [name for name in known if fnmatch.fnmatch(name.lower(), pattern.lower())]
    if not found:
        hint = near_matches(pattern, known, cutoff=0.5)
        raise ValueError(
            f"None of the {len(known)} known corpora on this machine fits {pattern!r}.{hint} More are found in the "
            "folder that HF_TSREP_DATA or --data-directory names."
        )
    for name in found:
        typer.echo(name)


@app.command("info", cls=FieldsCommand, context_settings=FREE_FIELDS)
def show_corpus(
    context: typer.Context,
    corpus: Corpus,
    data_directory: DataDirectory = None,
) -> None:
    """Show what a corpus holds.

    Splits, lengths, channels, labels, missing values.
    """
    import numpy as np

    from hf_tsrep.data import corpus_fingerprint, corpus_metadata, get_series, load_corpus

    loaded = load_corpus(corpus, data_directory=data_directory, **_reading(context, "data info"))
    metadata = corpus_metadata(loaded)
    facts: dict[str, Any] = {
        "name": metadata.name,
        "task": metadata.task,
        "channels": f"{len(metadata.channel_names)}: {', '.join(metadata.channel_names[:20])}",
        "frequency": metadata.freq or "unknown",
        "licence": metadata.licence,
        "source": " ".join(filter(None, (metadata.source, metadata.url))) or "unknown",
        "notes": " ".join(metadata.notes),
        "fingerprint": corpus_fingerprint(loaded),
    }
    for name, split in loaded.items():
        series = get_series(split)
        lengths = [len(one) for one in series]
        missing = sum(int(np.isnan(one).sum()) for one in series)
        steps = f"{min(lengths):,}" if min(lengths) == max(lengths) else f"{min(lengths):,} to {max(lengths):,}"
        facts[f"split {name}"] = f"{len(series):,} series of {steps} steps, {missing:,} missing values"
        label = split.features.get("label")
        if label is not None:
            facts["classes"] = f"{label.num_classes}: {', '.join(label.names[:20])}"
    for name, value in facts.items():
        if value:
            typer.echo(f"{name:<16} {value}")


def _reading(context: typer.Context, command: str) -> dict[str, Any]:
    """Return how the corpus is to be read, as the command line says it."""
    fields = parse_fields(context.args)
    reading = take_reading(fields)
    check_names(context, fields, [], command)
    return reading


@app.command("prepare", cls=FieldsCommand, context_settings=FREE_FIELDS)
def prepare(
    context: typer.Context,
    corpus: Corpus,
    output: Annotated[Path | None, typer.Option(help="Folder to write.")] = None,
    push_to_hub: Annotated[str | None, typer.Option(help="Dataset repository to publish it as, name/corpus.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing folder.")] = False,
    split: Annotated[str | None, typer.Option(help="How to cut long series: 70/10/20, '12/4/4 months', none.")] = None,
    target: Annotated[str | None, typer.Option(help="Channels to keep, with commas, or univariate.")] = None,
    scaler: Annotated[str | None, typer.Option(help="standard, global or recommended; default raw values.")] = None,
    time_features: Annotated[bool, typer.Option("--time-features", help="Seven calendar features in front.")] = False,
    data_directory: DataDirectory = None,
) -> None:
    """Write a corpus as Parquet with a dataset card.

    To a folder, to the Hub or to both.
    """
    from hf_tsrep.data import prepare_corpus

    targets = split_at_commas(target)
    folder = prepare_corpus(
        corpus,
        output,
        push_to_hub=push_to_hub,
        private=private,
        overwrite=overwrite,
        split=split,
        target=targets[0] if targets and len(targets) == 1 else targets,
        scaler=scaler,
        time_features=time_features,
        data_directory=data_directory,
        **_reading(context, "data prepare"),
    )
    for place in (folder, push_to_hub):
        if place is not None:
            typer.echo(str(place))
