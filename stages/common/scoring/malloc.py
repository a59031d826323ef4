"""The memory that torch computes in on a CPU."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # <malloc.h>


def keep_freed_memory() -> None:
    """Have glibc keep what this process frees for what it allocates next, until it ends.

    By itself it takes each block beyond 32 MiB from the system and gives it back when it is freed. Activations are such
    blocks, so each step has the system clear all their pages anew: at 224 pixels, 32 photos in float32, that took a
    third of tf_efficientnet_lite0's step on 2 cores (benchmarks/training.py). The price is some 15 % more memory at the
    peak. Other C libraries are left as they are.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_MAX, 0)
        set_option(_M_TRIM_THRESHOLD, -1)
