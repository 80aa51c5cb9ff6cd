"""Keep the memory of a training process near what it uses."""

from __future__ import annotations

import ctypes
import logging
import os
import sys

logger = logging.getLogger(__name__)

_M_MMAP_THRESHOLD = -3  # glibc's malloc.h
_LARGE_BLOCK_BYTES = 2**20


def give_back_freed_blocks() -> bool:
    """Have the C library map large blocks one by one and give each back to the system when it is freed.

    Tensors of a training step have other sizes in every step, because the crops are random. glibc keeps such blocks,
    once freed, for reuse; but pieces of the wrong sizes pile up, and a process that needs 0.8 GiB at a time grows to
    several. Mapped blocks cost page faults instead, which huge pages make fewer. It acts on the whole process, on
    Linux with glibc; elsewhere it does nothing. A setting of the environment (MALLOC_MMAP_THRESHOLD_) is left alone.

    Returns:
        Whether it was set.
    """
    if sys.platform != "linux" or "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return False
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch reads it at its first large block
    try:
        done = ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES) == 1
    except (OSError, AttributeError):  # another C library
        done = False
    logger.debug("Large blocks go back to the system when freed: %s.", done)
    return done
