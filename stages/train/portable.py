"""Deterministic training on a CPU: the same weights to the bit whatever the number of cores.

Numeric libraries choose kernels by the processor and split sums by the number of threads; the order of a sum decides
its last bits. Hence kernels that all x86-64 processors with AVX2 have, and a fixed number of threads. Families of
processors may differ all the same: an emulated Haswell trained other bits. No torch here: it asks for the processor
when it is imported.
"""

from __future__ import annotations

import os

from serving.photo.cores import vector_instructions
from stages.train.params import TrainParams

# oneDNN computes convolutions, ATen what is elementwise, reduced or random, MKL the matrix products of linear layers.
# MKL's AVX2 kernels are for Intel's processors alone. COMPATIBLE is for all; it costs a network of linear layers, such
# as convnext_tiny, half its speed.
COMMON_KERNELS = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE"}


def is_portable(train: TrainParams) -> bool:
    """Whether these settings can do with the common kernels: 16 bits need some that few processors have, and
    torch.compile compiles for the one at hand."""
    return bool(train.deterministic) and train.amp in ("auto", "off") and not train.compile


def limit_kernels(train: TrainParams) -> None:
    """Where the settings are portable, limit this process and those it starts to COMMON_KERNELS. Call it before torch
    is imported. Without AVX2 nothing is limited: such kernels would crash."""
    if is_portable(train) and "avx2" in vector_instructions():
        os.environ.update(COMMON_KERNELS)
