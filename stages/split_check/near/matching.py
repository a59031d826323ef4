"""All pairs of 64-bit hashes within a Hamming radius: every one of them, without comparing all with all.

Multi-index hashing (Norouzi, Punjani, Fleet 2012). Cut into four chunks, two hashes that differ in at most r bits
differ in few bits of some chunk, by the pigeonhole principle. So for each chunk, and each way to change few of its
bits, look up who has exactly that chunk, and compare whole hashes only with those.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.photo.cores import usable_cores

CHUNKS, CHUNK_BITS = 4, 16
_BATCH = 1 << 18  # comparisons at a time, so that they stay in the cache and memory stays flat

Hashes = NDArray[np.uint64]
Indices = NDArray[np.int64]


class Matches(NamedTuple):
    """Pairs of hashes, `[P]` each, sorted and without repetition."""

    query: Indices
    target: Indices
    distance: NDArray[np.uint8]


class _Table(NamedTuple):
    """Hashes in the order of one of their chunks."""

    hashes: Hashes
    origin: Indices  # where each stood before
    keys: NDArray[np.intp]  # its chunk
    starts: NDArray[np.intp]  # [2^16 + 1], where the hashes with a given chunk begin


def pairs_within(queries: Hashes, targets: Hashes, radius: int) -> Matches:
    """Every (query, target) whose hashes differ in at most `radius` bits.

    queries `[Q]`, targets `[T]`, radius 0..15. With hashes spread out, time grows with (Q + T) and slowly with Q x T;
    memory with the pairs found.
    """
    with ThreadPoolExecutor(usable_cores()) as pool:  # numpy releases the GIL
        joins = pool.map(lambda task: list(_join(task)), _tasks(queries, targets, radius))
        found = [part for parts in joins for part in parts]
    if not found:
        return Matches(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint8))
    query, target = (np.concatenate(column) for column in zip(*found, strict=True))
    code = np.sort(query * len(targets) + target)
    query, target = code // len(targets), code % len(targets)
    return Matches(query, target, np.bitwise_count(queries[query] ^ targets[target]))


def partners(hashes: Hashes, radius: int) -> Indices:
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
    """The ways that together find every pair once. Raises ValueError for a radius that is out of range."""
    if not 0 <= radius < CHUNKS * 4:
        raise ValueError(f"radius must lie in 0..{CHUNKS * 4 - 1}, not {radius}")
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
