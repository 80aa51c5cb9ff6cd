"""Folders that appear complete or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_tsrep.data import CorpusMetadata
    from hf_tsrep.tokenization.feature_extraction_time_series import TimeSeriesFeatureExtractor


class IncompleteModelError(ValueError):
    """A model folder may not be published; the message lists everything that is wrong with it."""


@contextmanager
def written_atomically(folder: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Give a draft beside `folder`, which takes its place when the block ends without an error and vanishes otherwise.

    Args:
        folder: The folder to write; its parents are created.
        overwrite: Whether an existing folder is replaced. An empty one always is.

    Yields:
        An empty folder.

    Raises:
        FileExistsError: `folder` is a file, or a folder that is not empty and `overwrite` is False.
    """
    target = Path(folder)
    is_occupied = target.exists() and (not target.is_dir() or any(target.iterdir()))
    if is_occupied and not (overwrite and target.is_dir()):
        raise FileExistsError(f"{target} exists already; choose another folder, or pass overwrite=True.")
    target.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        draft = workshop / "new"
        draft.mkdir()
        yield draft
        if target.exists():
            target.rename(workshop / "old")
        try:
            draft.rename(target)
        except OSError:
            if (workshop / "old").exists():
                (workshop / "old").rename(target)
            raise
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


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
