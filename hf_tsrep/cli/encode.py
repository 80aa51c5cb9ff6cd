"""`hf-tsrep encode`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ..data.stored_rows import StoredCorpus, open_parquet_corpus, stored_corpus
from ..errors import SettingsError, near_matches
from ..inference.inputs import channels_of_model, chosen_splits, dates_of_model, label_names
from ..inference.provenance import answer_provenance
from ..inference.tables import check_output
from ..processes import Processes, launched_processes
from .arguments import (
    DataDirectory,
    Device,
    Domain,
    Model,
    Revision,
    TrustRemoteCode,
    check_names,
    parse_fields,
    read_value,
    split_at_commas,
    take_reading,
)
from .embedding_files import SUFFIXES, EmbeddingTable, write_embeddings
from .embedding_shards import PRECISIONS, encode_shards
from .models import OpenedModel, open_model

_UNEQUAL_WIDTHS = (
    "pooling='multiscale' has more scales for longer series, so that these rows have unequal widths: choose a number "
    "of steps, or encode series of one length."
)


def encode_command(
    context: typer.Context,
    model: Model,
    input: Annotated[str, typer.Option("--input", "--corpus", help="File, folder, known name or Hub id of a corpus.")],
    output: Annotated[
        Path, typer.Option(help="File to write: .npz, .parquet, .npy or .csv; with --shard-size a folder.")
    ],
    level: Annotated[str, typer.Option(help="One embedding per instance (series), timestamp or window.")] = "instance",
    window_length: Annotated[int | None, typer.Option(help="Steps to look at; default the whole series.")] = None,
    stride: Annotated[int | None, typer.Option(help="Steps by which the window moves on.")] = None,
    causal: Annotated[bool, typer.Option("--causal", help="The window ends with the steps that it encodes.")] = False,
    pooling: Annotated[
        str | None,
        typer.Option(help="max, mean or last; for timestamps a number of steps or multiscale. Default the model's."),
    ] = None,
    normalize: Annotated[bool, typer.Option("--normalize", help="Embeddings of length 1.")] = False,
    truncate_dim: Annotated[
        int | None, typer.Option(min=1, help="First dimensions that are kept; default all.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Series or windows in one forward pass.")] = 32,
    splits: Annotated[str | None, typer.Option(help="Splits to encode, with commas; default all.")] = None,
    shard_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Series of a shard: --output is a folder of Parquet files, for corpora of any size and several "
            "processes; run again, it goes on after the last whole shard.",
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Numbers in shards: float32, float16, or int8 between the ranges of the corpus.")
    ] = "float32",
    domain: Domain = None,
    device: Device = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    data_directory: DataDirectory = None,
) -> None:
    """Turn series into embeddings.

    Raw values are prepared by the feature extractor that is saved beside the model. What `encode` of the model's
    method takes besides the options below is given by its name, too: --mask mask_last.

    Several processes share a corpus by shards: torchrun --nproc_per_node 2 -m hf_tsrep encode ... --shard-size 10000
    """
    processes = launched_processes()
    check_shards(output, shard_size, precision, processes)
    fields = parse_fields(context.args)
    given = take_reading(fields)
    device = device or processes.device
    opened = open_model(model, revision=revision, device=device, trust_remote_code=trust_remote_code)
    further = read_method_arguments(context, opened.model, fields)
    stored = open_parquet_corpus(input) if shard_size is not None and not given else None
    checks_all = shard_size is None  # else every row is looked at when its shard is encoded
    corpus = opened.load_input(input, given, data_directory, checks_all) if stored is None else stored.sample()
    settings: dict[str, Any] = {
        "level": level,
        "window_length": window_length,
        "stride": stride,
        "causal": causal,
        "pooling": int(pooling) if pooling is not None and pooling.isdigit() else pooling,
        "normalize": normalize,
        **({} if truncate_dim is None else {"truncate_dim": truncate_dim}),
        **further,
        **opened.domain_of(domain, input, corpus),
    }
    if shard_size is not None:
        whole = stored if stored is not None else stored_corpus(corpus)
        chosen = chosen_splits(whole.splits, split_at_commas(splits))
        shards = encode_shards(
            whole,
            chosen,
            partial(embed_corpus, opened, settings=settings, batch_size=batch_size, show_progress_bar=False),
            output,
            shard_size=shard_size,
            precision=precision,
            provenance=_lasting_provenance(opened, whole, settings),
            processes=processes,
        )
        if processes.is_first:
            typer.echo(f"{output}: {sum(shard.stop - shard.start for shard in shards)} series, {len(shards)} shards")
        return
    table = encode_corpus(
        opened,
        corpus,
        settings,
        batch_size=batch_size,
        splits=split_at_commas(splits),
        show_progress_bar=not context.find_root().params.get("quiet"),
    )
    files = write_embeddings(output, table)
    rows, size = table.embeddings.shape
    typer.echo(f"{', '.join(map(str, files))}: {rows} embeddings of {size} numbers")


def check_shards(output: Path, shard_size: int | None, precision: str, processes: Processes) -> None:
    """Refuse an output that cannot be written as it is asked for, before anything is computed.

    Raises:
        SettingsError: Precision or several processes without shards, or an unknown precision.
        ValueError: See `check_output`.
    """
    if precision not in PRECISIONS:
        hint = near_matches(precision, PRECISIONS)
        raise SettingsError(f"--precision {precision} is none of {', '.join(PRECISIONS)}.{hint}")
    if shard_size is None:
        if processes.count > 1:
            raise SettingsError(
                f"{processes.count} processes would write one file: share the work with --shard-size, or start one."
            )
        if precision != PRECISIONS[0]:
            raise SettingsError(f"--precision {precision} needs --shard-size: a single file holds float32.")
        check_output(output, SUFFIXES)
    elif output.suffix.lower() in SUFFIXES or output.is_file():
        raise SettingsError(f"--output {output}: with --shard-size it is a folder. Name one.")


def read_method_arguments(context: typer.Context, model: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Turn what was written on the command line into those arguments of `encode` that only the model's method has.

    Args:
        context: The command's.
        model: Its `encode` declares them as arguments that are given by name.
        fields: Text by name.

    Returns:
        Values by name.

    Raises:
        UsageError: The method has no such argument, with the near matches.
    """
    parameters = inspect.signature(model.encode).parameters.values()
    known = [one.name for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY]
    check_names(context, fields, known, f"encode with {type(model).__name__}")
    return {name: read_value(value, is_list=False) for name, value in fields.items()}


def encode_corpus(
    opened: OpenedModel,
    corpus: Any,
    settings: dict[str, Any],
    *,
    batch_size: int = 32,
    splits: Sequence[str] | None = None,
    show_progress_bar: bool | None = None,
) -> EmbeddingTable:
    """Encode every series of a corpus.

    Args:
        opened: The model, with its preparation.
        corpus: From `load_corpus`, raw values.
        settings: Level, window_length, stride, causal, pooling, normalize, and what the model's method takes besides;
            see `encode`.
        batch_size: Series or windows in one forward pass.
        splits: Splits to encode; None for all.
        show_progress_bar: See `encode`.

    Returns:
        One row an embedding, in the order of the splits, their series and their steps.

    Raises:
        ValueError: An unknown split, or channels that the model does not take.
    """
    table = embed_corpus(opened, corpus, settings, batch_size, splits, show_progress_bar)
    table.provenance = _provenance(opened, corpus, settings, table.embeddings.shape[1])
    return table


def embed_corpus(
    opened: OpenedModel,
    corpus: Any,
    settings: dict[str, Any],
    batch_size: int = 32,
    splits: Sequence[str] | None = None,
    show_progress_bar: bool | None = None,
) -> EmbeddingTable:
    """Encode every series of a corpus; see `encode_corpus`, whose table also tells where its numbers come from."""
    from ..data import SeriesList, corpus_metadata, get_series

    chosen = chosen_splits(corpus, splits)
    told = {"domain": settings["domain"]} if "domain" in settings else {}
    preparation = opened.model.preparation_for(**told)
    channels = channels_of_model(preparation, corpus_metadata(corpus).channel_names)
    blocks: list[np.ndarray] = []
    columns: dict[str, list[np.ndarray]] = {}
    for name in chosen:
        whole_series = get_series(corpus[name])
        series = SeriesList(one if channels is None else one[:, channels] for one in whole_series)
        embeddings = opened.model.encode(
            series,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            timestamps=dates_of_model(preparation, corpus[name]),
            **settings,
        )
        if settings["level"] != "instance":
            if len({one.shape[-1] for one in embeddings}) > 1:
                raise ValueError(_UNEQUAL_WIDTHS)
            embeddings = np.concatenate(list(embeddings))
        blocks.append(embeddings)
        for key, values in _row_columns(corpus, name, series, settings).items():
            columns.setdefault(key, []).append(values)
    whole = {key: np.concatenate(parts) for key, parts in columns.items() if len(parts) == len(chosen)}
    widths = {one.shape[-1] for one in blocks}
    if len(widths) > 1:
        raise ValueError(_UNEQUAL_WIDTHS)
    return EmbeddingTable(np.concatenate(blocks), whole)


