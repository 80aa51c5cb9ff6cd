"""What a fine-tuning learns to tell of a series: its class, several labels at once, or a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...data import get_labels, get_target_values
from ...data.scaling import TARGET_SCALER, ChannelScaler
from ...inference.inputs import label_names

BETWEEN_LABELS = ";"


@dataclass(frozen=True)
class Labels:
    """Labels of the parts of a corpus.

    Args:
        names: Names of the classes or labels, or of the number.
        of_parts: By part: class ids (num_series,) int64, labels (num_series, num_labels) float32 of 0 and 1, or
            numbers (num_series,) float32.
        problem_type: As transformers names it.
    """

    names: list[str]
    of_parts: dict[str, np.ndarray]
    problem_type: str


def read_labels(task: str, corpus: Any, parts: Sequence[str], label_column: str | None) -> Labels:
    """Read what a task learns of every series.

    Args:
        task: "classification", "multi-label" or "regression".
        corpus: From `load_corpus`.
        parts: Splits to read.
        label_column: What the column of a table was called, the name of the number.

    Raises:
        ValueError: The corpus has no such labels; the message says what to do.
    """
    if task == "regression":
        numbers = {name: get_target_values(corpus[name]) for name in parts}
        return Labels([label_column or "target_value"], numbers, "regression")
    if task == "multi-label":
        return _several_labels(corpus, parts)
    names = _class_names(corpus)
    return Labels(names, {name: get_labels(corpus[name]) for name in parts}, "single_label_classification")


def _several_labels(corpus: Any, parts: Sequence[str]) -> Labels:
    """Read labels such as "worn;noisy", of which every part between the semicolons is one."""
    texts = {name: label_names(corpus[name]) for name in parts}
    if any(one is None for one in texts.values()):
        raise ValueError("The corpus has no labels, which task=multi-label needs; name the column with label_column.")
    sets = {
        name: [{label.strip() for label in text.split(BETWEEN_LABELS) if label.strip()} for text in known or ()]
        for name, known in texts.items()
    }
    names = sorted(set().union(*(one for known in sets.values() for one in known)))
    if len(names) < 2:
        raise ValueError(f"The corpus has one label only ({names}); names of several stand between semicolons.")
    arrays = {
        name: np.asarray([[label in one for label in names] for one in known], dtype=np.float32)
        for name, known in sets.items()
    }
    return Labels(names, arrays, "multi_label_classification")


def label_statistics(numbers: np.ndarray) -> dict[str, list[float]]:
    """Return mean and deviation of target values (num_series,) for a config; equal ones have deviation 1."""
    scaler = ChannelScaler.fit([numbers[:, None]], kind=TARGET_SCALER)
    return {"label_mean": scaler.mean.tolist(), "label_scale": scaler.scale.tolist()}


def _class_names(corpus: Any) -> list[str]:
    feature = corpus["train"].features.get("label")
    if feature is None:
        raise ValueError(
            "The corpus has no labels, which task=classification needs; name the column with label_column, or choose "
            "task=forecasting, or task=regression for target values."
        )
    names = getattr(feature, "names", None)
    if names is None:
        highest = max(int(np.max(corpus[name]["label"])) for name in corpus)
        names = [str(index) for index in range(highest + 1)]
    if len(names) < 2:
        raise ValueError(f"The corpus has one class only ({names}); a classifier needs at least two.")
    return [str(name) for name in names]
