"""Embeddings in fewer bits, under sentence-transformers' names."""

from __future__ import annotations

from typing import Any

import numpy as np

PRECISIONS = ("float32", "float16", "int8", "uint8", "binary", "ubinary")


def quantize_embeddings(
    embeddings: Any, precision: str, ranges: Any = None, calibration_embeddings: Any = None
) -> np.ndarray:
    """Return embeddings in another precision.

    Args:
        embeddings: (..., embedding_size), numbers.
        precision: "float32" or "float16"; "int8" or "uint8" for 256 codes between the ranges of every dimension;
            "binary" or "ubinary" for one bit a dimension, whether it is above 0, eight to a byte.
        ranges: (2, embedding_size), the least and the largest number of every dimension, for int8 and uint8. None:
            those of calibration_embeddings.
        calibration_embeddings: (num_embeddings, embedding_size) whose ranges are taken; None: `embeddings` themselves,
            which other embeddings cannot be compared with.

    Returns:
        The same shape; with "binary" and "ubinary" (..., ceil(embedding_size / 8)). What lies beyond a range has the
        code of its end. Code c of uint8 is the number c * (largest - least) / 255 + least; int8 has c - 128.

    Raises:
        ValueError: The precision is unknown, or shapes do not fit.
    """
    numbers = np.asarray(embeddings)
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is unknown; choose one of {', '.join(PRECISIONS)}.")
    if precision.startswith("float"):
        return numbers.astype(precision)
    if precision.endswith("binary"):
        bits = np.packbits(numbers > 0, axis=-1)
        return bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    if ranges is None:
        known = np.asarray(numbers if calibration_embeddings is None else calibration_embeddings)
        known = known.reshape(-1, known.shape[-1])
        if not len(known):
            raise ValueError(f"{precision} needs ranges, and there is no embedding to take them from: give ranges.")
        ranges = np.stack((known.min(0), known.max(0)))
    least, step = _steps(ranges, numbers.shape[-1])
    codes = np.clip(np.rint((numbers - least) / step), 0, 255)
    return codes.astype(np.uint8) if precision == "uint8" else (codes - 128).astype(np.int8)


def dequantize_embeddings(codes: np.ndarray, ranges: Any) -> np.ndarray:
    """Return the numbers of int8 or uint8 codes.

    Args:
        codes: (..., embedding_size) of `quantize_embeddings`.
        ranges: (2, embedding_size) that they were made with.

    Returns:
        The same shape, float32; off by half a step of its range at most, where nothing lay beyond it.

    Raises:
        ValueError: The codes are not int8 or uint8, or the shapes do not fit.
    """
    if codes.dtype not in (np.int8, np.uint8):
        raise ValueError(f"Codes are int8 or uint8, not {codes.dtype}.")
    least, step = _steps(ranges, codes.shape[-1])
    from_zero = codes.astype(np.float32) + (128 if codes.dtype == np.int8 else 0)
    return (from_zero * step + least).astype(np.float32)


def _steps(ranges: Any, embedding_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the least number and the step of every dimension; the step of one without a range is 1."""
    array = np.asarray(ranges, dtype=np.float32)
    if array.shape != (2, embedding_size):
        raise ValueError(f"ranges has shape {array.shape}; expected (2, {embedding_size}): least and largest numbers.")
    least, largest = array
    return least, np.where(largest > least, (largest - least) / 255, np.float32(1))
