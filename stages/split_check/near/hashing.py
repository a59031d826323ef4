"""A perceptual hash of 64 bits, and the search for all pairs of hashes within a Hamming distance.

The hash survives re-encoding. Bit k is the sign of the k-th lowest frequency of the thumbnail's cosine transform (after
Zauner 2010, pHash; signs instead of a comparison with the median, since a mirror image then has known bits flipped and
a rotation swaps bits). Cropping 5 % off one side changes up to 15 bits. So each photo is also hashed under a few crops:
one of these hashes is close to that of any copy cropped by so much.

The search is multi-index hashing (Norouzi, Punjani, Fleet 2012), exact without comparing all with all. Of four chunks,
two hashes at a distance of at most r differ in few bits of some chunk, by the pigeonhole principle. So for each chunk,
and each way to change few of its bits, look up who has exactly that chunk, and compare whole hashes with those only.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.inference.photo.cores import usable_cores
from stages.split_check.scan import THUMBNAIL_SIDE

BITS = 64
_SIDE = 12  # more frequencies per axis than the lowest 64 reach
_ORDER = sorted(
    ((y, x) for y in range(_SIDE) for x in range(_SIDE) if y + x), key=lambda at: (at[0] ** 2 + at[1] ** 2, at)
)[:BITS]
_ROWS, _COLUMNS = np.array(_ORDER).T
_COSINES = np.cos(np.pi * np.outer(np.arange(_SIDE), np.arange(THUMBNAIL_SIDE) + 0.5) / THUMBNAIL_SIDE).astype(
    np.float32
)
_BLOCK = 4096
_EDGE, _CENTRE = 0.04, 0.025
# Shares cut off at the left, top, right and bottom: nothing, all around, and at each corner.
CROPS = (
    (0.0, 0.0, 0.0, 0.0),
    (_CENTRE, _CENTRE, _CENTRE, _CENTRE),
    (_EDGE, _EDGE, 0.0, 0.0),
    (_EDGE, 0.0, 0.0, _EDGE),
    (0.0, _EDGE, _EDGE, 0.0),
    (0.0, 0.0, _EDGE, _EDGE),
)

# (transposed, top to bottom, left to right): the 8 symmetries of a square, the first of which changes nothing.
SYMMETRIES = tuple((swap, down, across) for swap in (False, True) for down in (False, True) for across in (False, True))


def stack(thumbnails: Sequence[bytes]) -> NDArray[np.uint8]:
    """Thumbnails as one array `[N, THUMBNAIL_SIDE, THUMBNAIL_SIDE]`."""
    return np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE)


def turn(images: NDArray[np.uint8], symmetry: int) -> NDArray[np.uint8]:
    """Images `[N, S, S]` under one of SYMMETRIES."""
    swap, down, across = SYMMETRIES[symmetry]
    images = images.transpose(0, 2, 1) if swap else images
    return images[:, :: -1 if down else 1, :: -1 if across else 1]


def hashes(thumbnails: NDArray[np.uint8], crop: int = 0) -> NDArray[np.uint64]:
    """Hashes `[8, N]` of thumbnails cut by one of CROPS: row s is that of every thumbnail under symmetry s."""
    left, top, right, bottom = CROPS[crop]
    vertical, horizontal = _COSINES @ _enlarging(top, bottom), _COSINES @ _enlarging(left, right)
    found = np.empty((len(SYMMETRIES), len(thumbnails)), np.uint64)
    for start in range(0, len(thumbnails), _BLOCK):
        block = vertical @ thumbnails[start : start + _BLOCK].astype(np.float32) @ horizontal.T
        for row, (swap, down, across) in enumerate(SYMMETRIES):
            values = (block.transpose(0, 2, 1) if swap else block)[:, _ROWS, _COLUMNS]
            # Mirroring turns the sign of the odd frequencies across the mirror.
            odd = (_ROWS % 2 * down + _COLUMNS % 2 * across) % 2
            bits = np.where(odd, -values, values) > 0
            found[row, start : start + _BLOCK] = np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint64)[:, 0]
    return found


def _enlarging(before: float, after: float) -> NDArray[np.float32]:
    """A matrix `[S, S]` that stretches what lies between two cuts, as shares of an axis, over the whole axis."""
    pixels = np.arange(THUMBNAIL_SIDE, dtype=np.float32)
    place = (before + (pixels + 0.5) / THUMBNAIL_SIDE * (1 - before - after)) * THUMBNAIL_SIDE - 0.5
    weights: NDArray[np.float32] = np.maximum(0, 1 - np.abs(place.clip(0, THUMBNAIL_SIDE - 1)[:, None] - pixels))
    return weights


CHUNKS, CHUNK_BITS = 4, 16
_BATCH = 1 << 18  # comparisons at a time, so that they stay in the cache and memory stays flat

Hashes = NDArray[np.uint64]
Indices = NDArray[np.int64]


class _Table(NamedTuple):
    """Hashes in the order of one of their chunks."""

    hashes: Hashes
    origin: Indices  # where each stood before
    keys: NDArray[np.intp]  # its chunk
    starts: NDArray[np.intp]  # [2^16 + 1], where the hashes with a given chunk begin


def pairs_within(queries: Hashes, targets: Hashes, radius: int) -> tuple[Indices, Indices]:
    """Every (query, target) within a Hamming distance of `radius`, sorted and without repetition, `[P]` each.

    queries `[Q]`, targets `[T]`, radius 0..15. With hashes spread out, time grows with (Q + T) and slowly with Q x T;
    memory with the pairs found.
    """
    with ThreadPoolExecutor(usable_cores()) as pool:  # numpy releases the GIL
        joins = pool.map(lambda task: list(_join(task)), _tasks(queries, targets, radius))
        found = [part for parts in joins for part in parts]
    codes = [query * len(targets) + target for query, target in found]
    query, target = np.divmod(np.sort(np.concatenate([np.empty(0, np.int64), *codes])), len(targets))
    return query, target


def neighbour_counts(hashes: Hashes, radius: int) -> Indices:
    """How many of the other hashes differ from each of `hashes` `[N]` in at most `radius` bits, `[N]`.

    No pair is kept: memory stays flat however many there are.
    """

    def count(task: _Task) -> Indices:
        found = np.zeros(len(hashes), np.int64)
        for query, _ in _join(task):
            found += np.bincount(query, minlength=len(hashes))
        return found

    with ThreadPoolExecutor(usable_cores()) as pool:
        counts = pool.map(count, _tasks(hashes, hashes, radius))
        return sum(counts, np.full(len(hashes), -1, np.int64))  # each is found beside itself


class _Task(NamedTuple):
    """One way in which two hashes may be found: their chunks differ in exactly the bits of `change`."""

    left: _Table
    right: _Table
    change: int
    radius: int
    limits: tuple[int, ...]  # of the chunks before this one, in bits; who is within one was found there


def _tasks(queries: Hashes, targets: Hashes, radius: int) -> list[_Task]:
    """The ways that together find every pair once."""
    # Were every chunk over its limit, the hashes would differ in more than `radius` bits (Norouzi, section 3.3).
    limits = tuple(radius // CHUNKS - (chunk > radius % CHUNKS) for chunk in range(CHUNKS))
    tasks = []
    for chunk in range(CHUNKS):
        left, right = _table(queries, chunk), _table(targets, chunk)
        tasks += [_Task(left, right, change, radius, limits[:chunk]) for change in _changes(limits[chunk])]
    return tasks


def _table(hashes: Hashes, chunk: int) -> _Table:
    keys = (hashes >> np.uint64(chunk * CHUNK_BITS)).astype(np.uint16)
    order = np.argsort(keys, kind="stable")
    counts = np.bincount(keys, minlength=1 << CHUNK_BITS)
    return _Table(hashes[order], order, keys[order].astype(np.intp), np.concatenate([[0], np.cumsum(counts)]))


def _changes(limit: int) -> Iterator[int]:
    """Every way to change at most `limit` bits of a chunk, as a mask."""
    for count in range(limit + 1):
        for bits in combinations(range(CHUNK_BITS), count):
            yield sum(1 << bit for bit in bits)


def _join(task: _Task) -> Iterator[tuple[Indices, Indices]]:
    """The pairs within the radius that a task finds and none before it."""
    left, right, keys = task.left, task.right, task.left.keys ^ task.change
    starts, counts = right.starts[keys], right.starts[keys + 1] - right.starts[keys]
    ends = np.cumsum(counts)
    first = 0
    while first < len(keys):
        before = ends[first] - counts[first]
        last = max(first + 1, int(np.searchsorted(ends, before + _BATCH, side="right")))
        here = slice(first, last)
        total = int(ends[last - 1] - before)
        query = np.repeat(np.arange(first, last), counts[here])
        target = np.arange(total) + np.repeat(starts[here] - (ends[here] - counts[here] - before), counts[here])
        apart = left.hashes[query] ^ right.hashes[target]
        near = np.flatnonzero(np.bitwise_count(apart) <= task.radius)
        for chunk, limit in enumerate(task.limits):
            bits = np.bitwise_count((apart[near] >> np.uint64(chunk * CHUNK_BITS)).astype(np.uint16))
            near = near[bits.astype(np.int64) > limit]
        if len(near):
            yield left.origin[query[near]], right.origin[target[near]]
        first = last
