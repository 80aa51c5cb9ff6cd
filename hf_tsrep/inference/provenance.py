"""Where an answer comes from: which weights, which preparation, which versions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..results import environment_versions

_FIELDS_OF_A_PREPARATION = (
    "num_channels",
    "channel_names",
    "mean",
    "scale",
    "time_features",
    "time_feature_mean",
    "time_feature_scale",
)


def answer_provenance(
    model: Any,
    settings: Mapping[str, Any],
    *,
    name: str | None = None,
    revision: str | None = None,
    corpus: Any = None,
) -> dict[str, Any]:
    """Describe where the numbers of an answer come from, in plain JSON types; no path of a machine is in it.

    Args:
        model: The model, with its preparation.
        settings: What it was asked for.
        name: Hub id, or name of the folder; None for what the model itself knows.
        revision: Commit on the Hub; None for what the model itself knows.
        corpus: The corpus that it was asked about, from `load_corpus`, or None.
    """
    config: Any = getattr(model, "config", None)
    known = str(getattr(config, "name_or_path", "") or "")
    preparation = getattr(model, "preparation", None)
    return {
        "model": name or (Path(known).name if Path(known).exists() else known) or type(model).__name__,
        "revision": revision or getattr(config, "_commit_hash", None),
        "weights_sha256": weights_fingerprint(model) if hasattr(model, "state_dict") else None,
        "method": getattr(config, "model_type", None),
        **settings,
        "preparation": None if preparation is None else preparation_facts(preparation),
        **({} if corpus is None else corpus_facts(corpus)),
        "versions": environment_versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def corpus_facts(corpus: Any) -> dict[str, str]:
    """Return the name and the fingerprint of a corpus."""
    from ..data import corpus_fingerprint, corpus_metadata

    name = corpus_metadata(corpus).name
    return {
        "corpus": Path(name).name if Path(name).exists() else name,
        "corpus_fingerprint": corpus_fingerprint(corpus),
    }


def preparation_facts(extractor: Any) -> dict[str, Any]:
    """Return what a TimeSeriesFeatureExtractor does to raw series."""
    return {name: value for name in _FIELDS_OF_A_PREPARATION if (value := getattr(extractor, name)) is not None}


def weights_fingerprint(model: Any) -> str:
    """Return a sha256 over names, shapes and values of the parameters: what identifies a model that has no commit."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
