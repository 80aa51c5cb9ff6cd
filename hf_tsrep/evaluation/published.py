"""Numbers of the papers, to be set beside our own. Facts of the methods' cards, not results of this library.

The values stand as they are printed. `note` says what differs from the run they are set beside, `selection` on which
data the printed number was chosen.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..registry import METHODS

_OF_AN_ENTRY = ("corpus", "settings", "horizons", "metric", "values", "source", "note", "selection")


@dataclass(frozen=True)
class PublishedValue:
    """One printed number.

    Args:
        value: As printed.
        source: Paper and table.
        note: What differs from the run it is set beside; empty where nothing does.
        selection: How the printed number was chosen.
    """

    value: float
    source: str
    note: str = ""
    selection: str = ""


def published_value(method: str, corpus: str, setting: str, metric: str) -> PublishedValue | None:
    """Return the printed number for a result of this library, or None where none is known.

    Args:
        method: Model type.
        corpus: Name of the corpus, such as `ett/ETTh1`.
        setting: `multivariate` or `univariate`, `normal` or `cold-start`; anything for a number of any setting.
        metric: Flat name, such as `mse_24`, `svm_accuracy` or `f1`.
    """
    table = published_numbers(method.lower())
    name = corpus.lower()
    for known, value in table.items():
        pattern, of_setting, of_metric = known
        if of_metric == metric and of_setting in (setting, "") and fnmatch.fnmatchcase(name, pattern):
            return value
    return None


@cache
def published_numbers(method: str) -> dict[tuple[str, str, str], PublishedValue]:
    """Return the numbers of a method's card.

    Args:
        method: Model type; one without a card has none.

    Returns:
        Numbers by corpus (in lower case, `*` for any text), setting (empty for any) and metric.
    """
    entries = METHODS[method].facts.get("published", ()) if method in METHODS else ()
    return {key: value for entry in entries for key, value in _numbers_of(entry)}


def _numbers_of(entry: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str, str], PublishedValue]]:
    """Yield the numbers of one entry of a card: one metric on many corpora, or metrics on one, perhaps by horizon."""
    told = {name: str(entry.get(name, "")) for name in ("source", "note", "selection")}
    if "values" in entry:
        rows = [(corpus, entry["metric"], value) for corpus, value in entry["values"].items()]
    else:
        metrics = {name: value for name, value in entry.items() if name not in _OF_AN_ENTRY}
        rows = [
            (entry["corpus"], name if horizon is None else f"{name}_{horizon}", value)
            for name, values in metrics.items()
            for horizon, value in zip(entry.get("horizons", [None]), _as_list(values), strict=True)
        ]
    for corpus, metric, value in rows:
        for setting in entry["settings"]:
            yield (corpus.lower(), setting, metric), PublishedValue(float(value), **told)


def _as_list(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]
