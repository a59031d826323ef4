"""What the SOURCE arguments name: files, folders, globs, lists, archives, object-store prefixes -> photos."""

from __future__ import annotations

import fnmatch
import functools
import glob
import heapq
import os
import random
from collections.abc import Iterable, Iterator, Sequence

from serving.batch.folder import JOB
from serving.batch.lists import LISTS, listed, local, members
from serving.batch.video import VIDEOS, frames
from serving.inference.verdict.errors import UserError
from serving.stores import STORES, URLS, Photo, ReadError, extra, reading, split

_WILD = frozenset("*?[")


def find(
    sources: Sequence[str], *, column: str | None = None, own: Sequence[str] = (), every: float = 1.0
) -> Iterator[Photo]:
    """Every photo of the sources, listed as it is asked for; our `own` outputs, which may lie among them, are left out.

    Of a video a frame is taken `every` so many seconds. A photo is named as its source spells it; those of one folder
    alone, relative to the folder. Locations on the disk are absolute. Raises UserError.
    """
    ours = [path if path.startswith(STORES) else os.path.realpath(path) for path in own]
    for source in map(local, sources):
        if source.startswith(URLS) and not source.startswith(STORES):
            yield Photo(source, source)
            continue
        if (source if source.startswith(STORES) else os.path.realpath(source)) in ours:
            raise UserError(f"{source} is a source and an output; choose another name for the output")
        for photo in _source(source, column, ours, every, alone=len(sources) == 1):
            there = not photo.location or photo.location.startswith(URLS)
            yield photo if there else photo._replace(location=os.path.abspath(photo.location))


def sample(found: Iterable[Photo], number: int, seed: int) -> Iterator[Photo]:
    """So many of the photos, drawn uniformly, in their order; no more than these are held."""
    draw = random.Random(seed)
    drawn = heapq.nsmallest(number, enumerate(found), key=lambda _: draw.random())
    yield from (photo for _, photo in sorted(drawn))


def _source(source: str, column: str | None, ours: Sequence[str], every: float, *, alone: bool) -> Iterator[Photo]:
    if not source.startswith(STORES) and os.path.isdir(source):
        yield from (Photo(os.path.relpath(path, source) if alone else path, path) for path in _folder(source, ours))
        return
    for name, size in _matches(source):
        if _within(name, ours):
            continue
        ending = name.lower()
        if ending.endswith(LISTS) and size is None:
            yield from listed(name, column)
        elif ending.endswith(".tar"):
            yield from members(name)
        elif ending.endswith(VIDEOS):
            yield from frames(name, every)
        else:
            yield Photo(name, name, size=size)


def _within(name: str, places: Sequence[str]) -> bool:
    """Whether a file or object is one of the places, or lies below one, however its folder is named."""
    if not name.startswith(STORES):
        folder, base = os.path.split(os.path.abspath(name))
        name = os.path.join(_real(folder), base)
    return any(name == place or name.startswith(f"{place}/") for place in places)


_real = functools.lru_cache(1000)(os.path.realpath)


def _matches(source: str) -> Iterator[tuple[str, int | None]]:
    """Files and objects by name, with the size of what was listed below a prefix. Raises UserError for none."""
    if source.startswith(STORES):
        found = _objects(source)
    elif os.path.lexists(source):
        found = iter([(source, None)])
    else:
        found = ((path, None) for path in sorted(glob.glob(source, recursive=True)) if not os.path.isdir(path))
    first = next(found, None)
    if first is None:
        raise UserError(f"{source}: no such file, folder or object")
    yield first
    yield from found


def _objects(url: str) -> Iterator[tuple[str, int | None]]:
    """The object itself, or all below the prefix, or those that match a pattern. Hidden ones are left out.

    A name with an ending that is no prefix is a file's, which is missing or forbidden: its row says so.
    """
    place, key = split(url)
    obstore = extra("obstore")
    wild = _WILD & set(key)
    named, found = not wild and bool(os.path.splitext(key)[1]), False
    try:
        with reading():
            if key and not key.endswith("/"):
                try:
                    obstore.head(place, key)
                    yield url, None
                    return
                except FileNotFoundError:
                    pass
            prefix = key[: min(map(key.find, wild))].rpartition("/")[0] if wild else key
            for chunk in obstore.list(place, prefix or None):
                for meta in chunk:
                    name = meta["path"]
                    hidden = any(part.startswith(".") for part in name.split("/"))
                    if not hidden and (not wild or fnmatch.fnmatchcase(name, key)):
                        found = True
                        yield url[: len(url) - len(key)] + name, meta["size"]
    except ReadError as error:
        if error.kind != "forbidden" or not named or found:
            raise UserError(f"{url} cannot be listed: {error.kind}: {error}") from None
    if named and not found:
        yield url, None


def _folder(folder: str, ours: Sequence[str]) -> Iterator[str]:
    """Every file below a folder, in the order of the paths; hidden ones, and the folders of jobs in it, are left out.

    A link that leads nowhere or to a folder, and a folder that cannot be listed, are among them: each gets a row that
    says so.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name + "/" * entry.is_dir(follow_symlinks=False))
    except OSError:
        yield folder
        return
    for entry in entries:
        path = entry.path
        if entry.name.startswith(".") or _within(path, ours):
            continue
        if entry.is_dir(follow_symlinks=False):
            if not os.path.lexists(os.path.join(path, JOB)):
                yield from _folder(path, ours)
        elif os.path.isfile(path) or os.path.isdir(path) or not os.path.exists(path):  # no pipe
            yield path
