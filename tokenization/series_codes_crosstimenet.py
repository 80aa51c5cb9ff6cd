"""Batches of series to codes, and rows of codes to series, for one domain of CrossTimeNet's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from .chunks_crosstimenet import (
    STEPS_IN_CHUNK,
    align_series,
    decode_in_chunks,
    encode_in_chunks,
    fill_codes,
    is_complete,
)
from .codec_crosstimenet import CrossTimeNetCodec
from .codec_files_crosstimenet import device_of
from .configuration_crosstimenet_codec import CodecDomain


def codes_of_values(
    codec: CrossTimeNetCodec, place: int, past_values: torch.Tensor, past_observed_mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Turn a batch of series into codes; see CrossTimeNetTokenizer.tokenize_values.

    Args:
        codec: The codec.
        place: Place of the domain.
        past_values: (batch_size, time, num_input_channels), NaN = missing.
        past_observed_mask: The same shape, True = observed, or None.

    Returns:
        codes (batch_size, num_patches) int64; which patches hold an observed value, and which are real, the same
        shape, bool; and the first observed timestamps (batch_size,). On the device of past_values.

    Raises:
        ValueError: A shape does not fit, or an observed value is infinite.
    """
    domain = codec.config.codec_domains[place]
    device = past_values.device
    values = past_values.detach().to(torch.float32)
    if past_observed_mask is not None:
        if past_observed_mask.shape != past_values.shape:
            raise ValueError(
                f"past_observed_mask has shape {tuple(past_observed_mask.shape)}, but past_values "
                f"{tuple(past_values.shape)}; they must be equal."
            )
        values = values.masked_fill(~past_observed_mask.bool(), torch.nan)
    values = values.to(device_of(codec))
    num_patches = domain.num_patches(values.shape[1]) if values.ndim > 1 else 0
    fixed_length = domain.context_length or 0
    if values.ndim == 3 and 0 < values.shape[1] < fixed_length:
        # The published decoder takes one length only; its encoder does not mind a series that ends early.
        values = F.pad(values, (0, 0, 0, fixed_length - values.shape[1]), value=torch.nan)
    codec.observed_values(values, None, domain)  # checks the shape
    if not is_complete(values) and bool(values.isinf().any()):
        row, step, channel = values.isinf().nonzero()[0].tolist()
        raise ValueError(
            f"Series {row} is infinite at timestamp {step}, channel {channel}; write NaN for a missing value."
        )
    values, first_steps, num_steps = align_series(values)
    codes, known = encode_in_chunks(codec, values, place)
    counts = (-(-num_steps // domain.patch_length)).clamp(min=1)
    attention = torch.arange(codes.shape[1], device=codes.device) < counts.unsqueeze(1)
    found = (codes, known & attention, attention)
    codes, known, attention = (one[:, :num_patches].to(device) for one in found)
    return codes, known, attention, first_steps.to(device)


@torch.no_grad()
def series_of_codes(codec: CrossTimeNetCodec, place: int, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Turn rows of codes into series.

    Args:
        codec: The codec.
        place: Place of the domain.
        rows: Codes (num_patches,) of every series, -1 = unknown: taken to be the code before it; the mean of every
            channel where no code of the row is known. For the published decoder, which takes one number of tokens,
            what a shorter row lacks is unknown.

    Returns:
        (num_patches * patch_length, num_input_channels) float32 a series.

    Raises:
        ValueError: The decoder takes fewer tokens.
    """
    domain, mean = codec.config.codec_domains[place], codec.domain_codec(place).channel_mean
    lengths = [len(row) * domain.patch_length for row in rows]
    rows = _completed(rows, domain)
    # In order of length little is padded, and what is padded behind a series does not change it.
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    series = [np.empty((0, domain.num_input_channels), dtype=np.float32)] * len(rows)
    size = max(1, STEPS_IN_CHUNK // max(1, domain.patch_length * max(map(len, rows), default=1)))
    # The published decoder takes one number of tokens, which padding must not hide.
    groups = _groups_of_length(order, rows) if domain.decoder == "fixed_length" else [order]
    for chosen in (group[start : start + size] for group in groups for start in range(0, len(group), size)):
        padded = torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(rows[index]) for index in chosen], batch_first=True, padding_value=-1
        )
        codes = padded.to(device_of(codec))
        known = codes >= 0
        values = decode_in_chunks(codec, fill_codes(codes, known), place)
        values = torch.where(known.any(1).view(-1, 1, 1), values, mean).cpu()
        for index, found in zip(chosen, values, strict=True):
            series[index] = found[: lengths[index]].numpy().copy()
    return series


def _completed(rows: Sequence[np.ndarray], domain: CodecDomain) -> list[np.ndarray]:
    """Return the rows, short ones completed by unknown codes to the number of tokens that the decoder takes."""
    fewest = domain.num_patches(domain.context_length or 0)
    missing = [max(0, fewest - len(row)) for row in rows]
    return [np.pad(row, (0, more), constant_values=-1) for row, more in zip(rows, missing, strict=True)]


def _groups_of_length(order: Sequence[int], rows: Sequence[np.ndarray]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for index in order:
        groups.setdefault(len(rows[index]), []).append(index)
    return list(groups.values())
