"""Photos in a folder -> rows with their verdicts, on every core.

Each thread takes a batch of photos from reading to verdicts by itself: no photo is handed from thread to thread, and
while one waits for a disk or a GPU the others decode.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.engine.deployment import Deployment
from serving.photo.cores import usable_cores
from serving.photo.errors import PhotoError
from serving.settings import Settings

BATCH_CPU = 4  # nobody waits for a single photo here: a few per cent cheaper than the service's calls
BUFFERED = 32  # batches per thread that may be done before their turn, so that one slow photo holds up no core


class Row(NamedTuple):
    """A line of the CSV. `path` is relative to the folder; either the verdict's fields or `error` are empty."""

    path: str
    label: str = ""
    p_clean: str = ""
    threshold: str = ""
    error: str = ""


class Scorer:
    """Photos -> rows, a batch at a time, on every core."""

    def __init__(self, deployment: Deployment, settings: Settings, folder: Path) -> None:
        self._deployment, self._settings, self._folder = deployment, settings, folder
        self.batch = settings.max_batch or max(deployment.max_batch, BATCH_CPU)  # photos in one model call
        self._threads, calls = deployment.concurrency(usable_cores())
        self._calls = threading.Semaphore(calls)

    def rows(self, paths: Sequence[str]) -> Generator[Row, None, None]:
        """The row of each photo, in order. A caller that stops early waits for the batches under way, no more."""
        pending: deque[Future[list[Row]]] = deque()
        pool = ThreadPoolExecutor(self._threads)
        try:
            for start in range(0, len(paths), self.batch):
                pending.append(pool.submit(self._score, paths[start : start + self.batch]))
                if len(pending) >= BUFFERED * self._threads:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _score(self, paths: Sequence[str]) -> list[Row]:
        """One model call for the photos that can be read; the rows of the others say what is wrong with them."""
        read = [self._read(path) for path in paths]
        p_clean: list[float] = []
        if images := [image for image in read if not isinstance(image, str)]:
            with self._calls:
                p_clean = self._deployment.predictor.p_clean(np.stack(images)).tolist()
        threshold, left = f"{self._deployment.rule.t_clean:.6f}", iter(p_clean)
        return [
            Row(path, error=found)
            if isinstance(found, str)
            else Row(path, self._deployment.label(p := next(left)), f"{p:.6f}", threshold)
            for path, found in zip(paths, read, strict=True)
        ]

    def _read(self, path: str) -> NDArray[np.uint8] | str:
        """A photo's pixels, or what keeps it from being used, in one line so that a torn row shows."""
        try:
            with (self._folder / path).open("rb") as file:
                # One byte beyond the limit tells that there are too many; no more memory is reserved than is needed.
                photo = file.read(min(os.fstat(file.fileno()).st_size, self._settings.max_bytes) + 1)
            return self._deployment.pixels(photo, self._settings)
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        except PhotoError as error:
            return " ".join(str(error).split())
