"""How many cores this process may really use."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores by CPU affinity and by the container's quota (cgroup v2 or v1), at least 1.

    `os.cpu_count()` knows neither: in a container limited to 2 CPUs of a 64-core host it says 64.
    """
    cores = len(os.sched_getaffinity(0))
    quota = _quota(cgroup)
    return max(1, cores if quota is None else min(cores, int(quota)))


def _quota(cgroup: Path) -> float | None:
    """CPUs granted by the cgroup mounted at `cgroup`, or None where there is no limit."""
    v2 = cgroup / "cpu.max"
    if v2.exists():
        limit, period = v2.read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    v1 = cgroup / "cpu" / "cpu.cfs_quota_us"
    if v1.exists() and int(v1.read_text()) > 0:
        return int(v1.read_text()) / int((v1.parent / "cpu.cfs_period_us").read_text())
    return None
