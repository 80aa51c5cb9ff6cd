"""The protocols by name, and one function that runs any of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .anomaly import evaluate_anomaly_detection
from .checks import require_names
from .classification import evaluate_classification
from .clustering import evaluate_clustering
from .finetuned import evaluate_finetune, evaluate_linear
from .forecasting import evaluate_forecasting

PROTOCOLS: dict[str, Callable[..., dict[str, Any]]] = {
    "forecasting": evaluate_forecasting,
    "classification": evaluate_classification,
    "anomaly": evaluate_anomaly_detection,
    "clustering": evaluate_clustering,
    "linear": evaluate_linear,
    "finetune": evaluate_finetune,
}


def protocol_settings(protocol: str) -> dict[str, Any]:
    """Return the settings of a protocol and their defaults.

    Raises:
        ValueError: unknown protocol, with near matches.
    """
    require_names([protocol], tuple(PROTOCOLS), "protocol")
    parameters = inspect.signature(PROTOCOLS[protocol]).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}


def evaluate(model: Any, corpus: Any, protocol: str, **settings: Any) -> dict[str, Any]:
    """Evaluate a model on a corpus.

    Args:
        model: anything with `encode`.
        corpus: from `hf_tsrep.data.load_corpus`.
        protocol: `forecasting`, `classification`, `anomaly`, `clustering`, `linear` or `finetune`.
        **settings: of the protocol, see the function in `PROTOCOLS`.

    Returns:
        `metrics` (flat name -> number), `details`, `timings` (seconds) and `settings`; `make_result` turns it into a
        record for `write_results`.

    Raises:
        ValueError: unknown protocol or setting; the message gives near matches.
    """
    known = tuple(protocol_settings(protocol))
    for name in settings:
        require_names([name], known, f"setting of the {protocol} protocol")
    return PROTOCOLS[protocol](model, corpus, **settings)