def _row_columns(corpus: Any, split: str, series: list[np.ndarray], settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return what describes the embeddings of a split, one value a row."""
    from ..data import get_timestamps

    dataset = corpus[split]
    lengths = np.asarray([len(one) for one in series])
    counts = np.ones(len(series), dtype=np.int64)
    steps: dict[str, np.ndarray] = {}
    if settings["level"] == "timestamp":
        counts = lengths
        steps["step"] = np.concatenate([np.arange(length) for length in lengths])
        dates = get_timestamps(dataset) if "timestamp" in dataset.column_names else []
        if len(dates) and all(len(one) for one in dates):
            steps["timestamp"] = np.concatenate(dates)
    elif settings["level"] == "window":
        starts = [_window_starts(length, settings["window_length"], settings["stride"]) for length in lengths]
        counts = np.asarray([len(one) for one in starts])
        steps["window_start"] = np.concatenate(starts)
        steps["window_end"] = np.minimum(steps["window_start"] + settings["window_length"], np.repeat(lengths, counts))
    columns = {
        "item_id": np.repeat(np.asarray([str(one) for one in dataset["item_id"]]), counts),
        "split": np.repeat(np.asarray([split]), counts.sum()),
    }
    labels = label_names(dataset)
    if labels is not None:
        columns["label"] = np.repeat(np.asarray(labels), counts)
    return {**columns, **steps}


def _window_starts(length: int, window_length: int, stride: int | None) -> np.ndarray:
    """Return where the windows of a series begin: as long as a window brings steps that the one before it had not."""
    stride = stride or window_length
    count = 1 + max(0, -(-(length - window_length) // stride))
    starts = np.arange(count) * stride
    return starts[starts < length]


def _asked(opened: OpenedModel, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings as provenance tells them."""
    pooling = settings["pooling"]
    if pooling is None and settings["level"] != "timestamp":
        pooling = opened.model.config.pooling
    return {**settings, "pooling": pooling}


def _lasting_provenance(opened: OpenedModel, corpus: StoredCorpus, settings: dict[str, Any]) -> dict[str, Any]:
    """Return where the numbers come from, without the hour: a run that is gone on with writes the same."""
    told = answer_provenance(opened.model, _asked(opened, settings), name=opened.name, revision=opened.revision)
    del told["date"]
    return {**told, "corpus": Path(corpus.metadata.name).name, "corpus_fingerprint": corpus.fingerprint}


def _provenance(opened: OpenedModel, corpus: Any, settings: dict[str, Any], embedding_size: int) -> dict[str, Any]:
    asked = {"embedding_size": embedding_size, **_asked(opened, settings)}
    return answer_provenance(opened.model, asked, name=opened.name, revision=opened.revision, corpus=corpus)
