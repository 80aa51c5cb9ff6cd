"""What several cases take: a series of the size of ETTh1, and the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

NUM_STEPS, NUM_CHANNELS = 17420, 14  # ETTh1, multivariate, with time features


def etth1_like_series() -> np.ndarray:
    """Return a random walk, standardised: (17420, 14) float32."""
    generator = np.random.default_rng(0)
    walk = generator.standard_normal((NUM_STEPS, NUM_CHANNELS)).cumsum(axis=0)
    return ((walk - walk.mean(0)) / walk.std(0)).astype(np.float32)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Call the function and return the seconds that it took and its result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result
