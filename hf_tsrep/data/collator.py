"""Series of any lengths as one batch, for any Trainer or DataLoader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..tokenization.feature_extraction_time_series import padded

_INPUT_OF_COLUMN = {"series": "past_values", "label": "labels"}  # of a corpus -> of a model


class TimeSeriesCollator:
    """Put rows together into what a model's `forward` takes; after a shorter series all is missing.

    Rows are those of a corpus (`load_corpus`: series, label) or a model's inputs by name (past_values, labels,
    future_values). What is neither a number nor an array of numbers, such as item_id, is left out. transformers'
    Trainer hands rows of a corpus over whole with `remove_unused_columns=False`:

        Trainer(model, TrainingArguments(..., remove_unused_columns=False), data_collator=TimeSeriesCollator(),
                train_dataset=load_corpus("uea/JapaneseVowels")["train"])

    Args:
        preparation: A TimeSeriesFeatureExtractor for rows with raw series, such as `model.preparation`; None where
            they are model inputs, as a scaled corpus has them.
        max_length: Longer series keep their last so many timestamps; None for all.
        pad_to_multiple_of: The batch is as long as the next multiple of it; None for the longest series.
    """

    def __init__(
        self, preparation: Any = None, max_length: int | None = None, pad_to_multiple_of: int | None = None
    ) -> None:
        for name, value in (("max_length", max_length), ("pad_to_multiple_of", pad_to_multiple_of)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name}={value!r} must be None or a whole number of at least 1.")
        self.preparation = preparation
        self.max_length = max_length
        self.pad_to_multiple_of = pad_to_multiple_of

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate.

        Args:
            rows: Of each a series (time, num_channels) as `series` or `past_values`, NaN = missing, and what else the
                model takes, one shape for all rows.

        Returns:
            past_values (num_rows, longest time, num_channels) float32 and the rest, one row each.

        Raises:
            ValueError: A row has no series, or the rows do not fit each other; the message names row and field.
        """
        named = [{_INPUT_OF_COLUMN.get(name, name): value for name, value in row.items()} for row in rows]
        for index, row in enumerate(named):
            if row.get("past_values") is None:
                raise ValueError(
                    f"Row {index} has no series (its fields are {', '.join(rows[index]) or 'none'}): give rows with "
                    "series or past_values. transformers' Trainer drops them unless remove_unused_columns=False."
                )
        batch = {"past_values": self._past_values([row["past_values"] for row in named])}
        for name in named[0]:
            if name != "past_values" and (stacked := _stacked(name, [row.get(name) for row in named])) is not None:
                batch[name] = stacked
        return batch

    def _past_values(self, series: Sequence[Any]) -> torch.Tensor:
        arrays = [np.asarray(one, dtype=np.float32) for one in series]
        if self.preparation is not None:
            arrays = list(self.preparation.transform(arrays, layout="ntc"))
        arrays = [one[:, None] if one.ndim == 1 else one for one in arrays]
        widths = {one.shape[1:] for one in arrays}
        if len(widths) > 1 or any(one.ndim != 2 for one in arrays):
            shapes = ", ".join(str(one.shape) for one in arrays[:4])
            raise ValueError(f"Series have shapes {shapes}; each must be (time, num_channels) with one num_channels.")
        if self.max_length is not None:
            arrays = [one[-self.max_length :] for one in arrays]
        return torch.from_numpy(padded(arrays, self.pad_to_multiple_of))


def _stacked(name: str, values: Sequence[Any]) -> torch.Tensor | None:
    """Return one tensor of a field's values; None where they are no numbers."""
    if any(value is None for value in values):
        return None
    try:
        arrays = [np.asarray(value) for value in values]
    except ValueError:  # ragged
        return None
    if any(one.dtype.kind not in "iufb" for one in arrays):
        return None
    if len({one.shape for one in arrays}) > 1:
        shapes = ", ".join(str(one.shape) for one in arrays[:4])
        raise ValueError(f"{name} has shapes {shapes} in the rows of one batch; all must have one shape.")
    stacked = np.stack(arrays)
    return torch.from_numpy(stacked.astype(np.float32) if stacked.dtype == np.float64 else stacked)
