"""The pixels of photos at one size, decoded once and kept for whoever asks next.

`data.cache` in params.yaml says where they are kept: `disk`, in a file that every stage and run shares (see
cache.py); `ram`, in each process that reads them; `none`, nowhere, so that each use decodes. They are the same to the
bit, and `data.cache_gb` bounds what is kept: the photos beyond it are decoded at each use, which is said.

They are kept at exactly the size the network sees, as the service makes them: augmentation resamples them once.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from serving.inference.photo import header
from serving.inference.photo.cores import usable_cores
from serving.inference.photo.decode import PhotoError, decode
from stages.common.base.errors import StageError
from stages.common.base.params import Data
from stages.common.base.photos import Photo
from stages.common.pixels.cache import PixelCache
from stages.common.pixels.digests import DigestCache
from stages.common.pixels.scratch import locked, scratch

CHUNK = 256  # photos decoded before they are written down
NOT_KEPT = -1

Images = NDArray[np.uint8]

log = logging.getLogger(__name__)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn whatever is wrong with a photo into a StageError that names it."""
    try:
        yield
    except (OSError, PhotoError) as error:
        raise StageError(f"{path}: {error}") from error


def batch_size(side: int) -> int:
    """Photos in a model call: no more pixels than 64 photos of 256 x 256 have, for the memory they take on the way."""
    return max(1, min(64, 64 * 256**2 // side**2))


def read_pixels(root: Path, photo: Photo, size: int) -> NDArray[np.uint8]:
    """The pixels of a photo, uint8 `[size, size, 3]`. Raises StageError naming a photo that cannot be read."""
    with naming(root / photo.name):
        return decode((root / photo.name).read_bytes(), size)


class PhotoSet:
    """Photos with their labels and pixels; a map-style data set for torch's DataLoader, which fetches whole batches."""

    def __init__(self, data: Data, photos: Sequence[Photo], size: int) -> None:
        """Decode what is not kept yet, on every core, with a progress bar.

        Raises StageError naming a photo that cannot be read.
        """
        self.root, self.photos, self.size = Path(data.root), photos, size
        self.labels = np.array([photo.label for photo in photos])
        self.threads = usable_cores()  # for photos that are not kept
        limit = int(data.cache_gb * 1e9)
        if data.cache == "disk":
            self._kept, self._rows = self._on_disk(limit)
        else:
            self._kept, self._rows = self._in_memory(limit if data.cache == "ram" else 0)
        left_out = int((self._rows == NOT_KEPT).sum())
        if left_out and data.cache != "none":
            log.warning(
                "%d of %d photos do not fit into data.cache_gb: %s and are decoded at each use",
                left_out, len(photos), data.cache_gb,
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self.photos)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Images, NDArray[np.int64]]:
        """A batch: pixels uint8 `[N, S, S, 3]`, labels `[N]`."""
        return self.pixels(indices), self.labels[list(indices)]

    def pixels(self, indices: Sequence[int]) -> Images:
        """The pixels of some photos, uint8 `[N, S, S, 3]`, a copy."""
        rows = self._rows[list(indices)]
        if (rows != NOT_KEPT).all():
            return np.asarray(self._kept[rows])
        kept = iter(self._kept[rows[rows != NOT_KEPT]])
        decoded = iter(self._decode([self.photos[i] for i, row in zip(indices, rows, strict=True) if row == NOT_KEPT]))
        return np.stack([next(decoded) if row == NOT_KEPT else next(kept) for row in rows])

    def batches(self, count: int | None = None) -> Iterator[Images]:
        """The pixels of all photos in order, `count` at a time, by default `batch_size`."""
        count = count or batch_size(self.size)
        for start in range(0, len(self), count):
            yield self.pixels(range(start, min(start + count, len(self))))

    def outputs(self, run: Callable[[Images], NDArray[np.floating]], title: str = "") -> NDArray[np.float64]:
        """What a network says of every photo, `[N]` or `[N, K]`; `run` takes a batch. `title` shows a progress bar."""
        count = -(-len(self) // batch_size(self.size))
        batches = tqdm(self.batches(), title, count, unit="batch", disable=None if title else True)
        return np.concatenate([run(batch) for batch in batches]).astype(np.float64)

    def sides(self) -> NDArray[np.int64]:
        """The shorter side of each photo in pixels, as its file says, `[N]`. Raises StageError naming a photo."""

        def side(photo: Photo) -> int:
            with naming(self.root / photo.name):
                return header.read((self.root / photo.name).read_bytes()).side

        with ThreadPoolExecutor(self.threads) as pool:
            return np.fromiter(pool.map(side, self.photos), np.int64, len(self))

    def _decode(self, photos: Sequence[Photo]) -> list[Images]:
        with ThreadPoolExecutor(self.threads) as pool:  # decoding releases the GIL
            return list(pool.map(lambda photo: read_pixels(self.root, photo, self.size), photos))

    def _in_memory(self, limit: int) -> tuple[Images, NDArray[np.int64]]:
        """As many photos as fit into `limit` bytes."""
        count = min(len(self), limit // (3 * self.size**2))
        kept = np.empty((count, self.size, self.size, 3), np.uint8)
        for start in tqdm(range(0, count, CHUNK), desc="decode", disable=None if count else True):
            stop = min(start + CHUNK, count)
            kept[start:stop] = self._decode(self.photos[start:stop])
        rows = np.full(len(self), NOT_KEPT)
        rows[:count] = np.arange(count)
        return kept, rows

    def _on_disk(self, limit: int) -> tuple[Images, NDArray[np.int64]]:
        """The shared cache, after adding what it lacks; one run at a time."""
        folder = scratch("pixels")
        with locked(folder / "lock", wait=False) as free:
            if free:
                return self._fill(PixelCache(folder, self.size), DigestCache(folder, self.root), limit)
        log.warning("another process is decoding photos; waiting for it (%s)", folder / "lock")
        with locked(folder / "lock"):
            return self._fill(PixelCache(folder, self.size), DigestCache(folder, self.root), limit)

    def _fill(self, cache: PixelCache, known: DigestCache, limit: int) -> tuple[Images, NDArray[np.int64]]:
        """Read the photos whose content is not known, then decode those that the cache lacks and has room for."""
        digests = [known.digest(photo.name) for photo in self.photos]
        todo = [index for index, digest in enumerate(digests) if digest not in cache.rows]

        def read(index: int) -> tuple[bytes, str]:
            with naming(self.root / self.photos[index].name):
                return known.read(self.photos[index].name)

        def digest_of(index: int) -> str:
            return digests[index] or read(index)[1]

        def decoded(index: int) -> tuple[str, Images]:
            content, digest = read(index)  # once more: photos are many, and may change at any time
            with naming(self.root / self.photos[index].name):
                return digest, decode(content, self.size)

        bar = tqdm(total=len(todo), desc="decode", unit="photo", disable=None if todo else True)
        with bar, ThreadPoolExecutor(self.threads) as pool:
            try:
                for start in range(0, len(todo), CHUNK):
                    chunk = todo[start : start + CHUNK]
                    for index, digest in zip(chunk, pool.map(digest_of, chunk), strict=True):
                        digests[index] = digest
                    new = {digests[index]: index for index in chunk if digests[index] not in cache.rows}
                    room = cache.evict(len(new), limit)
                    cache.append(dict(pool.map(decoded, list(new.values())[:room])))
                    bar.update(len(chunk))
            except OSError as error:  # such as a full disk: slower, no reason to stop
                log.warning("decoded photos cannot be kept in %s: %s", cache.folder, error.strerror)
            finally:
                known.save()
        return cache.open(), np.array([NOT_KEPT if x is None else cache.rows.get(x, NOT_KEPT) for x in digests])
