"""Photos -> bytes -> rows with their verdicts, on every core.

Each thread takes a batch of photos from reading to verdicts by itself: no photo is handed from thread to thread, and
while one waits for a disk, a network or a GPU the others decode.
"""

from __future__ import annotations

import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.audit.auditor import start_auditor
from serving.batch import video
from serving.engine.deployment import Deployment
from serving.fetch.client import Fetcher
from serving.fetch.policy import UrlError, UrlRefused
from serving.inference.photo.cores import usable_cores
from serving.inference.photo.errors import PhotoError
from serving.inference.photo.header import Header
from serving.inference.verdict.rule import CLEAN
from serving.settings import Settings
from serving.stores import STORES, URLS, Photo, ReadError, extra, open_file, reading, split

BATCH_CPU = 4  # nobody waits for a single photo here: a few per cent cheaper than the service's calls
BUFFERED = 32  # batches per thread that may be done before their turn, so that one slow photo holds up no core
ARCHIVES = (".tar", ".tgz", ".zip", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
READING = 4  # batches per core that are read, perhaps over a network, while one is scored

Read = Callable[[Photo], bytes]


class Row(NamedTuple):
    """The result of one photo; either the verdict's fields or `error` are empty. Of one that is `unusable`, `error` is
    the reason."""

    path: str
    label: str = ""
    p_clean: float | None = None
    threshold: float | None = None
    error: str = ""


class Reader:
    """Photo -> bytes, from any number of threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @functools.cached_property
    def _fetcher(self) -> Fetcher:
        return Fetcher.from_settings(self._settings)

    def __call__(self, photo: Photo) -> bytes:
        """At most MAX_BYTES + 1 bytes, so that the caller sees that there are too many. Raises ReadError."""
        with reading(listed=photo.size is not None):
            if video.is_frame(photo.location):
                # Its picture has three bytes a pixel.
                pixels = min(self._settings.max_pixels, self._settings.max_bytes // 3)
                return video.read_frame(photo.location, pixels)
            if photo.location.lower().endswith(ARCHIVES) and not photo.offset:
                with open_file(photo.location):  # what is not there says so itself
                    what = "an archive that is compressed, damaged or cut short; unpack it, or make a .tar of it"
                    raise ReadError("unreadable", what)
            if photo.size == 0:  # no store gives a range of nothing
                return b""
            if photo.location.startswith(STORES):
                return self._object(photo)
            if photo.location.startswith(URLS):
                return self._url(photo.location)
            # Without waiting for the other end of a pipe.
            with open(photo.location, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
                file.seek(photo.offset)
                # No more memory is reserved than is needed.
                return file.read(self._most(os.fstat(file.fileno()).st_size if photo.size is None else photo.size))

    def _most(self, size: int) -> int:
        return min(size, self._settings.max_bytes + 1)

    def _object(self, photo: Photo) -> bytes:
        obstore, (place, key) = extra("obstore"), split(photo.location)
        if photo.offset and photo.size is not None:
            return bytes(obstore.get_range(place, key, start=photo.offset, length=self._most(photo.size)))
        answer = obstore.get(place, key)
        if (size := answer.meta["size"]) > self._settings.max_bytes:  # it is not downloaded
            raise ReadError("unreadable", f"the object has {size:,} bytes; MAX_BYTES is less")
        return bytes(answer.bytes())

    def _url(self, url: str) -> bytes:
        if not self._settings.url_fetch:
            raise ReadError("refused", "URL_FETCH=0")
        try:
            return self._fetcher.fetch(url)
        except UrlError as error:
            raise ReadError("refused" if isinstance(error, UrlRefused) else "unfetchable", str(error)) from None


class Scorer:
    """Photos -> rows, a batch at a time, on every core or on `workers` of them. `read` gets their bytes."""

    def __init__(self, deployment: Deployment, settings: Settings, workers: int | None = None) -> None:
        self.deployment, self.settings, self.read = deployment, settings, Reader(settings)
        self._auditor = start_auditor(settings, patient=True)
        self.min_views = settings.min_views  # of a car
        self.batch = settings.max_batch or max(deployment.max_batch, BATCH_CPU)  # photos in one model call
        self._threads, calls = deployment.concurrency(workers or usable_cores())
        self._calls = threading.Semaphore(calls)
        self._cores = threading.Semaphore(self._threads)

    def rows(self, photos: Iterable[Photo]) -> Generator[Row, None, None]:
        """The row of each photo, in order.

        A caller that stops early waits for the batches under way, no more.
        """
        pending: deque[Future[list[Row]]] = deque()
        pool, left = ThreadPoolExecutor(self._threads * (1 + READING)), iter(photos)
        try:
            while batch := list(islice(left, self.batch)):
                pending.append(pool.submit(self.score, batch))
                if len(pending) >= BUFFERED * self._threads:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def score(self, photos: Sequence[Photo], read: Read | None = None) -> list[Row]:
        """One model call for the photos that can be read; the rows of the others say what is wrong with them."""
        files = [self._bytes(photo, read or self.read) for photo in photos]
        with self._cores:
            headers = [None if isinstance(file, str) else self.deployment.header(file) for file in files]
            found = [f if isinstance(f, str) else self._pixels(f, h) for f, h in zip(files, headers, strict=True)]
            scores: list[list[float]] = []
            if images := [image for image in found if not isinstance(image, str)]:
                with self._calls:
                    scores = self.deployment.predictor.scores(np.stack(images)).tolist()
        left = iter(scores)
        rows = [
            Row(photo.path, error=image) if isinstance(image, str) else self._row(photo.path, next(left), header)
            for photo, image, header in zip(photos, found, headers, strict=True)
        ]
        if self._auditor is not None:
            for row, file in zip(rows, files, strict=True):
                if row.label == CLEAN and row.p_clean is not None and isinstance(file, bytes):
                    self._auditor.mark(file, row.p_clean, self.deployment.decision)
        return rows

    def _row(self, path: str, scores: list[float], header: Header | None) -> Row:
        label, reason = self.deployment.judge(scores, header)
        if reason:
            return Row(path, label, error=reason)
        return Row(path, label, scores[0], self.deployment.rule.t_clean)

    def _bytes(self, photo: Photo, read: Read) -> bytes | str:
        """A photo's file, or what keeps it from being read."""
        try:
            return read(photo)
        except ReadError as error:
            return f"{error.kind}: {error}"

    def _pixels(self, file: bytes, header: Header | None) -> NDArray[np.uint8] | str:
        """A photo's pixels, or what keeps it from being used, in one line so that a torn row shows."""
        try:
            return self.deployment.pixels(file, header)
        except PhotoError as error:
            return f"unreadable: {' '.join(str(error).split())}"
