"""Writing a corpus in the Hub's layout: Parquet files and a dataset card."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from ..files import written_atomically
from .corpus import METADATA_KEY, CorpusError, CorpusMetadata, corpus_fingerprint, corpus_metadata, get_series
from .loading import load_corpus

logger = logging.getLogger(__name__)

TASK_CATEGORIES = {
    "classification": "tabular-classification",
    "regression": "tabular-regression",
    "forecasting": "time-series-forecasting",
    "anomaly": "other",
    "unlabelled": "feature-extraction",
}
SIZE_CATEGORIES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
MAX_BYTES_PER_FILE = 500_000_000

CARD_TEXT = """
# {name}

A corpus of time series in the format of hf_tsrep: one row a series.

```python
from hf_tsrep.data import load_corpus

corpus = load_corpus("{place}")
```

| split | series | steps |
|---|---|---|
{split_rows}

| column | type |
|---|---|
{column_rows}

Missing values are NaN. Channels: {channels}.

- Task: {task}
- Frequency: {freq}
- Scaling: {scaling}
- Licence: {licence}
- Source: {source} {url}
- Citation: {citation}
- Fingerprint of the values (`corpus_fingerprint`): `{fingerprint}`
{notes}"""


def prepare_corpus(
    name_or_path: Any,
    output_directory: str | Path | None = None,
    *,
    push_to_hub: str | None = None,
    private: bool = False,
    token: str | bool | None = None,
    overwrite: bool = False,
    **load_arguments: Any,
) -> Path | None:
    """Write a corpus as Parquet with a dataset card, and publish it when asked.

    The folder appears complete or not at all. `load_corpus(output_directory)` gives the equal corpus and metadata.

    Args:
        name_or_path: What `load_corpus` takes.
        output_directory: The folder to write; None writes nothing that stays (with `push_to_hub`).
        push_to_hub: Id of the dataset repository to create or update.
        private: Whether a new repository is private.
        token: Access token.
        overwrite: Whether an existing folder is replaced.
        load_arguments: Further arguments of `load_corpus`.

    Returns:
        The folder, or None where none was asked for.

    Raises:
        CorpusError: Nothing to do; the folder exists; the licence forbids to publish changed copies; or see
            `load_corpus`.
    """
    if output_directory is None and push_to_hub is None:
        raise CorpusError("Nothing to do: give output_directory, push_to_hub or both.")
    target = None if output_directory is None else Path(output_directory)
    if target is not None and target.exists() and not overwrite:
        raise CorpusError(f"{target} exists already; choose another folder, or pass overwrite=True.")
    if load_arguments.pop("streaming", False):
        raise CorpusError("A corpus cannot be prepared from a stream: load it without streaming.")
    corpus = load_corpus(name_or_path, token=token, **load_arguments)
    metadata = corpus_metadata(corpus)
    _check_licence(metadata, publishing=push_to_hub is not None)
    place = tempfile.TemporaryDirectory() if target is None else written_atomically(target, overwrite)
    with place as draft:
        _write(corpus, metadata, Path(draft), push_to_hub or str(target))
        if push_to_hub is not None:
            _push(Path(draft), push_to_hub, private, token)
    return target


def _check_licence(metadata: CorpusMetadata, *, publishing: bool) -> None:
    if "-nd" not in metadata.licence:
        return
    message = (
        f"{metadata.name} is licensed {metadata.licence}: no changed copy of it may be published ({metadata.url})."
    )
    if publishing:
        raise CorpusError(f"{message} Write it to a local folder instead, and let others load it by its name.")
    logger.warning("%s The folder is for your own use.", message)


def _write(corpus: Any, metadata: CorpusMetadata, folder: Path, place: str) -> None:
    (folder / "data").mkdir()
    for name, split in corpus.items():
        num_files = max(1, min(len(split), -(-split.data.nbytes // MAX_BYTES_PER_FILE)))
        for index in range(num_files):
            part = split.shard(num_files, index, contiguous=True) if num_files > 1 else split
            part.to_parquet(folder / "data" / f"{name}-{index:05d}-of-{num_files:05d}.parquet")
    (folder / "README.md").write_text(_card(corpus, metadata, place), encoding="utf-8")


def _card(corpus: Any, metadata: CorpusMetadata, place: str) -> str:
    from datasets import DatasetInfo
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    first = next(iter(corpus.values()))
    num_series = sum(len(split) for split in corpus.values())
    stored: dict[str, Any] = {METADATA_KEY: metadata.to_dict()}
    data = DatasetCardData(
        license=metadata.licence,
        pretty_name=metadata.name,
        task_categories=[TASK_CATEGORIES[metadata.task]],
        tags=["timeseries", "hf_tsrep"],
        size_categories=[next((name for bound, name in SIZE_CATEGORIES if num_series < bound), "n>1M")],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": f"data/{name}-*.parquet"} for name in corpus],
            }
        ],
        **stored,
    )
    DatasetInfosDict({"default": DatasetInfo(features=first.features)}).to_dataset_card_data(data)
    text = CARD_TEXT.format(
        name=metadata.name,
        place=place,
        split_rows="\n".join(_split_row(name, split) for name, split in corpus.items()),
        column_rows="\n".join(f"| `{name}` | {_feature_text(feature)} |" for name, feature in first.features.items()),
        channels=", ".join(metadata.channel_names[:50]) or "unnamed",
        task=metadata.task,
        freq=metadata.freq or "unknown",
        scaling="none (raw values)" if metadata.scaler is None else f"{metadata.scaler['kind']}, fitted on train",
        licence=metadata.licence,
        source=metadata.source or "unknown",
        url=metadata.url,
        citation=metadata.citation or "unknown",
        fingerprint=corpus_fingerprint(corpus),
        notes="".join(f"- {note}\n" for note in metadata.notes),
    )
    return f"---\n{data.to_yaml()}\n---\n{text}"


def _split_row(name: str, split: Any) -> str:
    lengths = [len(series) for series in get_series(split)]
    shortest, longest = min(lengths), max(lengths)
    return (
        f"| {name} | {len(lengths):,} | {longest:,} |"
        if shortest == longest
        else (f"| {name} | {len(lengths):,} | {shortest:,} to {longest:,} |")
    )


def _feature_text(feature: Any) -> str:
    if hasattr(feature, "names"):
        names = ", ".join(feature.names[:20])
        return f"ClassLabel of {feature.num_classes}: {names}{', ...' if feature.num_classes > 20 else ''}"
    return f"`{feature}`"


def _push(folder: Path, repository: str, private: bool, token: str | bool | None) -> None:
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
    api.upload_folder(
        folder_path=folder, repo_id=repository, repo_type="dataset", commit_message="Write the corpus and its card"
    )
    logger.info("The corpus was published as %s.", repository)
