"""The processor: how many of its cores this process may really use, and what it is."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# Those that numeric libraries choose their kernels by.
_VECTORS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16")


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


def vector_instructions(cpuinfo: Path = CPUINFO) -> list[str]:
    """The processor's vector instructions from AVX2 on, in the kernel's names; none on other than x86."""
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    return [name for name in _VECTORS if flags and name in flags[1].split()]


def processor(cpuinfo: Path = CPUINFO) -> str:
    """The processor's name and vector instructions: hypervisors call several families `Intel Xeon Processor`."""
    name = re.search(r"^model name\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    return " ".join([name[1].strip() if name else platform.machine(), *vector_instructions(cpuinfo)])
