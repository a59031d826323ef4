"""Photos -> verdicts under load: admission, decoding on the cores there are, batching, and a model that can change."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial

from serving.audit.auditor import Auditor
from serving.engine.batcher import Batcher, Pixels, Scores
from serving.engine.budget import Budget
from serving.engine.deployment import Deployment, builtin_photo
from serving.inference.photo.errors import PhotoError
from serving.inference.photo.header import Header
from serving.inference.verdict.rule import CLEAN
from serving.process import metrics
from serving.settings import Settings

log = logging.getLogger(__name__)

CHECK_SECONDS = 5.0  # a self-check that takes longer has failed
CHECK_AGE = 1.0  # probes may come often, and from anyone: they must not become a load of their own
# Of a request's time, after which a costly photo is given no decoder: decoding takes seconds, and the model follows.
DECODE_SHARE = 0.5


class Overloaded(RuntimeError):
    """More photos are in flight than this process takes on."""


@dataclass(frozen=True)
class Verdict:
    """The answer for one photo; nothing is rounded yet."""

    label: str
    reason: str | None  # why it is unusable
    p_clean: float
    deployment: Deployment
    audit: bool | None = None  # whether it was sampled for people to judge; None where none are


class Engine:
    """One process's serving path. Create it after the server has forked."""

    def __init__(self, settings: Settings, deployment: Deployment, auditor: Auditor | None = None) -> None:
        self.deployment = deployment  # replaced as a whole on reload; a photo keeps the one it began with
        self.photos = Budget(settings.queue)
        self.batcher = Batcher(*deployment.concurrency(settings.threads), deployment.max_batch)
        self._settings, self.auditor = settings, auditor
        self._checking = threading.Lock()
        self._checked = float("-inf")
        self._failure: Exception | None = None

    def predict(self, photos: Sequence[bytes]) -> list[Verdict | PhotoError]:
        """A verdict for each photo in order, or its error. Raises Overloaded at once when the queue is full."""
        if not self.photos.take(len(photos)):
            raise Overloaded(f"{self._settings.queue - self.photos.free} photos are waiting already")
        metrics.IN_FLIGHT.inc(len(photos))
        try:
            verdicts = self._score(photos, self._settings.request_seconds)
        finally:
            metrics.IN_FLIGHT.dec(len(photos))
            self.photos.give(len(photos))
        for verdict in verdicts:
            if isinstance(verdict, Verdict):
                metrics.VERDICTS.labels(verdict.label).inc()
                if verdict.reason is None:
                    metrics.P_CLEAN.observe(verdict.p_clean)
                else:
                    metrics.UNUSABLE.labels(verdict.reason).inc()
        if self.auditor is None:
            return verdicts
        return [_audited(self.auditor, photo, verdict) for photo, verdict in zip(photos, verdicts, strict=True)]

    def failure(self) -> Exception | None:
        """What keeps a built-in photo from going through the whole path, if anything; tried at most once a second."""
        with self._checking:
            if time.monotonic() - self._checked > CHECK_AGE:
                self._failure = self._check()
                self._checked = time.monotonic()
            return self._failure

    def close(self) -> None:
        self.batcher.close()

    def _check(self) -> Exception | None:
        """Past admission and queue: a service under full load is still ready."""
        try:
            result = self._score([builtin_photo()], CHECK_SECONDS, first=True)[0]
        except Exception as error:  # whatever it is, it keeps the service from answering
            log.error("the self-check failed", exc_info=error)
            return error
        return result if isinstance(result, PhotoError) else None

    def _score(self, photos: Sequence[bytes], seconds: float, *, first: bool = False) -> list[Verdict | PhotoError]:
        """Within so many seconds for all photos together; raises TimeoutError.

        Costly photos are decoded from this thread, one after the other: decoders do the work, and no thread of the
        batcher, which other requests wait for, stands still meanwhile.
        """
        deployment, started = self.deployment, time.monotonic()
        submit = partial(self.batcher.submit, deployment.predictor, first=first)
        found = [deployment.header(photo) for photo in photos]
        both = zip(photos, found, strict=True)
        decode = [partial(deployment.pixels, photo, header) for photo, header in both]
        light = [place for place, header in enumerate(found) if deployment.is_light(header)]
        results = dict(zip(light, submit([decode[place] for place in light]), strict=True))
        try:
            for place in range(len(photos)):
                if place not in results:
                    costly = partial(decode[place], deadline=started + seconds * DECODE_SHARE)
                    results[place] = _submit_decoded(costly, submit)
            return [_verdict(results[i], found[i], started + seconds, deployment) for i in range(len(photos))]
        finally:
            self.batcher.drop(list(results.values()))  # after a failure: nobody waits for what has not begun


def _audited(auditor: Auditor, photo: bytes, verdict: Verdict | PhotoError) -> Verdict | PhotoError:
    """The verdict, and whether its photo is to be judged by people."""
    if isinstance(verdict, PhotoError):
        return verdict
    marked = verdict.label == CLEAN and auditor.mark(photo, verdict.p_clean, verdict.deployment.decision)
    return replace(verdict, audit=marked)


def _submit_decoded(
    decode: Callable[[], Pixels], submit: Callable[[list[Callable[[], Pixels]]], list[Future[Scores]]]
) -> Future[Scores]:
    """Decode a photo here and queue its pixels; its scores, or what is wrong with the photo."""
    try:
        with metrics.DECODE_SECONDS.time():
            pixels = decode()
    except PhotoError as error:
        failed: Future[Scores] = Future()
        failed.set_exception(type(error)(str(error)))  # a new one: the traceback of this holds the photo
        return failed
    return submit([pixels.copy])[0]


def _verdict(
    scores: Future[Scores], found: Header | None, deadline: float, deployment: Deployment
) -> Verdict | PhotoError:
    error = scores.exception(max(0.0, deadline - time.monotonic()))
    if isinstance(error, PhotoError):
        return error  # not raised: a traceback would be in its way out of memory
    return Verdict(*deployment.judge(scores.result(), found), scores.result()[0], deployment)
