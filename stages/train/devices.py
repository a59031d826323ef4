"""Which devices training runs on: a card that torch cannot use is an error, never a silent run on the CPU."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

import torch

from stages.common.base.errors import StageError

DRIVER, DEVICE_FILES = Path("/proc/driver/nvidia/version"), Path("/dev")


def choose_device(device: Literal["auto", "cuda", "cpu"]) -> None:
    """Hide the GPUs from this process and those it starts where `train.device` is `cpu`; else check that they work.

    Raises StageError where a card is present or asked for and torch cannot use it.
    """
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return
    if torch.cuda.is_available() or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        if device == "cuda" and not torch.cuda.is_available():
            raise StageError("params.yaml: train.device: cuda, but CUDA_VISIBLE_DEVICES hides every GPU")
        return
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
