"""Embeddings of a series while it comes in: one step, one vector."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from ..modeling.batching_time_series import describe_channel
from ..modeling.encoding_time_series import as_series_list
from ..opening import load_encoder

logger = logging.getLogger(__name__)


class StreamingEncoder:
    """Embed a series step by step, each step from the window that ends with it.

    The embeddings are those of `model.encode(series, level="timestamp", window_length=..., causal=True)`, and
    a step costs the same however long the series is. A method may keep more than the last window, so that a step
    computes only what no step before it has (TS2Vec does); the others encode the last window whole. A channel that had
    no value for a whole window is named in a warning, once until it has one again.

    Args:
        model: Folder or Hub id of a model, or a model; it is used with the weights that it has now.
        window_length: Number of steps that an embedding sees, its own the last.
        pooling: None, a number of steps to max-pool around a step inside its window, or "multiscale".
        normalize: Whether embeddings have length 1.
        prepared: Whether the values are model inputs already, so that nothing is scaled again.
        batch_size: Number of windows in one forward pass of `push_many`.
        method_arguments: Further arguments of the method, as in `encode`.

    Raises:
        FileNotFoundError: There is no such folder, or no finished model in it.
        TypeError: An argument is unknown.
        ValueError: A setting is out of its range.
    """

    def __init__(
        self,
        model: Any,
        window_length: int,
        *,
        pooling: str | int | None = None,
        normalize: bool = False,
        prepared: bool = False,
        batch_size: int = 32,
        **method_arguments: Any,
    ) -> None:
        self.model = load_encoder(model)
        self.normalize = normalize
        self._stream = self.model.stream(window_length, pooling, batch_size, **method_arguments)
        known = self.model.encode_arguments(**method_arguments)
        self._num_channels = self.model.num_channels_of(**known)
        self._preparation = None if prepared else self.model.preparation_for(**known)
        self._channel_names = self.model.channel_names_for(**known)
        self._window_length = window_length
        self._silent_steps = np.zeros(self._num_channels, dtype=np.int64)  # of every channel, since its last value

    def push(self, values: Any, timestamp: Any = None) -> np.ndarray:
        """Embed the next step.

        Args:
            values: (channels,) raw values of the step, NaN = missing; a number will do for one channel.
            timestamp: Its date, for a model with calendar features.

        Returns:
            (embedding_size,) float32.

        Raises:
            ValueError: The step has another number of channels, text or an infinite value, or its date is needed and
                missing. The stream goes on as if the step had not come.
        """
        step = np.atleast_1d(np.asarray(values))[None]
        return self.push_many(step, None if timestamp is None else [timestamp])[0]

    def push_many(self, values: Any, timestamps: Any = None) -> np.ndarray:
        """Embed the next steps, faster than one by one.

        Args:
            values: (steps, channels) raw values, at least one step, NaN = missing; (steps,) will do for one channel.
                A DataFrame brings its dates.
            timestamps: (steps,) dates, for a model with calendar features.

        Returns:
            (steps, embedding_size) float32.

        Raises:
            ValueError: See push.
        """
        inputs = self._prepare(values, timestamps)
        embeddings = self._stream.push(torch.from_numpy(inputs).to(self.model.device)).float()
        self._warn_of_silence(~np.isnan(inputs))
        if self.normalize:
            embeddings = torch.nn.functional.normalize(embeddings, dim=-1)
        return embeddings.cpu().numpy()

    def reset(self) -> None:
        """Forget the series: the next step is the first of another one."""
        self._stream.reset()
        self._silent_steps[:] = 0

    def _warn_of_silence(self, observed: np.ndarray) -> None:
        """Name the channels without a value in the last window, which had one in the window before these steps.

        Args:
            observed: (steps, num_input_channels) which values the new steps have.
        """
        was_silent = self._silent_steps >= self._window_length
        since_last = np.where(observed.any(0), observed[::-1].argmax(0), self._silent_steps + len(observed))
        self._silent_steps = since_last
        is_silent = since_last >= self._window_length
        if not (is_silent & ~was_silent).any():
            return
        named = ", ".join(describe_channel(int(one), self._channel_names) for one in np.flatnonzero(is_silent))
        reads = bool(self.model.observed_timestamps(torch.from_numpy(~is_silent[None])).any())
        logger.warning(
            "No value in the last %d steps of %s.%s",
            self._window_length,
            named,
            "" if reads else f" {type(self.model).__name__} reads nothing of them: its embeddings say nothing now.",
        )

    def _prepare(self, values: Any, timestamps: Any) -> np.ndarray:
        """Return (steps, num_input_channels) model inputs."""
        if self._preparation is not None:
            return self._preparation.transform(values, timestamps, "ntc")[0]
        if timestamps is not None:
            raise ValueError(
                "timestamps were given, and nothing reads them: the series is prepared, or the model has no "
                "preparation. Leave them out."
            )
        return as_series_list(values, self._num_channels, "ntc")[0][0]
