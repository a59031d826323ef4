"""A model in service: loaded, verified against the settings and its golden answers."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving.inference.model import golden
from serving.inference.model.predictor import GPU_BATCH, ModelError, Predictor
from serving.inference.photo import header
from serving.inference.photo.cores import processor
from serving.inference.photo.decode import decode
from serving.inference.photo.errors import DecodersBusy, PhotoError
from serving.inference.photo.header import Header
from serving.inference.verdict.rule import Measures, Rule
from serving.process.signature import signed_sha256
from serving.settings import Settings

log = logging.getLogger(__name__)


class PhotoTooHeavy(PhotoError):
    """More bytes than one photo may have."""


class Concurrency(NamedTuple):
    """Threads that decode and score, and how many of them may be in a model call at once."""

    threads: int
    model_calls: int


class Judgement(NamedTuple):
    """The verdict on a photo; `reason` says why it is `unusable`."""

    label: str
    reason: str | None


@dataclass(frozen=True)
class Deployment:
    """A model in service and the rule in force."""

    predictor: Predictor
    settings: Settings
    rule: Rule
    max_batch: int  # photos in one model call at most

    @property
    def version(self) -> str:
        """Names the model in every answer: its architecture and the start of its file's sha256."""
        return f"{self.predictor.metadata.model}-{self.predictor.sha256[:12]}"

    @property
    def decision(self) -> str:
        """Names what the precision of clean is of: the version, and T_clean where it is not the model's own."""
        replaced = self.rule.t_clean != self.predictor.embedded.rule.t_clean
        return f"{self.version}-T{self.rule.t_clean:.6f}" if replaced else self.version

    @property
    def certified(self) -> bool:
        """Whether the precision of clean verdicts is proven: it is for the model's own T_clean, and for
        photos that its own limit does not refuse."""
        threshold, own = self.predictor.threshold, self.predictor.threshold.rule
        unchanged = (self.rule.t_clean, self.rule.limits) == (own.t_clean, own.limits)
        return threshold.certified and unchanged

    def concurrency(self, cores: int) -> Concurrency:
        """On a CPU a model call occupies its core. On a GPU a process makes one at a time, while its cores decode."""
        return Concurrency(cores + 1, 1) if self.predictor.on_gpu else Concurrency(cores, cores)

    def header(self, photo: bytes) -> Header | None:
        """What a photo says of itself; None where `pixels` tells what is wrong with it."""
        try:
            return header.read(photo, max_pixels=self.settings.max_pixels)
        except PhotoError:
            return None

    def pixels(
        self, photo: bytes, found: Header | None = None, *, size: int | None = None, deadline: float = math.inf
    ) -> NDArray[np.uint8]:
        """A photo as the model is to see it, uint8 `[size, size, 3]`, by default of the size it takes; `found`: its
        `header`. Raises PhotoError, also for what is over a limit, and for want of memory, or of a decoder before the
        deadline by the monotonic clock."""
        settings = self.settings
        if len(photo) > settings.max_bytes:
            raise PhotoTooHeavy(f"the photo has {len(photo):,} bytes; at most {settings.max_bytes:,} are accepted")
        try:
            return decode(
                photo, size or self.predictor.image_size,
                max_pixels=settings.max_pixels, memory=settings.decode_memory, processes=settings.threads,
                deadline=deadline, found=found,
            )  # fmt: skip
        except MemoryError:
            raise DecodersBusy("there is too little memory to decode the photo now; try again") from None

    def is_light(self, found: Header | None) -> bool:
        """Whether `pixels` takes a moment, and no other process, for a photo with this header."""
        return found is None or found.light(self.predictor.image_size)

    def judge(self, scores: Sequence[float], found: Header | None) -> Judgement:
        """The verdict at the rule in force on a photo with these `predictor.scores` and this header. Raises
        ArithmeticError for what is no number: the model is then broken."""
        p_clean, distance, brightness, sharpness = scores
        if not (math.isfinite(p_clean) and math.isfinite(distance)):
            raise ArithmeticError(f"{self.version} gave p_clean={p_clean}, distance={distance}")
        measures = Measures(distance, brightness, sharpness, math.inf if found is None else found.side)
        return Judgement(self.rule.decide(p_clean, measures), self.rule.limits.reason(measures))


