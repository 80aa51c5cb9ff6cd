"""Domains in training: their fields in layers of settings, and their series."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .field_types import SettingsError, coerce
from .settings_layers import Layers


def merge_domain_fields(layers: Layers, model_fields: Sequence[str]) -> list[tuple[Mapping[str, Any], str]]:
    """Put `domains` of all layers together; a field for all domains goes before the domain's own of a lower layer.

    Args:
        layers: Values by name with what to call their source; the first goes before the second, and so on.
        model_fields: Fields that can be given for all domains, or for one in `domains`.

    Returns:
        The layers, with `domains` in the first that gives it only.

    Raises:
        SettingsError: `domains` is no mapping of mappings, or has an unknown field; the message names the near match.
    """
    merged: dict[str, dict[str, Any]] = {}
    for values, where in reversed(layers):
        for fields in merged.values():
            for name in set(fields) & set(values):
                del fields[name]
        given = coerce("domains", values.get("domains") or {}, dict[str, Any], where)
        for domain, fields in given.items():
            if not isinstance(fields, Mapping):
                raise SettingsError(
                    f"domains of {domain!r} ({where}) is {fields!r}; expected fields of the domain, such as "
                    f"{{{domain}: {{patch_length: 4}}}}."
                )
            for name in fields:
                if name not in model_fields:
                    near = difflib.get_close_matches(str(name), model_fields, n=1)
                    hint = f" Did you mean {near[0]!r}?" if near else ""
                    raise SettingsError(f"Unknown field {name!r} of domain {domain!r} ({where}).{hint}")
            merged.setdefault(str(domain), {}).update(fields)
    placed = False
    result: list[tuple[Mapping[str, Any], str]] = []
    for values, where in layers:
        rest = {name: value for name, value in values.items() if name != "domains"}
        if "domains" in values and not placed:
            rest["domains"], placed = merged, True
        result.append((rest, where))
    return result


# Where the series come from that a domain is measured on; the last were trained on.
VALIDATION_PART = "validation part"
HELD_OUT = "training series kept back"
TRAINING_SERIES = "training series"


@dataclass
class DomainSeries:
    """The series of one domain.

    Args:
        name: Name of the domain.
        names: Other names that it goes by, the domain's own first; see domain_names.
        series: Training series, arrays (time, num_input_channels) float32, each beginning at its first observed step.
        items: One name a training series.
        validation: Series to measure on, alike.
        metadata: `hf_tsrep.data.CorpusMetadata`.
        corpus: The corpus, every split.
        measured_on: What `validation` is: one of VALIDATION_PART, HELD_OUT and TRAINING_SERIES.
    """

    name: str
    names: list[str]
    series: list[np.ndarray]
    items: list[str]
    validation: list[np.ndarray]
    metadata: Any
    corpus: Any
    measured_on: str

    @property
    def num_input_channels(self) -> int:
        """Number of channels."""
        return self.series[0].shape[1]

    @property
    def num_elements(self) -> int:
        """Numbers in the training series."""
        return sum(one.size for one in self.series)


def observed_span(series: np.ndarray) -> np.ndarray:
    """Return a series (time, num_channels) from its first to its last step with an observed value; a view."""
    steps = np.flatnonzero(~np.isnan(series).all(axis=1))
    return series[steps[0] : steps[-1] + 1] if len(steps) else series[:0]


def cut_evenly(series: np.ndarray, longest: int | None) -> list[np.ndarray]:
    """Cut a series into the fewest pieces of at most `longest` steps, equal up to one step; views."""
    if longest is None or len(series) <= longest:
        return [series]
    return np.array_split(series, -(-len(series) // longest))


def hold_out(num_series: int, fraction: float, seed: int) -> np.ndarray:
    """Return which series are kept for validation: (num_series,) bool, drawn by the seed; never all of them."""
    held = np.zeros(num_series, dtype=bool)
    count = min(round(num_series * fraction), num_series - 1)
    held[np.random.default_rng(seed).permutation(num_series)[:count]] = True
    return held
