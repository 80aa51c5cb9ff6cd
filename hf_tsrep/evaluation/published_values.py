"""What a printed number is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedValue:
    """One printed number.

    Attributes:
        value: as printed.
        source: paper and table.
        note: what differs from the corpus it is looked up for; empty where nothing does.
    """

    value: float
    source: str
    note: str = ""


PublishedTable = dict[tuple[str, str, str], PublishedValue]  # by corpus in lower case, setting and metric


def add_errors(
    table: PublishedTable,
    corpus: str,
    settings: Sequence[str],
    horizons: Sequence[int],
    errors: Sequence[tuple[float, float]],
    source: str,
    note: str = "",
) -> None:
    """Add the MSE and MAE of forecasts.

    Args:
        table: What is added to.
        corpus: Name of the corpus.
        settings: What runs that are set beside the numbers call themselves.
        horizons: Numbers of predicted steps.
        errors: MSE and MAE at each.
        source: Paper and table.
        note: See PublishedValue.
    """
    for horizon, pair in zip(horizons, errors, strict=True):
        for metric, value in zip(("mse", "mae"), pair, strict=True):
            for setting in settings:
                table[corpus.lower(), setting, f"{metric}_{horizon}"] = PublishedValue(value, source, note)