def photos_per_call(predictor: Predictor) -> int:
    """Photos in one model call at most, where no setting says. A CPU reads all weights anew for each call: three images
    of 128 pixels take a core 6 % less each than two do. With larger ones a service gains nothing, and all wait for the
    last."""
    if predictor.on_gpu:
        return GPU_BATCH
    return 3 if predictor.image_size < 160 else 2


def load(settings: Settings, model: Path, threshold: Path | None, *, verified: bool = False) -> Deployment:
    """Load a model, verify it against the settings and its golden answers. `threshold`: in place of its own;
    `verified`: the signature of this very file was verified before.

    Raises ModelError or ThresholdError with what is wrong.
    """
    key = None if verified else settings.verify_key
    signed = None if key is None else signed_sha256(model, key)
    predictor = Predictor(model, threshold=threshold, threads=1)  # the batcher's threads are the parallelism
    if signed not in (None, predictor.sha256):
        raise ModelError(f"{model} changed after its signature was checked")
    max_batch = settings.max_batch or photos_per_call(predictor)
    deployment = Deployment(predictor, settings, settings.rule(predictor.threshold), max_batch)
    if settings.imgsz not in (None, predictor.image_size):
        raise ModelError(f"IMGSZ={settings.imgsz}, but {model} takes photos of {predictor.image_size} pixels")
    if settings.require_gpu and not predictor.on_gpu:
        raise ModelError(f"REQUIRE_GPU=1, but {model} runs on {predictor.provider}: see convert.target in params.yaml")
    if settings.override:
        log.warning("thresholds replaced by the environment: %s", settings.override)
    if not deployment.certified:
        reason = _not_certified(deployment, settings, model)
        if settings.require_certified:
            raise ModelError(f"REQUIRE_CERTIFIED=1, but {reason}; REQUIRE_CERTIFIED=0 serves it all the same")
        log.warning("the precision of clean verdicts is not proven: %s", reason)
    _check_answers(predictor, max_batch, model)
    return deployment


def _check_answers(predictor: Predictor, max_batch: int, model: Path) -> None:
    """Raises ModelError unless the model gives its golden answers here. It is called with one image and with
    `max_batch`, so that no request pays for the set-up of these shapes."""
    images = golden.images(predictor.golden.seeds, predictor.image_size)
    calls = -(-len(images) // max_batch)
    batches = [images[:1], *np.split(np.resize(images, (calls * max_batch, *images.shape[1:])), calls)]
    try:
        answers = [predictor.scores(batch) for batch in batches]
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        raise ModelError(f"{model} cannot be run: {error}") from error
    if [answer.shape for answer in answers] != [(len(batch), 4) for batch in batches]:
        raise ModelError(f"{model} gives {answers[0].shape} for one photo, no single p_clean")
    p_clean, distance, *_ = np.concatenate(answers[1:])[: len(images)].T.tolist()
    if wrong := golden.difference(predictor.golden, p_clean, predictor.embedded.rule, distance):
        raise ModelError(
            f"{model} answers otherwise than where it was exported: {wrong}. {predictor.provider} on {processor()} "
            "computes it differently; try another driver, or another convert.precision in params.yaml"
        )


def _not_certified(deployment: Deployment, settings: Settings, model: Path) -> str:
    """Why the T_clean in force is not certified."""
    if deployment.predictor.threshold_replaced:
        return f"THRESHOLD_PATH={settings.threshold_path} is another threshold than the one in {model}"
    if not deployment.predictor.threshold.certified:
        return f"the threshold in {model} says certified: false"
    if deployment.rule.t_clean == deployment.predictor.threshold.rule.t_clean:
        return f"REFUSE=off, and the certificate of {model} is for the photos that it does not refuse"
    name = "T_HIGH" if settings.thresh is None else "THRESH"
    return f"{name}={deployment.rule.t_clean} replaces the certified T_clean of {model}"


def builtin_photo() -> bytes:
    """A small JPEG for self-checks."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()
