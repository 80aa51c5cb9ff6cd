"""The protocols on frozen embeddings by name, and one function that runs any protocol."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..data import corpus_fingerprint, corpus_metadata
from ..results import EvaluationResult, environment_versions, plain_values, source_commit
from .anomaly import evaluate_anomaly_detection
from .checks import require_names
from .classification import evaluate_classification
from .clustering import evaluate_clustering
from .forecasting import evaluate_forecasting
from .generation import evaluate_generation

Protocol = Callable[..., dict[str, Any]]

PROTOCOLS: dict[str, Protocol] = {
    "forecasting": evaluate_forecasting,
    "classification": evaluate_classification,
    "anomaly": evaluate_anomaly_detection,
    "clustering": evaluate_clustering,
    "generation": evaluate_generation,
}


def settings_of(protocol: str, protocols: Mapping[str, Protocol]) -> dict[str, Any]:
    """Return the settings of a protocol and their defaults.

    Args:
        protocol: Its name.
        protocols: The protocols that there are.

    Raises:
        ValueError: Unknown protocol, with near matches.
    """
    require_names([protocol], tuple(protocols), "protocol")
    parameters = inspect.signature(protocols[protocol]).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}


def run_protocol(
    protocol: str, protocols: Mapping[str, Protocol], model: Any, corpus: Any, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Evaluate a model on a corpus by one of several protocols.

    Args:
        protocol: Its name.
        protocols: The protocols that there are.
        model: Anything with `encode`.
        corpus: From `hf_tsrep.data.load_corpus`.
        settings: Settings of the protocol.

    Returns:
        `metrics` (flat name -> number), `details`, `timings` (seconds) and `settings`; `make_result` turns it into a
        record for `write_results`.

    Raises:
        ValueError: Unknown protocol or setting; the message gives near matches.
    """
    known = tuple(settings_of(protocol, protocols))
    for name in settings:
        require_names([name], known, f"setting of the {protocol} protocol")
    return protocols[protocol](model, corpus, **settings)


def make_result(
    model: Any,
    corpus: Any,
    protocol: str,
    outcome: Mapping[str, Any],
    *,
    seed: int = 0,
    model_name: str | None = None,
    corpus_name: str | None = None,
    fingerprint: str | None = None,
) -> EvaluationResult:
    """Return the record of a protocol's outcome, with everything that is known about its circumstances.

    Args:
        model: The evaluated model.
        corpus: The evaluated corpus, from `hf_tsrep.data.load_corpus`.
        protocol: Name of the protocol.
        outcome: What the protocol returned: `metrics`, `details`, `timings`, `settings`.
        seed: See `EvaluationResult`.
        model_name: Hub id or folder; default from the model's config. Of a local folder only the name is kept.
        corpus_name: Default from the corpus' metadata.
        fingerprint: Of the corpus; default `corpus_fingerprint` of it, which reads all of it.
    """
    config = getattr(model, "config", None)
    name = model_name or str(getattr(config, "name_or_path", "") or getattr(model, "name_or_path", "") or "")
    return EvaluationResult(
        protocol=protocol,
        corpus=corpus_name or corpus_metadata(corpus).name,
        metrics=dict(outcome["metrics"]),
        model=Path(name).resolve().name if name and (os.path.isabs(name) or os.path.isdir(name)) else name,
        method=str(getattr(config, "model_type", "") or type(model).__name__),
        seed=seed,
        revision=getattr(config, "_commit_hash", None),
        commit=source_commit(),
        corpus_fingerprint=fingerprint or corpus_fingerprint(corpus),
        settings=plain_values(outcome.get("settings", {})),
        details=plain_values(outcome.get("details")),
        timings={key: round(float(value), 4) for key, value in outcome.get("timings", {}).items()},
        versions=environment_versions(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )
