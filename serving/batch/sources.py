"""What the SOURCE arguments name: files, folders, globs, lists, tar archives, object-store prefixes -> photos."""

from __future__ import annotations

import fnmatch
import glob
import logging
import os
import random
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from serving.batch.lists import LISTS, listed
from serving.batch.photos import STORES, Photo, ReadError, extra, open_file, reading, split
from serving.batch.video import VIDEOS, frames
from serving.verdict.errors import UserError

log = logging.getLogger(__name__)

SIDECARS = (".json", ".txt", ".cls", ".csv", ".xml", ".yaml", ".yml")  # beside the photos of a tar archive
URLS = (*STORES, "http://", "https://")
_WILD = frozenset("*?[")


def find(
    sources: Sequence[str], *, column: str | None = None, skip: str | None = None, every: float = 1.0
) -> Iterator[Photo]:
    """Every photo of the sources, listed as it is asked for; `skip` is our own output, which may lie among them.

    Of a video a frame is taken `every` so many seconds.

    A photo is named as its source spells it; those of one folder alone, relative to the folder. Raises UserError.
    """
    for source in sources:
        if source.startswith("file://"):
            source = unquote(urlsplit(source).path)
        if source.startswith(STORES) or not source.startswith(URLS):
            yield from _source(source, column, skip or "", every, alone=len(sources) == 1)
        else:
            yield Photo(source, source)


def sample(found: Iterable[Photo], number: int, seed: int) -> list[Photo]:
    """So many of the photos, drawn uniformly by reservoir sampling (Vitter 1985), in their order."""
    draw, kept = random.Random(seed), list[tuple[int, Photo]]()
    for place, photo in enumerate(found):
        if place < number:
            kept.append((place, photo))
        elif (at := draw.randrange(place + 1)) < number:
            kept[at] = place, photo
    return [photo for _, photo in sorted(kept)]


def _source(source: str, column: str | None, skip: str, every: float, *, alone: bool) -> Iterator[Photo]:
    if not source.startswith(STORES) and os.path.isdir(source):
        yield from _folder(source, skip, alone=alone)
        return
    for name, size in _matches(source):
        if name.endswith(LISTS) and size is None:
            yield from listed(name, column)
        elif name.endswith(".tar"):
            yield from _inside(name, _tar(name))
        elif name.lower().endswith(VIDEOS):
            yield from frames(name, every)
        elif not (skip and name.startswith(f"{skip}/")):
            yield Photo(name, name, size=size)


def _matches(source: str) -> Iterator[tuple[str, int | None]]:
    """Files and objects by name, with the size of what was listed below a prefix. Raises UserError for none."""
    if source.startswith(STORES):
        found = _objects(source)
    elif os.path.lexists(source):
        found = iter([(source, None)])
    else:
        paths = sorted(glob.glob(source, recursive=True))
        found = ((path, None) for path in paths if not os.path.isdir(path))
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
                    if not any(part.startswith(".") for part in name.split("/")) and (
                        not wild or fnmatch.fnmatchcase(name, key)
                    ):
                        found = True
                        yield url[: len(url) - len(key)] + name, meta["size"]
    except ReadError as error:
        if error.kind != "forbidden" or not named or found:
            raise UserError(f"{url} cannot be listed: {error.kind}: {error}") from None
    if named and not found:
        yield url, None


def _folder(folder: str, skip: str, *, alone: bool) -> Iterator[Photo]:
    """Every file below a folder, sorted by path; hidden ones are left out.

    A link that leads nowhere or to a folder, and a folder that cannot be listed, are among them: each gets a row that
    says so.
    """
    found: list[str] = []
    refused: list[OSError] = []
    output = os.path.realpath(skip)

    def ours(path: str) -> bool:
        return os.path.basename(path) == os.path.basename(output) and os.path.realpath(path) == output

    for parent, folders, names in os.walk(folder, onerror=refused.append):
        folders[:] = [name for name in folders if not name.startswith(".") and not ours(os.path.join(parent, name))]
        paths = [path for name in names if not name.startswith(".") and not ours(path := os.path.join(parent, name))]
        found += [path for path in paths if os.path.isfile(path) or not os.path.exists(path)]  # no pipe or socket
        found += [path for name in folders if os.path.islink(path := os.path.join(parent, name))]
    found += [error.filename for error in refused]
    for path in sorted({Path(path).relative_to(folder).as_posix() for path in found}):
        location = os.path.join(folder, path)
        yield Photo(path if alone else location, location)


def _inside(name: str, found: Iterator[Photo]) -> Iterator[Photo]:
    """The photos in a file; a broken one gets a row with its error."""
    try:
        yield from found
    except (tarfile.TarError, ReadError) as error:
        log.warning("%s: %s", name, error)
        yield Photo(name, name)


def _tar(name: str) -> Iterator[Photo]:
    """The photos of an uncompressed tar archive, as ranges of its bytes."""
    with open_file(name) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            archive.members.clear()  # type: ignore[attr-defined]  # of millions, none has to be remembered
            hidden = os.path.basename(member.name).startswith(".")
            if (member.isfile() or member.issym() or member.islnk()) and not (
                hidden or member.name.lower().endswith(SIDECARS)
            ):
                # A link has no bytes of its own: its row says so.
                yield Photo(f"{name}/{member.name}", name, member.offset_data, member.size if member.isfile() else 0)
