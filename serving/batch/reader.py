"""The bytes of photos: local files, http(s) URLs, objects, ranges of tar archives, frames of videos."""

from __future__ import annotations

import functools
import os

from serving.batch import video
from serving.batch.photos import STORES, Photo, ReadError, extra, reading, split
from serving.fetch.client import Fetcher
from serving.fetch.policy import UrlError, UrlRefused
from serving.settings import Settings


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
            if photo.size == 0:  # no store gives a range of nothing
                return b""
            if photo.location.startswith(STORES):
                return self._object(photo)
            if photo.location.startswith(("http://", "https://")):
                return self._url(photo.location)
            with open(photo.location, "rb") as file:
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
