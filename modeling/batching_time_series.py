"""How `encode` and `predict` go through any series: those of one length share a batch, and no mode is changed."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.utils import logging
from transformers.utils.logging import tqdm

logger = logging.get_logger(__name__)

LARGEST_WINDOW = 2**34  # numbers in the embeddings of one window: 64 GiB
LARGE_ATTENTION = 10**13  # operations for one series that are worth a warning: some minutes of one core

_NAMED_CHANNELS = 5  # in a warning


def equal_length_batches(lengths: Sequence[int], batch_size: int) -> Iterator[np.ndarray]:
    """Yield index arrays of at most `batch_size` series of one length, in order of length."""
    order = np.argsort(lengths, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(np.asarray(lengths)[order])) + 1):
        for start in range(0, len(group), batch_size):
            yield group[start : start + batch_size]


def progress_bar(total: int, show: bool | None, doing: str) -> Any:
    """Return a progress bar of series.

    Args:
        total: Number of series.
        show: Whether it is shown; None: when transformers' logging is at level INFO.
        doing: Its title.
    """
    shown = logger.getEffectiveLevel() <= logging.INFO if show is None else show
    return tqdm(total=total, desc=doing, unit="series", disable=not shown)


def evaluating(model: Any) -> Any:
    """Return a model as it is in evaluation mode, without a change to the model itself.

    Another thread may train it or encode with it meanwhile, so a mode that is set and restored would reach that one.

    Args:
        model: A module in any mode.

    Returns:
        Modules of the same classes with the same parameters, buffers and hooks, whatever the mode is: it may change
        meanwhile. Only what is compiled and in evaluation mode is returned as it is, for its program.
    """
    modules = list(model.modules())
    compiled = any(one._compiled_call_impl is not None or "_orig_mod" in one._modules for one in modules)
    return model if compiled and not any(one.training for one in modules) else _evaluating_twin(model, {})


def _evaluating_twin(module: nn.Module, twins: dict[nn.Module, nn.Module]) -> nn.Module:
    if module in twins:
        return twins[module]
    twin = twins[module] = object.__new__(type(module))
    own: dict[str, Any] = vars(twin)
    own.update({name: _bound_to(twin, value, module) for name, value in vars(module).items()})
    own["training"] = False
    own["_compiled_call_impl"] = None  # what `compile` made of the module runs in the module's own mode
    own["_modules"] = {
        name: None if child is None else _evaluating_twin(child, twins) for name, child in module._modules.items()
    }
    return twin


def _bound_to(twin: nn.Module, value: Any, module: nn.Module) -> Any:
    """Return an attribute of a module for its twin: a forward that accelerate has wrapped is bound to one of them."""
    if isinstance(value, types.MethodType) and value.__self__ is module:
        return types.MethodType(value.__func__, twin)
    if isinstance(value, functools.partial) and any(one is module for one in value.args):
        return functools.partial(value.func, *(twin if one is module else one for one in value.args), **value.keywords)
    return value


def warn_of_missing(model: Any, series: Sequence[np.ndarray], channel_names: Sequence[str] | None = None) -> list[int]:
    """Name the channels that have no value in a series, and the series of which the model reads nothing at all.

    Args:
        model: Tells which timestamps it reads.
        series: Arrays (time, num_input_channels), NaN = missing.
        channel_names: Names of the channels, or None.

    Returns:
        Places of the series of which it reads nothing.
    """
    dead: dict[int, list[int]] = {}
    unread = []
    for index, values in enumerate(series):
        missing = np.isnan(values)
        if not missing.any():
            continue
        if not model.base_model.observed_timestamps(torch.from_numpy(~missing)).any():
            unread.append(index)
        for channel in np.flatnonzero(missing.all(0)):
            dead.setdefault(int(channel), []).append(index)
    told = [
        f"{describe_channel(channel, channel_names)} has no value in {_of_series(places, series)}"
        for channel, places in list(dead.items())[:_NAMED_CHANNELS]
    ]
    told += [f"{len(dead) - _NAMED_CHANNELS} further channels have none"] if len(dead) > _NAMED_CHANNELS else []
    if unread:
        whose = _of_series(unread, series)
        told.append(
            f"{type(model).__name__} reads no timestamp of {whose}, so that what it says does not depend on it"
        )
    if told:
        logger.warning(f"{'; '.join(told)}.")
    return unread


def warn_of_attention(
    model: Any,
    longest: int,
    method_arguments: Mapping[str, Any],
    window_length: int | None = None,
    num_windows: int = 1,
) -> None:
    """Say what attention takes for the longest series, before it goes on for hours, and what takes less.

    Args:
        model: Tells by `attention_operations` what a stretch takes.
        longest: Number of timestamps of the series.
        method_arguments: Further arguments of the method.
        window_length: Number of timestamps that are looked at together; None for all.
        num_windows: Number of such windows.
    """
    operations = num_windows * model.attention_operations(window_length or longest, **method_arguments)
    if operations <= LARGE_ATTENTION:
        return
    if window_length is None:
        how, less = "at once", "encode with window_length=W looks at W timestamps at a time"
    else:
        how = f"by {num_windows} windows of {window_length}"
        less = "a larger stride has fewer windows, a shorter window_length smaller ones"
    logger.warning(
        f"A series of {longest} timestamps, read {how}, takes the attention of {type(model).__name__} about "
        f"{operations:.0e} operations: minutes to days on a CPU. To do less, {less}."
    )


def require_room(model: Any, window_length: int) -> None:
    """Refuse a window whose embeddings no machine holds, before memory is asked for.

    Args:
        model: Its config tells the length of an embedding.
        window_length: Number of timestamps that are embedded together.

    Raises:
        ValueError: The message gives the length that fits.
    """
    size = model.config.embedding_size
    if window_length * size > LARGEST_WINDOW:
        needed = window_length * size * 4 / 2**30
        raise ValueError(
            f"window_length={window_length} would take {needed:,.0f} GiB for the {size} numbers of every timestamp of "
            f"a window. At most {LARGEST_WINDOW // size} timestamps, 64 GiB, are taken."
        )


def describe_channel(channel: int, names: Sequence[str] | None) -> str:
    """Return what a message calls a channel: its number, and its name where somebody gave it one."""
    is_named = names is not None and names[channel] != f"channel_{channel}"  # a name that nobody gave
    return f"channel {channel} ({names[channel]!r})" if names and is_named else f"channel {channel}"


def _of_series(places: Sequence[int], series: Sequence[np.ndarray]) -> str:
    if len(series) == 1:
        return "the series"
    return f"{len(places)} of {len(series)} series (the first is series {places[0]})"


def require_finite(results: Sequence[np.ndarray] | np.ndarray, series: Sequence[np.ndarray], what: str) -> None:
    """Refuse results of finite series that are not finite themselves.

    Args:
        results: One array a series.
        series: Arrays (time, num_channels).
        what: What a result is called in the message.

    Raises:
        ValueError: The message names the series, its largest value and the fix.
    """
    if isinstance(results, np.ndarray) and np.isfinite(results).all():
        return
    for index, (result, values) in enumerate(zip(results, series, strict=True)):
        if not np.isfinite(result).all():
            largest = float(np.max(np.abs(values), initial=0.0, where=~np.isnan(values)))
            raise ValueError(
                f"The {what} of series {index}, whose largest value is {largest:.3g}, is not finite. Scale series "
                "of values beyond 1e15 (a model that was trained with scaler='standard' does so itself); with smaller "
                "ones the weights are damaged, or half precision is too narrow."
            )
