"""Keeping freed memory: counted in pages that the system has to hand out anew."""

import ctypes
import platform
import resource
from multiprocessing import get_context

import pytest
import torch

from stages.common.network.scoring import keep_freed_memory

PR_SET_THP_DISABLE = 41  # <linux/prctl.h>
PAGE = resource.getpagesize()
BYTES = 64 << 20  # beyond what glibc keeps by itself


def new_pages(keep: bool) -> int:
    """How many pages ten blocks cost, each freed before the next, after ten others."""
    ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)  # a huge page would count as one
    if keep:
        keep_freed_memory()
    counts = []
    for _ in range(20):
        torch.ones(BYTES, dtype=torch.uint8)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    return counts[-1] - counts[9]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such option")
def test_freed_blocks_are_used_again() -> None:
    with get_context("spawn").Pool(1) as pool:
        given_back, kept = (pool.apply(new_pages, (keep,)) for keep in (False, True))
    assert given_back > 5 * BYTES // PAGE, "else the option is no longer needed"
    assert kept < BYTES // PAGE // 10
