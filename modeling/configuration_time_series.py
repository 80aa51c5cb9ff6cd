"""What every method's configuration has in common."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)

_WRITTEN_BY_TRANSFORMERS = frozenset(
    {"auto_map", "custom_pipelines", "model_type", "num_labels", "torch_dtype", "transformers_version", "use_cache"}
)


def near_match_hint(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" where a known name is near, to put after what is wrong; else nothing."""
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


class TimeSeriesConfig(PreTrainedConfig):
    """Fields shared by all methods of the house.

    A key that neither a field nor transformers knows is kept, as in transformers, and a warning names the near match.

    Args:
        num_input_channels: Number of channels of a series, time features included.
        embedding_size: Length of one embedding.
        pooling: How timestamp embeddings become one vector per series: "max", "mean" or "last".
        channel_mode: "joint" when one embedding covers all channels, "independent" when every channel is encoded alone
            and `last_hidden_state` is (batch_size, num_input_channels, num_patches, hidden_size).
        prediction_length: Number of future timestamps that `XForTimeSeriesPrediction` predicts.
        num_output_channels: Number of channels predicted; None means `num_input_channels`.
        classifier_dropout: Dropout probability before the classification layer.

    Raises:
        ValueError: A field is out of its range. The message names the field, the value and the range.
    """

    num_input_channels: int = 1
    embedding_size: int = 320
    pooling: str = "max"
    channel_mode: str = "joint"
    prediction_length: int = 24
    num_output_channels: int | None = None
    classifier_dropout: float = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        """Warn about unknown keys and check the ranges."""
        super().__post_init__(**kwargs)
        known = {name for name in vars(type(self)) if not name.startswith("_")} | set(self.__dataclass_fields__)
        for key in kwargs:
            if key in known or key in _WRITTEN_BY_TRANSFORMERS or key.startswith("_") or hasattr(type(self), key):
                continue
            hint = near_match_hint(key, self.__dataclass_fields__)
            logger.warning(
                f"{type(self).__name__} has no field {key!r}; the value is kept but nothing reads it.{hint}"
            )
        self.check_ranges()

    def check_ranges(self) -> None:
        """Raise ValueError for a field outside its range; methods extend this."""
        self.require_at_least(1, "num_input_channels", "embedding_size", "prediction_length")
        self.require_one_of("pooling", ("max", "mean", "last"))
        self.require_one_of("channel_mode", ("joint", "independent"))
        self.require_probability("classifier_dropout")

    def require_at_least(self, minimum: int, *names: str) -> None:
        """Raise ValueError when one of the named fields is below `minimum`."""
        for name in names:
            if getattr(self, name) < minimum:
                raise ValueError(
                    f"{type(self).__name__}.{name} is {getattr(self, name)}; it must be at least {minimum}."
                )

    def require_one_of(self, name: str, choices: tuple[str, ...]) -> None:
        """Raise ValueError when the named field is none of `choices`."""
        value = getattr(self, name)
        if value not in choices:
            raise ValueError(f"{type(self).__name__}.{name} is {value!r}; choose one of {', '.join(choices)}.")

    def require_probability(self, *names: str) -> None:
        """Raise ValueError when one of the named fields is outside [0, 1]."""
        for name in names:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(
                    f"{type(self).__name__}.{name} is {getattr(self, name)}; it must lie between 0 and 1."
                )
