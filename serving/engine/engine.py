"""Photos -> verdicts under load: admission, decoding on the cores there are, batching, and a model that can change."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import compress

from serving.engine.batcher import Batcher
from serving.engine.deployment import Deployment, builtin_photo
from serving.photo.decode import PhotoError
from serving.process import metrics
from serving.settings import Settings

log = logging.getLogger(__name__)

CHECK_SECONDS = 5.0  # a self-check that takes longer has failed
BEGUN_BY = (
    0.5  # of a request's time, a costly photo must get its decoder: decoding takes seconds, and the model follows
)
CHECK_AGE = 1.0  # probes may come often, and from anyone: they must not become a load of their own


class Overloaded(RuntimeError):
    """More photos are in flight than this process takes on."""


@dataclass(frozen=True)
class Verdict:
    """The answer for one photo; nothing is rounded yet."""

    label: str
    p_clean: float
    deployment: Deployment


class Engine:
    """One process's serving path. Create it after the server has forked."""

    def __init__(self, settings: Settings, deployment: Deployment) -> None:
        self.deployment = deployment  # replaced as a whole on reload; a photo keeps the one it began with
        self._settings = settings
        self._free = settings.queue
        self._lock = threading.Lock()
        self.batcher = Batcher(*deployment.concurrency(settings.threads), deployment.max_batch)
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
        """Past admission and queue: a service under full load is still ready."""
        try:
            result = self._score([builtin_photo()], CHECK_SECONDS, first=True)[0]
        except Exception as error:  # whatever it is, it keeps the service from answering
            log.error("the self-check failed", exc_info=error)
            return error
        return result if isinstance(result, PhotoError) else None

    def close(self) -> None:
        """Finish what is queued."""
        self.batcher.close()

    def _score(self, photos: Sequence[bytes], seconds: float, *, first: bool = False) -> list[Verdict | PhotoError]:
        """Within so many seconds for all photos together; raises TimeoutError.

        Costly photos are decoded from here, one after the other: other processes do the work, and no lane, which other
        requests wait for, stands still meanwhile.
        """
        deployment, started = self.deployment, time.monotonic()
        light = [deployment.is_light(photo) for photo in photos]
        queue = partial(self.batcher.submit, deployment.predictor, first=first)
        decoders = [partial(deployment.pixels, photo, self._settings) for photo in photos]
        futures = dict(zip(_where(light), queue(list(compress(decoders, light))), strict=True))
        errors: dict[int, PhotoError] = {}
        try:
            for place in _where([not it for it in light]):
                try:
                    with metrics.DECODE_SECONDS.time():
                        pixels = decoders[place](deadline=started + seconds * BEGUN_BY)
                except PhotoError as error:
                    errors[place] = type(error)(str(error))  # a new one: the traceback of this holds the photo
                else:
                    futures[place] = queue([pixels.copy])[0]
            return [
                errors.get(place) or _verdict(futures[place], started + seconds, deployment)
                for place in range(len(photos))
            ]
        finally:
            self.batcher.drop(list(futures.values()))  # after a failure: nobody waits for what has not begun

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


def _where(flags: Sequence[bool]) -> list[int]:
    return [place for place, flag in enumerate(flags) if flag]


def _verdict(p_clean: Future[float], deadline: float, deployment: Deployment) -> Verdict | PhotoError:
    error = p_clean.exception(max(0.0, deadline - time.monotonic()))
    if isinstance(error, PhotoError):
        return error  # not raised: a traceback would be in its way out of memory
    p = p_clean.result()
    return Verdict(deployment.label(p), p, deployment)
