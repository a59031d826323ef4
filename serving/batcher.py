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

from serving.predictor import Predictor


@dataclass(frozen=True)
class _Job:
    """One decoded photo, for the predictor it was decoded for."""

    predictor: Predictor
    image: NDArray[np.uint8]
    result: Future[float] = field(default_factory=Future)
    queued: float = field(default_factory=time.perf_counter)


class Batcher:
    """Lanes (threads) that each take what is queued, up to `max_batch`, and run one model call on it.

    An idle lane starts at once on a single photo; while all lanes are busy the queue grows, and so does the next
    batch. The queue is unbounded: whoever submits bounds what is in flight.
    """

    def __init__(self, lanes: int, max_batch: int, observe: Callable[[Sequence[float], int], None]) -> None:
        """`observe(waits, size)` is told of each call: the seconds that each photo was queued, and the batch size."""
        self._max_batch = max_batch
        self._observe = observe
        self._queue: deque[_Job] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._lanes = [threading.Thread(target=self._run, name=f"lane-{i}", daemon=True) for i in range(lanes)]
        for lane in self._lanes:
            lane.start()

    def submit(self, predictor: Predictor, images: Sequence[NDArray[np.uint8]]) -> list[Future[float]]:
        """Queue images `[S, S, 3]`; each future gives its p_clean, or raises what the model call raised."""
        jobs = [_Job(predictor, image) for image in images]
        with self._change:
            self._queue.extend(jobs)
            self._change.notify(len(jobs))
        return [job.result for job in jobs]

    def close(self) -> None:
        """Finish what is queued and stop the lanes."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        for lane in self._lanes:
            lane.join()

    def _run(self) -> None:
        while batch := self._take():
            self._score(batch)

    def _score(self, batch: Sequence[_Job]) -> None:
        """One model call for the whole batch; its failure is every photo's failure, and the lane goes on."""
        now = time.perf_counter()
        try:
            self._observe([now - job.queued for job in batch], len(batch))
            p_clean = batch[0].predictor.p_clean(np.stack([job.image for job in batch])).tolist()
            answers = list(zip(batch, p_clean, strict=True))
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            for job in batch:
                job.result.set_exception(error)
            return
        for job, p in answers:
            job.result.set_result(p)

    def _take(self) -> list[_Job]:
        """The next batch, all for one predictor: a reload may change it between two photos. Empty when closed."""
        with self._change:
            self._change.wait_for(lambda: self._queue or self._closed)
            share = -(-len(self._queue) // len(self._lanes))  # the other lanes are free now, or will be soon
            batch: list[_Job] = []
            while self._queue and len(batch) < min(share, self._max_batch):
                if batch and self._queue[0].predictor is not batch[0].predictor:
                    break
                batch.append(self._queue.popleft())
        return batch
