"""Adaptive micro-batching: photos that are waiting together share one model call, and nobody waits for company."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serving.engine.round_robin import RoundRobin
from serving.inference.model.predictor import Predictor
from serving.inference.photo.errors import PhotoError
from serving.process import metrics

Pixels = NDArray[np.uint8]
Scores = list[float]  # of one photo, as Predictor.scores has them
Decode = Callable[[], Pixels]


class Stuck(RuntimeError):
    """Nothing moves in this process any more."""

    def __init__(self) -> None:
        super().__init__("nothing moves in this process any more; another takes its place")


@dataclass
class _Job:
    """One photo, and the predictor it is decoded for. `waited`: seconds before its decoding and before its call."""

    predictor: Predictor
    decode: Decode
    result: Future[Scores] = field(default_factory=Future)
    since: float = field(default_factory=time.perf_counter)
    waited: float = 0.0


class Batcher:
    """Threads that each do the next thing there is to do: decode a photo, of each request in turn, or run a model call.

    A call takes its share of the photos that are waiting, up to `max_batch`. Where every thread may make calls (a
    CPU, which has a core for each), photos are decoded until such a share is ready; where fewer may (a GPU), a call
    starts as soon as one is free, for the other threads go on decoding. An idle batcher starts at once on a single
    photo. The queue is unbounded: whoever submits bounds what is in flight.
    """

    def __init__(self, threads: int, calls: int, max_batch: int) -> None:
        """At most `calls` model calls at once."""
        self._calls = calls
        self._max_batch = max_batch
        self._gather = calls >= threads
        self._decoding: dict[int, float] = {}  # since when a thread decodes a photo, by its id
        self._calling: dict[int, float] = {}  # since when a thread is in a model call
        self._raw: RoundRobin[_Job] = RoundRobin()
        self._decoded: deque[tuple[_Job, Pixels]] = deque()
        self._change = threading.Condition()
        self._closed = False
        self.stuck = False
        self._threads = [threading.Thread(target=self._run, name=f"lane-{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, predictor: Predictor, photos: Sequence[Decode], *, first: bool = False) -> list[Future[Scores]]:
        """Queue photos, each as what decodes it to `[S, S, 3]`; a future gives its scores, or raises what decoding or
        the model call raised. `first`: before those that wait. Hand those that nobody waits for any more to `drop`.
        Raises Stuck after `give_up`."""
        jobs = [_Job(predictor, decode) for decode in photos]
        with self._change:
            if self.stuck:
                raise Stuck
            self._raw.add(jobs, first=first)
            self._change.notify(len(jobs))
        return [job.result for job in jobs]

    def drop(self, results: Sequence[Future[Scores]]) -> None:
        """Cancel what has not begun, and let go of its bytes: a model that hangs would keep them in the queue."""
        dropped = [result.cancel() for result in results]
        if any(dropped):
            with self._change:
                self._raw.remove(lambda job: job.result.cancelled())

    def busy_since(self) -> float | None:
        """Since when, by the monotonic clock, no thread was free for a photo, or no model call for a batch, and none of
        them came to an end; None where one is free. What stands still for long is stuck."""
        with self._change:
            decoding, calling = list(self._decoding.values()), list(self._calling.values())
        if len(calling) == self._calls:
            return max(calling)
        return max(decoding + calling) if len(decoding + calling) == len(self._threads) else None

    def give_up(self) -> None:
        """Answer all photos that wait, and all that are still submitted, with Stuck."""
        with self._change:
            self.stuck = True
            while self._raw:
                job = self._raw.take()
                if job.result.set_running_or_notify_cancel():
                    job.result.set_exception(Stuck())

    def close(self) -> None:
        with self._change:
            self._closed = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while work := self._next():
            with metrics.THREADS_BUSY.track_inprogress():
                if isinstance(work, _Job):
                    self._decode(work)
                else:
                    self._score(work)

    def _next(self) -> _Job | list[tuple[_Job, Pixels]] | None:
        """The next photo to decode, the next batch to score, or None when closed and done.

        Only new photos wake a waiting thread: what a busy one leaves behind, it sees itself when it comes back.
        """
        me = threading.get_ident()
        with self._change:
            self._decoding.pop(me, None)
            self._calling.pop(me, None)
            while True:
                waiting = len(self._raw) + len(self._decoded)
                share = min(-(-waiting // self._calls), self._max_batch)
                free_call = len(self._calling) < self._calls
                if free_call and self._decoded and (not self._gather or len(self._decoded) >= share):
                    self._calling[me] = time.monotonic()
                    return self._take(share)
                if self._raw:
                    self._decoding[me] = time.monotonic()
                    return self._raw.take()
                if self._closed:
                    return None
                self._change.wait()

    def _take(self, most: int) -> list[tuple[_Job, Pixels]]:
        """The oldest decoded photos, all for one predictor: a reload may change it between two photos."""
        batch = [self._decoded.popleft()]
        while self._decoded and len(batch) < most and self._decoded[0][0].predictor is batch[0][0].predictor:
            batch.append(self._decoded.popleft())
        return batch

    def _decode(self, job: _Job) -> None:
        """Make a photo ready for a call, unless it cannot be used or nobody waits for it any more."""
        if not job.result.set_running_or_notify_cancel():
            return
        job.waited += time.perf_counter() - job.since
        try:
            with metrics.DECODE_SECONDS.time():
                image = job.decode()
        except PhotoError as error:
            job.result.set_exception(type(error)(str(error)))  # a new one: the traceback of this holds the pixels
            return
        except Exception as error:  # whatever it is, it is this photo's answer, and the thread goes on
            job.result.set_exception(error)
            return
        job.since = time.perf_counter()
        with self._change:
            self._decoded.append((job, image))

    def _score(self, batch: Sequence[tuple[_Job, Pixels]]) -> None:
        """One model call for the whole batch; its failure is every photo's failure, and the thread goes on."""
        now = time.perf_counter()
        jobs, images = zip(*batch, strict=True)
        try:
            metrics.BATCH_SIZE.observe(len(jobs))
            for job in jobs:
                metrics.QUEUE_WAIT.observe(job.waited + now - job.since)
            with metrics.MODEL_SECONDS.time():
                scores = jobs[0].predictor.scores(np.stack(images)).tolist()
            answers = list(zip(jobs, scores, strict=True))
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            for job in jobs:
                job.result.set_exception(error)
        else:
            for job, score in answers:
                job.result.set_result(score)
