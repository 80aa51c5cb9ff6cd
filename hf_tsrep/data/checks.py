"""What every series of a corpus must be, whether it was read from text or lies in Arrow files already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import SettingsError
from .corpus import (
    CorpusError,
    RawCorpus,
    SeriesRecord,
    default_channel_names,
    get_anomaly_labels,
    get_series,
    get_timestamps,
)

LARGEST = float(np.finfo(np.float32).max)


def check_channel_order(known: Sequence[str], given: Sequence[str], corpus: str, reader: str) -> None:
    """Refuse channels of the same names in another order, of which one would be taken for another.

    Args:
        known: Names in the order in which they are read; empty where nobody knows them.
        given: Names of the corpus's channels.
        corpus: What the message calls the corpus.
        reader: What the message calls that which reads them.

    Raises:
        SettingsError: The message names both orders and the fix.
    """
    if list(known) != list(given) and sorted(known) == sorted(given):
        raise SettingsError(
            f"{corpus} has the channels {', '.join(given)}; {reader} has them as {', '.join(known)}. "
            f"Say target={','.join(known)} (--target), which puts them in order."
        )


def check_corpus(corpus: RawCorpus, name: str, check_values: bool = True) -> None:
    """Check every record and that there is at least one.

    Args:
        corpus: The records.
        name: Name of the corpus, for messages.
        check_values: Whether values are looked at too; see `load_corpus`.

    Raises:
        CorpusError: See `check_record`; or no split, or an empty split.
    """
    if not corpus.splits:
        raise CorpusError(f"{name}: no series were found.")
    for split, records in corpus.splits.items():
        if not records:
            raise CorpusError(f"{name}, split {split!r}: no rows. Remove the split or give it series.")
        for record in records:
            check_record(record, corpus.channel_names, check_values)


def check_record(record: SeriesRecord, channel_names: tuple[str, ...], check_values: bool = True) -> None:
    """Refuse a series that no encoder can use.

    Args:
        record: The series.
        channel_names: Names of the channels.
        check_values: Whether its values are looked at too.

    Raises:
        CorpusError: No steps, another number of channels than `channel_names`, infinite values or such that float32
            cannot hold, nothing observed, or a target that is no finite number.
    """
    place = record.origin or f"series {record.item_id!r}"
    values = record.values
    if values.ndim != 2 or values.shape[0] == 0 or values.shape[1] == 0:
        raise CorpusError(f"{place}: the series has shape {values.shape}; it needs at least one step and one channel.")
    if values.shape[1] != len(channel_names):
        raise CorpusError(
            f"{place}: {values.shape[1]} channels where the corpus has {len(channel_names)}. "
            "Every series needs the same channels; split the corpus or fill the absent ones with NaN."
        )
    if check_values:
        _check_values(values, channel_names, place)
    if record.target_value is not None and not abs(record.target_value) <= LARGEST:
        raise CorpusError(f"{place}: the target value {record.target_value} is no finite number of float32.")


def _check_values(values: np.ndarray, channel_names: tuple[str, ...], place: str) -> None:
    too_large = np.abs(values) > LARGEST
    if too_large.any():
        step, channel = (int(index) for index in np.argwhere(too_large)[0])
        value = values[step, channel]
        what = (
            "infinite value. Write missing values as NaN or an empty cell."
            if np.isinf(value)
            else f"{value:g} is beyond float32, which ends at {LARGEST:g}. Divide the channel by a constant."
        )
        raise CorpusError(f"{place}, step {step}, column {channel_names[channel]!r}: {what}")
    if np.isnan(values).all():
        raise CorpusError(
            f"{place}: every value is missing. Remove the series, or check how missing values are marked."
        )


def check_datasets(corpus: Mapping[str, Any], channel_names: tuple[str, ...], name: str) -> None:
    """Check splits that are in the format of a corpus already: Parquet of somebody, a folder, the Hub.

    Args:
        corpus: Splits with the column `series`.
        channel_names: Names of the channels; default ones where they do not fit.
        name: Name of the corpus, for messages.

    Raises:
        CorpusError: See `check_record`; or an item that appears twice in a split, a class beyond those of the column,
            or timestamps or anomaly labels that are not one a step.
    """
    for split_name, split in corpus.items():
        place = f"{name}, split {split_name!r}"
        if len(split) == 0:
            raise CorpusError(f"{place}: no rows. Remove the split or give it series.")
        series = get_series(split)
        num_channels = series[0].shape[1]
        names = channel_names if len(channel_names) == num_channels else default_channel_names(num_channels)
        for row, values in enumerate(series):
            check_record(SeriesRecord(values, "", origin=f"{place}, row {row}"), names)
        _check_columns(split, [len(values) for values in series], place)


def faulty_rows(split: Any, channel_names: tuple[str, ...], first_row: int = 0) -> dict[int, str]:
    """Return the rows whose series no encoder can use, with the reasons.

    Args:
        split: Rows with the column `series`.
        channel_names: Names of the channels.
        first_row: Number of the first row in the whole split, for the reasons.

    Returns:
        Reason by place in `split`.
    """
    try:
        _check_rows(split, channel_names, first_row)
        return {}
    except CorpusError:
        pass  # one of them, to be found
    faults: dict[int, str] = {}
    for place in range(len(split)):
        try:
            _check_rows(split.select([place]), channel_names, first_row + place)
        except CorpusError as error:
            faults[place] = str(error)
    return faults


def _check_rows(split: Any, channel_names: tuple[str, ...], first_row: int) -> None:
    series = get_series(split)
    for row, values in enumerate(series, first_row):
        check_record(SeriesRecord(values, "", origin=f"row {row}"), channel_names)
    _check_steps(split, [len(values) for values in series], "", first_row)


def _check_columns(split: Any, lengths: list[int], place: str) -> None:
    _check_items_and_labels(split, place)
    _check_steps(split, lengths, f"{place}, ")


def _check_steps(split: Any, lengths: list[int], place: str, first_row: int = 0) -> None:
    for column, get in (("timestamp", get_timestamps), ("anomaly_label", get_anomaly_labels)):
        if column not in split.column_names:
            continue
        for row, (steps, length) in enumerate(zip(get(split), lengths, strict=True), first_row):
            if len(steps) not in (0, length):
                raise CorpusError(f"{place}row {row}: {len(steps)} of {column!r} for {length} steps.")
            if column == "anomaly_label" and not np.isin(steps, [0, 1]).all():
                raise CorpusError(f"{place}row {row}: an anomaly label is neither 0 nor 1.")


def _check_items_and_labels(split: Any, place: str) -> None:
    if "item_id" in split.column_names:
        items = list(split["item_id"])
        if len(set(items)) != len(items):
            first = {item: row for row, item in reversed(list(enumerate(items)))}
            row = next(row for row, item in enumerate(items) if first[item] != row)
            raise CorpusError(f"{place}, row {row}: the item {items[row]!r} appears twice; give every series its own.")
    _check_labels(split, place)
    if "target_value" in split.column_names:
        for row, target in enumerate(split["target_value"]):
            if target is not None and not abs(target) <= LARGEST:
                raise CorpusError(f"{place}, row {row}: the target value {target} is no finite number.")


def _check_labels(split: Any, place: str) -> None:
    num_classes = getattr(split.features.get("label"), "num_classes", None)
    if num_classes is not None:
        for row, label in enumerate(split["label"]):
            if label is not None and not 0 <= label < num_classes:
                raise CorpusError(f"{place}, row {row}: label {label} is none of the {num_classes} classes.")
    elif "label" in split.column_names:
        for row, label in enumerate(split["label"]):
            if isinstance(label, (int, float)) and not (label >= 0 and float(label).is_integer()):
                raise CorpusError(f"{place}, row {row}: label {label} is no number of a class.")
