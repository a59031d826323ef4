"""Moving photos so that a crash in between loses nothing: a log first, then the moves, each of which can be repeated.

A log is a CSV of `from,to`, paths relative to the folder that holds the data folder. What of it is done is read off the
disk: a photo is at one of the two places.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stages.common.base.errors import StageError
from stages.common.base.files import write_csv

HEADER = ("from", "to")


@dataclass(frozen=True, order=True)
class Move:
    """A photo's way, both ends relative to the folder that holds the data folder."""

    source: str
    target: str

    def back(self) -> Move:
        """The way back."""
        return Move(self.target, self.source)


def read_rows(path: Path, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The named columns of a CSV that may have passed through a spreadsheet. Raises StageError naming what is wrong."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise StageError(f"{path}: the first line must name the columns {','.join(columns)}, separated by commas")
        rows = [tuple(row[name] or "" for name in columns) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StageError(f"cannot read {path}: {error}") from error
    return [row for row in rows if any(row)]


def is_plain(path: str) -> bool:
    """Whether a path is relative, stays below its folder and is written in the one way there is."""
    pure = PurePosixPath(path)
    return bool(path) and str(pure) == path and not pure.is_absolute() and ".." not in pure.parts and "\0" not in path


def there(path: Path) -> bool:
    """Whether something is at a path; a link counts, wherever it leads: DVC may keep photos behind links."""
    return os.path.lexists(path)


def write_log(path: Path, moves: Iterable[Move]) -> None:
    """Write the log and see it safely on the disk."""
    write_csv(path, HEADER, ((move.source, move.target) for move in moves))
    _sync(path.parent)


def read_log(path: Path, tops: Sequence[str]) -> list[Move]:
    """Read a log whose paths begin with one of the folders `tops`. Raises StageError for anything else."""
    moves = [Move(*row) for row in read_rows(path, HEADER)]
    for move in moves:
        for end in (move.source, move.target):
            if not is_plain(end) or PurePosixPath(end).parts[0] not in tops:
                raise StageError(
                    f"{path} is no log of relabel for these photos: {end!r} is not below {' or '.join(tops)}"
                )
    return moves


@dataclass(frozen=True)
class State:
    """How far moves have come, and what stands against going on, a line each."""

    todo: list[Move]
    done: list[Move]
    problems: list[str]


def state(home: Path, moves: Iterable[Move]) -> State:
    """Read off the disk how far moves below `home` have come."""
    found = State([], [], [])
    for move in moves:
        source, target = there(home / move.source), there(home / move.target)
        if source and target:
            found.problems.append(f"{move.source}: there is another {move.target}; rename one of the two")
        elif source:
            found.todo.append(move)
        elif target:
            found.done.append(move)
        else:
            found.problems.append(f"{move.source}: no such photo")
    found.problems.extend(sorted({line for move in found.todo for line in _obstacles(home, move)}))
    return found


def _obstacles(home: Path, move: Move) -> Iterator[str]:
    """What would make a move fail half-way."""
    ends = []
    for end in (move.source, move.target):
        folder = (home / end).parent
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            yield f"{folder}: not a folder, or no permission to change it"
        ends.append(folder)
    if ends[0].stat().st_dev != ends[1].stat().st_dev:
        yield f"{ends[0]} and {ends[1]} lie on different disks, so that photos cannot be moved in one step"


def apply(home: Path, moves: Sequence[Move]) -> None:
    """Make the moves; stops at the first that fails, which leaves every photo at one end of its way."""
    folders = set()
    for move in moves:
        source, target = home / move.source, home / move.target
        target.parent.mkdir(parents=True, exist_ok=True)
        if there(target):  # since it was checked
            raise StageError(f"{target} has appeared meanwhile; nothing was overwritten")
        source.rename(target)
        folders |= {source.parent, target.parent}
    for folder in sorted(folders):
        _sync(folder)


def remove_empty(home: Path, paths: Iterable[str], keep: int) -> None:
    """Remove the folders that hold no more of `paths` nor anything else, but for the first `keep` levels of each."""
    for path in paths:
        for folder in [home / parent for parent in PurePosixPath(path).parents][: -keep - 1]:
            if folder.exists() and any(folder.iterdir()):
                break
            if folder.exists():
                folder.rmdir()


def _sync(folder: Path) -> None:
    """See the names in a folder safely on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
