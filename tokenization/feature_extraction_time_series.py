"""From raw series to model inputs: channels in order, training statistics, time features, padding.

The statistics are saved beside the model in preprocessor_config.json, so that a model that was trained on scaled
values need never be given raw ones by accident.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, FeatureExtractionMixin

from .files_time_series import sums_kept
from .reading_time_series import (
    PreparedSeries,
    as_numbers,
    checked_series,
    in_layout,
    is_frame,
    is_one_series,
    numbers_of_column,
    separate_series,
)
from .types_time_series import WRITTEN_FIELDS, read_settings, require_types, require_written

TIME_FEATURE_NAMES = ("minute", "hour", "weekday", "day", "day_of_year", "month", "iso_week")


_FILE = "preprocessor_config.json"
# What a file of JSON may hold, and arrays of NumPy.
_FIELD_TYPES: dict[str, Any] = {
    "num_channels": int,
    "mean": Sequence[float] | None,
    "scale": Sequence[float] | None,
    "channel_names": Sequence[str | int] | None,
    "time_features": bool,
    "time_feature_mean": Sequence[float] | None,
    "time_feature_scale": Sequence[float] | None,
    "frequency": str | None,
}


def calendar_features(timestamps: np.ndarray) -> np.ndarray:
    """Return TS2Vec's seven calendar features, not scaled (Yue et al., AAAI 2022, forecasting protocol).

    Args:
        timestamps: (time,) datetime64.

    Returns:
        (time, 7) float64: minute, hour, weekday (Monday = 0), day of the month, day of the year, month, ISO week.
    """
    minutes = timestamps.astype("datetime64[m]")
    hours = timestamps.astype("datetime64[h]")
    days = timestamps.astype("datetime64[D]")
    months = timestamps.astype("datetime64[M]")
    years = timestamps.astype("datetime64[Y]")
    weekday = (days.astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday
    thursday = days - weekday + 3  # an ISO week belongs to the year of its Thursday
    columns = (
        minutes - hours.astype("datetime64[m]"),
        hours - days.astype("datetime64[h]"),
        weekday,
        days - months.astype("datetime64[D]") + 1,
        days - years.astype("datetime64[D]") + 1,
        months - years.astype("datetime64[M]") + 1,
        (thursday - thursday.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64) // 7 + 1,
    )
    return np.stack([column.astype(np.float64) for column in columns], axis=1)


class TimeSeriesFeatureExtractor(FeatureExtractionMixin):
    """Turn raw series into model inputs.

    Args:
        num_channels: Number of channels of a raw series, without time features.
        mean: One number a channel, subtracted; fitted on the training part. None for values as they are.
        scale: One number a channel, not zero, divided by. None for values as they are.
        channel_names: Names of the channels in order; columns of a DataFrame are chosen by them.
        time_features: Whether TS2Vec's seven calendar features come in front of the channels.
        time_feature_mean: Seven numbers subtracted from the calendar features, or None.
        time_feature_scale: Seven numbers that they are divided by, or None.
        frequency: pandas frequency string of the training series, for information.
        kwargs: What transformers stores besides.

    Raises:
        ValueError: The arguments contradict each other.
    """

    model_input_names = ["past_values", "past_observed_mask"]  # noqa: RUF012 - as transformers declares it

    def __init__(
        self,
        num_channels: int = 1,
        mean: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        channel_names: Sequence[str | int] | None = None,
        time_features: bool = False,
        time_feature_mean: Sequence[float] | None = None,
        time_feature_scale: Sequence[float] | None = None,
        frequency: str | None = None,
        **kwargs: Any,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in _FIELD_TYPES}
        require_types(type(self).__name__, given, _FIELD_TYPES)
        super().__init__(**kwargs)
        if num_channels < 1:
            raise ValueError(f"num_channels={num_channels} must be at least 1.")
        num_features = len(TIME_FEATURE_NAMES)
        self.num_channels = int(num_channels)
        self.mean = _channel_statistics("mean", mean, num_channels)
        self.scale = _channel_statistics("scale", scale, num_channels, may_be_zero=False)
        self.channel_names = None if channel_names is None else [str(name) for name in channel_names]
        if self.channel_names is not None and len(self.channel_names) != num_channels:
            raise ValueError(f"channel_names has {len(self.channel_names)} names, but num_channels is {num_channels}.")
        self.time_features = bool(time_features)
        self.time_feature_mean = _channel_statistics("time_feature_mean", time_feature_mean, num_features)
        self.time_feature_scale = _channel_statistics(
            "time_feature_scale", time_feature_scale, num_features, may_be_zero=False
        )
        if not self.time_features and (time_feature_mean is not None or time_feature_scale is not None):
            raise ValueError("time_feature_mean and time_feature_scale need time_features=True.")
        self.frequency = frequency

    @classmethod
    def get_feature_extractor_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Return what a folder holds; see FeatureExtractionMixin.get_feature_extractor_dict.

        Raises:
            ValueError: The file is no JSON; the message names it and the fix.
        """
        path = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "", _FILE)
        if path.is_file():
            read_settings(path)
        return super().get_feature_extractor_dict(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_dict(cls, feature_extractor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Make an extractor of what a folder holds; see FeatureExtractionMixin.from_dict.

        Raises:
            ValueError: It is no mapping, or a value is of another type than its field or was deleted.
        """
        owner = cls.__name__
        require_types(owner, {_FILE: feature_extractor_dict}, {_FILE: dict})
        values = dict(feature_extractor_dict)
        require_written(owner, _FILE, values, values.pop(WRITTEN_FIELDS, []))
        require_types(owner, values, {"auto_map": dict[str, str], "feature_extractor_type": str})
        return super().from_dict(values, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return what preprocessor_config.json holds; see FeatureExtractionMixin.to_dict."""
        values = super().to_dict()
        return {**values, WRITTEN_FIELDS: sorted(set(_FIELD_TYPES) & set(values))}

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Save the settings and the code; see FeatureExtractionMixin.save_pretrained."""
        with sums_kept(save_directory, begins=False):
            return super().save_pretrained(save_directory, *args, **kwargs)

    @property
    def num_input_channels(self) -> int:
        """Number of channels that the model is given: time features and channels."""
        return self.num_channels + (len(TIME_FEATURE_NAMES) if self.time_features else 0)

    @property
    def input_channel_names(self) -> list[str]:
        """Names of the channels that the model is given, in order."""
        names = self.channel_names or [f"channel_{index}" for index in range(self.num_channels)]
        return [*(TIME_FEATURE_NAMES if self.time_features else ()), *names]

    def __call__(
        self, series: Any, timestamps: Any = None, return_tensors: str | None = None, layout: str | None = None
    ) -> BatchFeature:
        """Turn raw series into one padded batch.

        Args:
            series: One array, tensor or DataFrame (time, num_channels), an array (num_series, time, num_channels), or
                a list or datasets column of arrays of any lengths; (time,) will do for one channel. NaN = missing.
            timestamps: With time features: dates of the steps, (time,) for one series or for all that share them, else
                a list of one (time,) a series. A DataFrame brings its own, as its one column of dates or its index.
            return_tensors: "pt" for tensors; None or "np" for arrays.
            layout: "ntc" for (series, time, channel) or (time, channel); "nct" for (series, channel, time) or
                (channel, time), as in aeon, sktime and tsai. None: "ntc", but refused where all series are as long as
                wide.

        Returns:
            past_values (num_series, longest time, num_input_channels) float32, where missing values and the padding
            after a shorter series are NaN, and past_observed_mask, the same shape, True where a value was observed.

        Raises:
            ValueError: See transform.
        """
        arrays = self.transform(series, timestamps, layout)
        past_values = padded(arrays) if arrays else np.empty((0, 0, self.num_input_channels), dtype=np.float32)
        batch = {"past_values": past_values, "past_observed_mask": ~np.isnan(past_values)}
        return BatchFeature(batch, tensor_type=return_tensors)

    def pad(
        self,
        features: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        **unused: Any,
    ) -> BatchFeature:
        """Pad prepared series to one batch, as `transformers.DataCollatorWithPadding` asks for it.

        Args:
            features: One dictionary a series, or one of lists: past_values (time, num_input_channels), as `transform`
                makes them, and further fields with one shape for all series.
            padding: True or "longest" for the longest series, "max_length" for max_length timestamps.
            max_length: See padding.
            pad_to_multiple_of: The batch is as long as the next multiple of it.
            return_tensors: "pt" for tensors; None or "np" for arrays.
            unused: What transformers hands over besides, for texts.

        Returns:
            past_values (num_series, time, num_input_channels) float32, NaN after a shorter series; past_observed_mask;
            and the further fields.

        Raises:
            ValueError: There are no past_values, or a series is longer than max_length.
        """
        if isinstance(features, (dict, BatchFeature)):
            rows = [dict(zip(features, values, strict=True)) for values in zip(*features.values(), strict=True)]
        else:
            rows = [dict(row) for row in features]
        if not rows or any("past_values" not in row for row in rows):
            raise ValueError("pad needs past_values of every series, as `transform` makes them.")
        arrays = [np.asarray(row["past_values"], dtype=np.float32) for row in rows]
        least = max_length if padding == "max_length" and max_length else 0
        if least and max(map(len, arrays)) > least:
            raise ValueError(f"A series has {max(map(len, arrays))} timestamps, more than max_length={least}.")
        past_values = padded(arrays, pad_to_multiple_of, least)
        further = {name for name in rows[0] if name not in self.model_input_names}
        batch = {name: np.stack([np.asarray(row[name]) for row in rows]) for name in sorted(further)}
        batch |= {"past_values": past_values, "past_observed_mask": ~np.isnan(past_values)}
        return BatchFeature(batch, tensor_type=return_tensors)

    def transform(self, series: Any, timestamps: Any = None, layout: str | None = None) -> PreparedSeries:
        """Turn raw series into scaled ones without padding, for `model.encode`.

        Args:
            series: See __call__.
            timestamps: See __call__.
            layout: See __call__.

        Returns:
            One array (time, num_input_channels) float32 a series, NaN = missing, in a list that `encode` knows as
            prepared.

        Raises:
            ValueError: A series is empty, has other channels than the training series, text or infinite values; or
                timestamps are needed and not given, or do not fit. The message names the series and what was expected.
        """
        pairs = self._read(series, layout)
        dates = self._read_timestamps(timestamps, pairs) if self.time_features else [None] * len(pairs)
        return PreparedSeries(
            self._scaled(values, date, index)
            for index, ((values, _), date) in enumerate(zip(pairs, dates, strict=True))
        )

    def inverse_transform(self, values: Any) -> Any:
        """Return raw values of scaled ones.

        Args:
            values: (..., num_channels), or (..., num_input_channels) with time features, which are dropped; an
                array, a tensor or a list of them.

        Returns:
            (..., num_channels) float32 in the same kind of container.

        Raises:
            ValueError: The last axis has another length.
        """
        if isinstance(values, (list, tuple)):
            return [self.inverse_transform(one) for one in values]
        if isinstance(values, torch.Tensor):
            restored = self.inverse_transform(values.detach().cpu().float().numpy())
            return torch.from_numpy(restored).to(values.device)
        array = np.asarray(values, dtype=np.float64)
        if array.ndim == 0 or array.shape[-1] not in (self.num_channels, self.num_input_channels):
            raise ValueError(f"The values have shape {array.shape}; the last axis must be {self._expected()}.")
        array = array[..., array.shape[-1] - self.num_channels :]
        if self.scale is not None:
            array = array * np.asarray(self.scale)
        if self.mean is not None:
            array = array + np.asarray(self.mean)
        return array.astype(np.float32)

    def _scaled(self, values: np.ndarray, timestamps: np.ndarray | None, index: int) -> np.ndarray:
        scaled = _standardised(values, self.mean, self.scale)
        if timestamps is not None:
            features = _standardised(calendar_features(timestamps), self.time_feature_mean, self.time_feature_scale)
            scaled = np.concatenate([features, scaled], axis=1)
        with np.errstate(over="ignore"):  # told below, with its place
            inputs = np.ascontiguousarray(scaled, dtype=np.float32)
        infinite = np.argwhere(np.isinf(inputs))
        if infinite.size:
            step, channel = infinite[0]
            name = self.input_channel_names[channel]
            raise ValueError(
                f"series {index}, step {step}, channel {name!r}: scaled as the training series were, the value is "
                f"{scaled[step, channel]:.3g}, beyond float32. The channel has another unit than in the training, or "
                "the number is wrong."
            )
        return inputs

    def _read(self, series: Any, layout: str | None) -> list[tuple[np.ndarray, Any]]:
        """Return (time, num_channels) float64 and, of a frame, its dates."""
        is_known = is_frame(series) or hasattr(series, "series_layout")
        dates: list[Any] = []

        def arrays() -> Iterator[tuple[str, np.ndarray, bool]]:
            for name, one in separate_series(series, is_one_series(series)):
                values, own = self._read_frame(one, name) if is_frame(one) else (as_numbers(one, name), None)
                dates.append(own)
                yield name, values, is_known or is_frame(one)

        read = [self._checked(values, name) for name, values in in_layout(arrays(), self.num_channels, layout)]
        return list(zip(read, dates, strict=True))

    def _read_frame(self, frame: Any, name: str) -> tuple[np.ndarray, Any]:
        columns = {str(column): frame[column] for column in frame.columns}
        dates = [column for column, values in columns.items() if _is_dates(values)]
        channels = self.channel_names or [column for column in columns if column not in dates]
        absent = [channel for channel in channels if channel not in columns]
        if absent:
            raise ValueError(
                f"{name} lacks {', '.join(absent)}: its columns are {', '.join(columns)}; expected {self._expected()}."
            )
        values = [numbers_of_column(columns[channel], f"{name}, column {channel!r}") for channel in channels]
        table = np.stack(values, axis=1) if values else np.empty((len(frame), 0))
        index = getattr(frame, "index", None)
        own_dates = columns[dates[0]] if len(dates) == 1 else index if _is_dates(index) else None
        return table, own_dates

    def _checked(self, values: np.ndarray, name: str) -> np.ndarray:
        return checked_series(values.astype(np.float64, copy=False), self.num_channels, name, self._expected())

    def _expected(self) -> str:
        names = f": {', '.join(self.channel_names)}" if self.channel_names is not None else ""
        return f"{self.num_channels} channel{'' if self.num_channels == 1 else 's'}{names}"

    def _read_timestamps(self, timestamps: Any, pairs: list[tuple[np.ndarray, Any]]) -> list[np.ndarray]:
        given = [own for _, own in pairs] if timestamps is None else _per_series(timestamps, len(pairs))
        if len(given) != len(pairs):
            raise ValueError(f"There are timestamps of {len(given)} series, but {len(pairs)} series.")
        lengths = [len(values) for values, _ in pairs]
        return [_dates(one, lengths[index], index) for index, one in enumerate(given)]


def padded(arrays: Sequence[np.ndarray], multiple: int | None = None, least: int = 0) -> np.ndarray:
    """Stack series of any lengths, with NaN after the shorter ones.

    Args:
        arrays: (time, num_channels) float32, at least one.
        multiple: The result is as long as the next multiple of it; None for the longest series.
        least: Least length of the result.

    Returns:
        (num_series, length, num_channels) float32.
    """
    length = max(least, *(len(one) for one in arrays))
    length = -(-length // (multiple or 1)) * (multiple or 1)
    batch = np.full((len(arrays), length, arrays[0].shape[1]), np.nan, dtype=np.float32)
    for row, values in zip(batch, arrays, strict=True):
        row[: len(values)] = values
    return batch


def _channel_statistics(name: str, values: Any, count: int, may_be_zero: bool = True) -> list[float] | None:
    if values is None:
        return None
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    if len(array) != count:
        raise ValueError(f"{name} has {len(array)} numbers; {count} are needed, one a channel.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} is {array.tolist()}; every number must be finite.")
    if not may_be_zero and (array == 0).any():
        raise ValueError(f"{name} is {array.tolist()}; no number may be zero: a constant channel has scale 1.")
    return array.tolist()


def _standardised(values: np.ndarray, mean: list[float] | None, scale: list[float] | None) -> np.ndarray:
    if mean is not None:
        values = values - np.asarray(mean)
    if scale is not None:
        values = values / np.asarray(scale)
    return values


def _is_dates(column: Any) -> bool:
    """Whether a column or index of pandas or polars holds dates."""
    return str(getattr(column, "dtype", "")).lower().startswith(("datetime", "date"))


def _per_series(timestamps: Any, num_series: int) -> list[Any]:
    """Return the timestamps of every series; one flat run of dates is every series'."""
    if hasattr(timestamps, "dtype"):
        return list(timestamps) if getattr(timestamps, "ndim", 1) == 2 else [timestamps] * num_series
    runs = list(timestamps)
    is_flat = bool(runs) and (isinstance(runs[0], str) or not hasattr(runs[0], "__len__"))
    return [runs] * num_series if is_flat else runs


def _dates(timestamps: Any, num_steps: int, index: int) -> np.ndarray:
    """Return (time,) datetime64[ms], checked."""
    if timestamps is None:
        raise ValueError(
            f"series {index} has no timestamps, which its time features need; pass timestamps=, or a DataFrame with a "
            "column or an index of dates."
        )
    pandas_dates = getattr(timestamps, "dt", timestamps)
    if getattr(pandas_dates, "tz", None) is not None:
        timestamps = pandas_dates.tz_convert(None)
    array = np.asarray(timestamps.to_numpy() if hasattr(timestamps, "to_numpy") else timestamps)
    if array.dtype.kind in "iufb":
        raise ValueError(f"The timestamps of series {index} are plain numbers; give dates, such as datetime64.")
    try:
        dates = array.astype("datetime64[ms]")
    except (TypeError, ValueError) as error:
        raise ValueError(f"The timestamps of series {index} are not dates ({error}).") from None
    if dates.shape != (num_steps,):
        raise ValueError(f"series {index} has {num_steps} steps, but timestamps of shape {dates.shape}.")
    absent = np.flatnonzero(np.isnat(dates))
    if absent.size:
        raise ValueError(f"series {index} has no date at step {absent[0]}; its time features need every date.")
    return dates


TimeSeriesFeatureExtractor.register_for_auto_class()
