"""Which NVIDIA cards may be used here, and one of them for each worker."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"  # honoured by the driver: indices, UUIDs, and nothing or -1 for no card
COUNT_SECONDS = 60


@cache
def visible() -> tuple[str, ...]:
    """The cards this process may use, each as a value of CUDA_VISIBLE_DEVICES.

    They are counted in a process of its own: one that has initialised CUDA forks no process that can use it.
    """
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:  # most machines have no driver
        return ()
    code = "from serving.inference.model.predictor import gpu_count; print(gpu_count())"
    try:
        counted = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=COUNT_SECONDS, check=True
        )
    except (subprocess.SubprocessError, OSError) as error:  # a driver that hangs or crashes serves nobody
        log.warning("the NVIDIA driver does not count its cards, so none is used: %s", error)
        return ()
    found, chosen = int(counted.stdout), os.environ.get(VISIBLE)
    names = map(str, range(found)) if chosen is None else (name.strip() for name in chosen.split(","))
    return tuple(names)[:found]  # the driver stops at the first name that it does not know


def least_used(cards: Sequence[str], in_use: Iterable[str | None]) -> str | None:
    """The card that the fewest workers have, the first among equals; None where there is no card."""
    workers = Counter(in_use)
    return min(cards, key=lambda card: workers[card], default=None)
