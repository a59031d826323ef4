"""The same weights to the bit on every x86-64 processor with AVX2, in deterministic training on a CPU.

Numeric libraries choose kernels by the processor and split sums by the number of threads; the order of a sum decides
its last bits. No torch here: it asks for the processor when it is imported.
"""

from __future__ import annotations

import os

from serving.cores import vector_instructions
from stages.train.params import TrainParams

# oneDNN computes convolutions, ATen what is elementwise, reduced or random, MKL the matrix products of linear layers.
# MKL's AVX2 kernels are for Intel's processors alone. COMPATIBLE is for all; it costs a network of linear layers, such
# as convnext_tiny, half its speed.
COMMON_KERNELS = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE"}


def is_portable(train: TrainParams) -> bool:
    """Whether these settings give the same bits on every such processor: 16 bits need kernels that few of them have,
    and torch.compile compiles for the processor at hand."""
    return bool(train.deterministic) and train.amp in ("auto", "off") and not train.compile


def limit_kernels(train: TrainParams) -> None:
    """Where the settings are portable, limit this process and those it starts to COMMON_KERNELS. Call it before torch
    is imported. Without AVX2 nothing is limited: such kernels would crash."""
    if is_portable(train) and "avx2" in vector_instructions():
        os.environ.update(COMMON_KERNELS)
