"""Running the ONNX files of this project. No torch."""

from __future__ import annotations

import ctypes
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from serving.inference.model.golden import Golden
from serving.inference.model.metadata import DISTANCE, GOLDEN, MAP, THRESHOLD, Metadata
from serving.inference.model.onnx_check import ModelError, read_model
from serving.inference.model.quality import quality
from serving.inference.photo.cores import usable_cores
from serving.inference.verdict.rule import Threshold, ThresholdError, parse_threshold, read_threshold

log = logging.getLogger(__name__)

CUDA = "CUDAExecutionProvider"
OPTIONS = {CUDA: {"use_tf32": "0"}}  # fp32 means what it says
# Photos in every call of a GPU. cuDNN plans each layer anew for each number of them, which takes seconds, and photos in
# a call of another size get other last bits.
GPU_BATCH = 32


class Network:
    """A loaded network.onnx: images -> logits, and how far each photo is from those of cars.

    Create it after a server has forked: a session's threads do not survive a fork.
    """

    output: ClassVar[str] = "logit"

    def __init__(self, path: Path, *, providers: Sequence[str] | None = None, threads: int | None = None) -> None:
        """Load and check a file. `providers`: ONNX Runtime's names, by default those of the file's target;
        `threads`: cores one CPU call may use, by default all usable ones.

        Raises ModelError: file missing or damaged, custom operators or data elsewhere, foreign metadata or signature.
        """
        content, self.properties = read_model(path)  # once: what was checked is what is loaded and hashed
        self.metadata = Metadata.read(self.properties, path)
        providers = providers or default_providers(self.metadata.target)
        self.session = _open_session(path, content, providers, threads or usable_cores())
        self.image_size = _check_signature(self.session, self.metadata, path, self.output)
        outputs = {output.name: output for output in self.session.get_outputs()}
        self.measures_distance, self.gives_map = DISTANCE in outputs, MAP in outputs
        self.sha256 = hashlib.sha256(content).hexdigest()

    @property
    def provider(self) -> str:
        """The ONNX Runtime provider in use, `CUDAExecutionProvider` or `CPUExecutionProvider`."""
        return str(self.session.get_providers()[0])

    @property
    def on_gpu(self) -> bool:
        """Whether model calls run on a GPU."""
        return self.provider == CUDA

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The output, float32 `[N]`, for uint8 RGB images `[N, S, S, 3]` from `serving.inference.photo`."""
        return self._outputs([self.output], images)[0]

    def run_both(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The output and the distance, float32 `[N, 2]`; a file without a distance gives 0."""
        if not self.measures_distance:
            scores = self.run(images)
            return np.stack([scores, np.zeros_like(scores)], 1)
        return np.stack(self._outputs([self.output, DISTANCE], images), 1)

    def map(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Float32 `[N, h, w]`, of a file that `gives_map`: each place's part in the logit, which is the map's mean."""
        return self._outputs([MAP], images)[0]

    def _outputs(self, names: list[str], images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        if not self.on_gpu:
            return self.session.run(names, {"image": images})  # type: ignore[no-any-return]
        calls = [images[start : start + GPU_BATCH] for start in range(0, len(images), GPU_BATCH)]
        filled = (np.resize(call, (GPU_BATCH, *images.shape[1:])) for call in calls)
        answers = zip(*(self.session.run(names, {"image": call}) for call in filled), strict=True)
        return [np.concatenate(parts)[: len(images)] for parts in answers]

    def scores(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The output, then distance, brightness and sharpness as Measures has them, float32 `[N, 4]`."""
        found = [(one.brightness, one.sharpness) for one in map(quality, images)]
        return np.hstack([self.run_both(images), np.array(found, np.float32)])


class Predictor(Network):
    """A loaded best.onnx: images -> p_clean, and the threshold that comes with it."""

    output = "p_clean"

    def __init__(
        self,
        path: Path,
        *,
        threshold: Path | None = None,
        providers: Sequence[str] | None = None,
        threads: int | None = None,
    ) -> None:
        """As Network. `threshold`: a threshold.json in place of the embedded one; one with other content is not
        certified for this model.

        Raises ModelError or ThresholdError.
        """
        super().__init__(path, providers=providers, threads=threads)
        if missing := [key for key in (THRESHOLD, GOLDEN) if key not in self.properties]:
            raise ModelError(f"{path} is not what the export stage writes: its metadata lacks {', '.join(missing)}")
        try:
            self.embedded: Threshold = parse_threshold(self.properties[THRESHOLD].encode(), f"{path}: {THRESHOLD}")
            self.golden = Golden.read(self.properties[GOLDEN])
        except ThresholdError:
            raise
        except ValueError as error:
            raise ModelError(f"{path}: {GOLDEN}: {error}") from error
        given = self.embedded if threshold is None else read_threshold(threshold)
        self.threshold_replaced = given.sha256 != self.embedded.sha256
        self.threshold = replace(given, certified=False) if self.threshold_replaced else given

    def p_clean(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Calibrated probability of clean, float32 `[N]`, for uint8 RGB images `[N, S, S, 3]`."""
        return self.run(images)

    def verdicts(self, p_clean: NDArray[np.float32]) -> list[str]:
        """The label of each p_clean at the threshold."""
        return [self.threshold.rule.decide(float(p)) for p in p_clean]


def gpu_count() -> int:
    """How many GPUs an NVIDIA driver shows this process. ONNX Runtime lists CUDA even where there is none."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    return count.value if cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def default_providers(target: str) -> list[str]:
    """For the target `gpu`, CUDA then CPU where a GPU is at hand; else CPU."""
    if target == "gpu" and gpu_count() and CUDA in ort.get_available_providers():
        return [CUDA, "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]


def _open_session(model: Path, content: bytes, providers: Sequence[str], threads: int) -> ort.InferenceSession:
    if CUDA in providers:
        ort.preload_dlls()  # CUDA and cuDNN from the pip packages, where they are
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.load_model_format", "ONNX")  # not ORT's own, which nobody has checked
    try:
        session = ort.InferenceSession(
            content, options, providers=[(name, OPTIONS.get(name, {})) for name in providers]
        )
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        raise ModelError(f"{model} is not a usable ONNX model: {error}") from error
    session.disable_fallback()  # to a CPU, in the middle of a call: whoever asked for a GPU is to know
    session._model_bytes = None  # kept for that fallback alone
    if session.get_providers()[0] != providers[0]:
        log.warning("%s is not usable here, running on %s", providers[0], session.get_providers()[0])
    return session


def _check_signature(session: ort.InferenceSession, metadata: Metadata, path: Path, output: str) -> int:
    """The image size S of a model `image: uint8 [N, S, S, 3] -> output: float32 [N]` and perhaps `distance`, likewise,
    and `map`: `[N, h, w]`; raises ModelError otherwise."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    size = int(metadata.image_size) if metadata.image_size.isdecimal() else 0
    wanted_in = ("image", "tensor(uint8)", [size, size, 3])
    wanted_out = (output, "tensor(float)", 1)
    optional = {(DISTANCE, "tensor(float)", 1), (MAP, "tensor(float)", 3)}
    found_in = [(x.name, x.type, x.shape[1:]) for x in inputs]
    found_out = [(x.name, x.type, len(x.shape)) for x in outputs]
    if size < 1 or found_in != [wanted_in] or found_out[:1] != [wanted_out] or not set(found_out[1:]) <= optional:
        raise ModelError(f"{path} has inputs {found_in} and outputs {found_out}, expected {wanted_in} -> {wanted_out}")
    return size
