"""What a model folder holds beside the model: its error, and the preparation of series."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..modeling.files_time_series import SUMS_FILE, changed_files, is_hidden, read_sums, write_sums

if TYPE_CHECKING:
    from hf_tsrep.data import CorpusMetadata
    from hf_tsrep.tokenization.feature_extraction_time_series import TimeSeriesFeatureExtractor


# Folders that are left behind: caches, and what a training run keeps to be resumed.
_IGNORED_FOLDERS = re.compile(r"\.git|\.cache|__pycache__|\.ipynb_checkpoints|checkpoint-\d+|runs")


class IncompleteModelError(ValueError):
    """A model folder may not be published; the message lists everything that is wrong with it."""


@dataclass(frozen=True)
class FolderCheck:
    """How a folder compares with its SHA256SUMS.

    Args:
        num_files: Number of files that it names.
        changed: "differs" or "is missing", by name, for files that are not as it says.
        unlisted: Names of files that it does not name.
    """

    num_files: int
    changed: dict[str, str]
    unlisted: list[str]


def check_sums(folder: str | Path) -> FolderCheck:
    """Compare every file of a finished folder with its SHA256SUMS, which one flipped bit contradicts.

    Args:
        folder: Folder of a model or a tokenizer.

    Raises:
        FileNotFoundError: There is no such folder, or no SHA256SUMS in it.
        ValueError: SHA256SUMS itself is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    if not (folder / SUMS_FILE).is_file():
        raise FileNotFoundError(
            f"{folder} has no {SUMS_FILE}: an older version wrote it. hf-tsrep check {folder} --accept takes its "
            "files as they are now."
        )
    sums = read_sums(folder)
    names = [path.relative_to(folder).as_posix() for path in published_files(folder) if not is_hidden(path, folder)]
    return FolderCheck(
        len(sums), changed_files(folder), [name for name in names if name not in sums and name != SUMS_FILE]
    )


def accept_files(folder: str | Path) -> int:
    """Write SHA256SUMS of a folder as it is now, after it was changed on purpose.

    Args:
        folder: Folder of a model or a tokenizer.

    Returns:
        Number of its files.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    (folder / SUMS_FILE).unlink(missing_ok=True)
    write_sums(folder, [path for path in published_files(folder) if not is_hidden(path, folder)])
    return len(read_sums(folder))


def published_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a model folder, without caches and what a training run keeps to be resumed."""
    for path in sorted(folder.rglob("*")):
        folders = path.relative_to(folder).parent.parts
        if not any(map(_IGNORED_FOLDERS.fullmatch, folders)) and (path.is_file() or path.is_symlink()):
            yield path


def feature_extractor_of_corpus(metadata: CorpusMetadata) -> TimeSeriesFeatureExtractor:
    """Build the feature extractor that does to raw series what `load_corpus` did to the training series.

    Args:
        metadata: `corpus_metadata` of the corpus that the model was trained on.

    Returns:
        Save it beside the model with `save_pretrained(folder)`.
    """
    from hf_tsrep.tokenization.feature_extraction_time_series import TimeSeriesFeatureExtractor

    scaler: dict[str, Any] = metadata.scaler or {}
    feature_scaler: dict[str, Any] = metadata.time_feature_scaler or {}
    channel_names = metadata.channel_names[metadata.num_time_features :]
    return TimeSeriesFeatureExtractor(
        num_channels=len(channel_names),
        mean=scaler.get("mean"),
        scale=scaler.get("scale"),
        channel_names=channel_names,
        time_features=metadata.num_time_features > 0,
        time_feature_mean=feature_scaler.get("mean"),
        time_feature_scale=feature_scaler.get("scale"),
        frequency=metadata.freq or None,
    )
