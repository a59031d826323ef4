"""Photos -> verdicts under load: admission, decoding on the cores there are, batching, and a model that can change."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

from serving import metrics
from serving.batcher import Batcher
from serving.image import PhotoError, decode
from serving.served import Served, builtin_photo
from serving.settings import Settings

log = logging.getLogger(__name__)

CHECK_SECONDS = 5.0  # a self-check that takes longer has failed
CHECK_AGE = 1.0  # probes may come often, and from anyone: they must not become a load of their own


class Overloaded(RuntimeError):
    """More photos are in flight than this process takes on."""


class PhotoTooHeavy(PhotoError):
    """More bytes than one photo may have."""


@dataclass(frozen=True)
class Verdict:
    """The answer for one photo; nothing is rounded yet."""

    label: str
    p_clean: float
    served: Served


class Engine:
    """One process's serving path. Create it after the server has forked."""

    def __init__(self, settings: Settings, served: Served) -> None:
        self.served = served  # replaced as a whole on reload; a photo keeps the one it began with
        self._settings = settings
        self._free = settings.queue
        self._lock = threading.Lock()
        self._decoding = threading.BoundedSemaphore(settings.threads)
        lanes = 1 if served.predictor.on_gpu else settings.threads  # a CPU call runs on one core
        self._batcher = Batcher(lanes, served.max_batch, metrics.observe_batch)
        self._checking = threading.Lock()
        self._checked = float("-inf")
        self._failure: Exception | None = None

    def predict(self, photos: Sequence[bytes]) -> list[Verdict | PhotoError]:
        """A verdict for each photo in order, or its error. Raises Overloaded at once when the queue is full."""
        with self._admit(len(photos)):
            verdicts = self._score(photos, self._settings.request_seconds)
        for verdict in verdicts:
            if isinstance(verdict, Verdict):
                metrics.VERDICTS.labels(verdict.label).inc()
                metrics.P_CLEAN.observe(verdict.p_clean)
        return verdicts

    def failure(self) -> Exception | None:
        """What keeps a built-in photo from going through the whole path, if anything; tried at most once a second."""
        with self._checking:
            if time.monotonic() - self._checked > CHECK_AGE:
                self._failure = self._check()
                self._checked = time.monotonic()
            return self._failure

    def _check(self) -> Exception | None:
        """Past admission: a service under full load is still ready."""
        try:
            result = self._score([builtin_photo()], CHECK_SECONDS)[0]
        except Exception as error:  # whatever it is, it keeps the service from answering
            log.error("the self-check failed", exc_info=error)
            return error
        return result if isinstance(result, PhotoError) else None

    def close(self) -> None:
        """Finish what is queued."""
        self._batcher.close()

    def _score(self, photos: Sequence[bytes], seconds: float) -> list[Verdict | PhotoError]:
        served = self.served
        results = [self._begin(photo, served) for photo in photos]
        return [r if isinstance(r, PhotoError) else _verdict(r.result(seconds), served) for r in results]

    def _begin(self, photo: bytes, served: Served) -> Future[float] | PhotoError:
        """Decode a photo and queue it; its model call may run while the next one is decoded."""
        if len(photo) > self._settings.max_bytes:
            return PhotoTooHeavy(
                f"the photo has {len(photo):,} bytes; at most {self._settings.max_bytes:,} are accepted"
            )
        try:
            with self._decoding:  # more decoders than cores would only take memory
                image = decode(photo, served.predictor.image_size, max_pixels=self._settings.max_pixels)
        except PhotoError as error:
            return type(error)(str(error))  # without a traceback: it would hold the pixels, in a circle with the caller
        return self._batcher.submit(served.predictor, [image])[0]

    @contextmanager
    def _admit(self, count: int) -> Iterator[None]:
        """Hold places for `count` photos, or raise Overloaded."""
        with self._lock:
            if count > self._free:
                raise Overloaded(f"{self._settings.queue - self._free} photos are waiting already")
            self._free -= count
        metrics.IN_FLIGHT.inc(count)
        try:
            yield
        finally:
            metrics.IN_FLIGHT.dec(count)
            with self._lock:
                self._free += count


def _verdict(p_clean: float, served: Served) -> Verdict:
    if not math.isfinite(p_clean):
        raise ArithmeticError(f"{served.version} gave p_clean={p_clean}")
    return Verdict(served.rule.decide(p_clean), p_clean, served)
