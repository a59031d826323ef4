"""What training computes on: the device, and kernels that give the same bits.

A card that torch cannot use is an error, never a silent run on the CPU.

Deterministic training on a CPU gives the same weights to the bit whatever the number of cores. Numeric libraries choose
kernels by the processor and split sums by the number of threads; the order of a sum decides its last bits. Hence the
kernels that all x86-64 processors with AVX2 have, and a fixed number of threads. torch is imported late: it asks for
the processor when it is imported.

A step may use no operation that torch leaves to MKL's vector mathematics, such as `sqrt`: those kernels start from
`rsqrtps` and the like, which Intel and AMD answer with different bits. `rsqrt().reciprocal()` is torch's own, by IEEE
division and root.
"""

import os
import re
from pathlib import Path
from typing import Literal

from serving.inference.photo.cores import vector_instructions
from stages.common.base.errors import StageError
from stages.train.params import TrainParams

DRIVER, DEVICE_FILES = Path("/proc/driver/nvidia/version"), Path("/dev")

# oneDNN computes convolutions, ATen what is elementwise, reduced or random, MKL the matrix products of linear layers.
# MKL's AVX2 kernels are for Intel's processors alone. COMPATIBLE is for all; it costs a network of linear layers, such
# as convnext_tiny, half its speed.
COMMON_KERNELS = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE"}


def is_portable(train: TrainParams) -> bool:
    """Whether these settings can do with the common kernels: 16 bits need some that few processors have, and
    torch.compile compiles for the one at hand."""
    return bool(train.deterministic) and train.amp in ("auto", "off") and not train.compile


def limit_kernels(train: TrainParams) -> None:
    """Where the settings are portable, limit this process and its children to COMMON_KERNELS. Call it before torch is
    imported. Without AVX2 nothing is limited: such kernels would crash."""
    if is_portable(train) and "avx2" in vector_instructions():
        os.environ.update(COMMON_KERNELS)


def choose_algorithms(train: TrainParams, *, gpu: bool) -> None:
    """Repeatable algorithms, or on a GPU whichever prove quickest."""
    import torch

    deterministic = not gpu if train.deterministic == "auto" else train.deterministic
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself only with a fixed workspace
        # A debugging aid that comes with it, and costs.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def choose_device(device: Literal["auto", "cuda", "cpu"]) -> None:
    """Hide the GPUs from this process and its children where `train.device` is `cpu`; else check that they work.

    Raises StageError where a card is present or asked for and torch cannot use it.
    """
    import torch

    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    if torch.cuda.is_available() or (hidden and device == "auto"):
        return
    if hidden:
        raise StageError("params.yaml: train.device: cuda, but CUDA_VISIBLE_DEVICES hides every GPU")
    card = find_card()
    if card is None and device == "auto":
        return
    wanted = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA at all (a CPU build)"
    raise StageError(
        f"{card or 'no NVIDIA driver or device file'} found, but torch {torch.__version__}, built for {wanted}, "
        "cannot use a GPU. Install a driver for that version of CUDA, or train on the CPU with train.device: cpu"
    )


def find_card(driver: Path = DRIVER, device_files: Path = DEVICE_FILES) -> str | None:
    """The NVIDIA driver and its version, or the device file of a card without one; None where there is no card."""
    try:
        version = re.search(r"Kernel Module.*?(\d+\.[\d.]+)", driver.read_text())
        return f"NVIDIA driver {version[1]}" if version else "an NVIDIA driver of unknown version"
    except OSError:
        cards = sorted(device_files.glob("nvidia[0-9]*"))
        return f"{cards[0]} without a loaded driver" if cards else None
