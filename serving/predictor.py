"""The ONNX model and the threshold that belongs to it -> p_clean and verdicts. No torch."""

from __future__ import annotations

import ctypes
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from serving.cores import usable_cores
from serving.decision import CLASSES, Threshold, read_threshold
from serving.image import RESIZE_RULE
from serving.onnx_file import ModelError, read_model

log = logging.getLogger(__name__)

PREFIX = "dirtycar."  # of every metadata key


@dataclass(frozen=True)
class Metadata:
    """What best.onnx says of itself, as strings in its metadata under `dirtycar.`; written by the export stage."""

    model: str
    precision: str
    image_size: str
    resize: str
    classes: str
    data_version: str
    checkpoint_sha256: str
    threshold_sha256: str

    @classmethod
    def read(cls, properties: dict[str, str], path: Path) -> Metadata:
        """Raises ModelError when a key is missing, or the model expects pixels made in another way."""
        names = list(cls.__dataclass_fields__)
        missing = [name for name in names if PREFIX + name not in properties]
        if missing:
            raise ModelError(f"{path} was not exported by this project: its metadata lacks {', '.join(missing)}")
        found = cls(**{name: properties[PREFIX + name] for name in names})
        if found.resize != RESIZE_RULE:
            raise ModelError(f"{path} expects photos resized by {found.resize!r}, this version does {RESIZE_RULE!r}")
        if found.classes != ",".join(CLASSES):
            raise ModelError(f"{path} knows the classes {found.classes!r}, expected {','.join(CLASSES)!r}")
        return found

    def properties(self) -> dict[str, str]:
        """The metadata as ONNX properties."""
        return {PREFIX + name: str(getattr(self, name)) for name in self.__dataclass_fields__}


class Predictor:
    """A loaded model with its threshold.

    Create it after a server has forked: a session's threads do not survive a fork.
    """

    def __init__(
        self, model: Path, threshold: Path, *, providers: Sequence[str] | None = None, threads: int | None = None
    ) -> None:
        """Load and check a pair. `providers`: ONNX Runtime's names, by default CUDA where there is a GPU, else CPU;
        `threads`: cores one CPU call may use, by default all usable ones.

        Raises ModelError (file missing or damaged, custom operators or data elsewhere, foreign metadata or signature,
        a pair that does not match) or ThresholdError.
        """
        self.threshold: Threshold = read_threshold(threshold)
        content = read_model(model)  # once: what was checked is what is loaded and named by its sha256
        self.session = _open_session(model, content, providers or default_providers(), threads or usable_cores())
        self.metadata = Metadata.read(self.session.get_modelmeta().custom_metadata_map, model)
        self.image_size = _check_signature(self.session, self.metadata, model)
        self.sha256 = hashlib.sha256(content).hexdigest()
        if self.metadata.threshold_sha256 != self.threshold.sha256:
            raise ModelError(
                f"{model} was exported for another threshold than {threshold} (sha256 "
                f"{self.metadata.threshold_sha256[:12]}, not {self.threshold.sha256[:12]}); run `dvc repro export`"
            )

    @property
    def provider(self) -> str:
        """The ONNX Runtime provider in use, `CUDAExecutionProvider` or `CPUExecutionProvider`."""
        return str(self.session.get_providers()[0])

    @property
    def on_gpu(self) -> bool:
        """Whether model calls run on a GPU."""
        return self.provider == "CUDAExecutionProvider"

    def p_clean(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Calibrated probability of clean, float32 `[N]`, for uint8 RGB images `[N, S, S, 3]` from `serving.image`."""
        result: NDArray[np.float32] = self.session.run(["p_clean"], {"image": images})[0]
        return result

    def verdicts(self, p_clean: NDArray[np.float32]) -> list[str]:
        """The label of each p_clean at the threshold."""
        return [self.threshold.rule.decide(float(p)) for p in p_clean]


def gpu_present() -> bool:
    """Whether an NVIDIA driver with at least one GPU answers. ONNX Runtime lists CUDA even where there is none."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def default_providers() -> list[str]:
    """CUDA then CPU where a GPU is at hand, else CPU."""
    if gpu_present() and "CUDAExecutionProvider" in ort.get_available_providers():
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]


def _open_session(model: Path, content: bytes, providers: Sequence[str], threads: int) -> ort.InferenceSession:
    if "CUDAExecutionProvider" in providers:
        ort.preload_dlls()  # CUDA and cuDNN from the pip packages, where they are
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.load_model_format", "ONNX")  # not ORT's own, which nobody has checked
    try:
        session = ort.InferenceSession(content, options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        raise ModelError(f"{model} is not a usable ONNX model: {error}") from error
    session.disable_fallback()  # to a CPU, in the middle of a call: whoever asked for a GPU is to know
    session._model_bytes = None  # kept for that fallback alone
    if session.get_providers()[0] != providers[0]:
        log.warning("%s is not usable here, running on %s", providers[0], session.get_providers()[0])
    return session


def _check_signature(session: ort.InferenceSession, metadata: Metadata, path: Path) -> int:
    """The image size S of a model `image: uint8 [N, S, S, 3] -> p_clean: float32 [N]`; raises ModelError otherwise."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    size = int(metadata.image_size) if metadata.image_size.isdecimal() else 0
    wanted_in, wanted_out = ("image", "tensor(uint8)", [size, size, 3]), ("p_clean", "tensor(float)", 1)
    found_in = [(x.name, x.type, x.shape[1:]) for x in inputs]
    found_out = [(x.name, x.type, len(x.shape)) for x in outputs]
    if size < 1 or found_in != [wanted_in] or found_out != [wanted_out]:
        raise ModelError(f"{path} has inputs {found_in} and outputs {found_out}, expected {wanted_in} -> {wanted_out}")
    return size
