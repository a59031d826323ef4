"""`make relabel FILE=corrections.csv`: move photos to the other class, or out of the data folder, as a CSV says.

Without `--apply` it checks everything and says what it would do. The CSV has the columns path (below the data folder,
as in train/dirty/0007.jpg) and action: clean, dirty or exclude, which moves to removed_photos/ beside the data folder.
Before the first move a log is written, from which `make relabel UNDO=LOG` puts everything back; the same command again
completes what was interrupted. Contents are never touched, since DVC may share them with its cache.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from serving.verdict.rule import CLASSES
from stages.common.base.errors import StageError, run_stage
from stages.common.base.params import Data, load, strict
from stages.common.base.photos import SPLITS
from tools.relabel.moves import Move, State, apply, is_plain, read_log, read_rows, remove_empty, state, write_log

LOGS, REMOVED = Path("reports/relabel"), "removed_photos"
EXCLUDE = "exclude"
ACTIONS = (*sorted(CLASSES), EXCLUDE)


@strict
class Params:
    """What this command reads of params.yaml."""

    data: Data


def plan(rows: Iterable[tuple[str, ...]], top: str) -> tuple[list[Move], list[str]]:
    """The moves that (path, action) rows ask for in the data folder called `top`, and what is wrong with the rows.

    A photo that has the label already needs no move. Nothing here looks at the disk.
    """
    moves, problems, seen = [], [], Counter[str]()
    for path, action in rows:
        seen[path] += 1
        parts = PurePosixPath(path).parts
        if not is_plain(path) or len(parts) < 3 or parts[0] not in SPLITS or parts[1] not in CLASSES:
            problems.append(f"{path!r}: no photo below {{{','.join(SPLITS)}}}/{{{','.join(sorted(CLASSES))}}}/")
        elif action not in ACTIONS:
            problems.append(f"{path}: action {action!r} is none of {', '.join(ACTIONS)}")
        elif action == EXCLUDE:
            moves.append(Move(f"{top}/{path}", f"{REMOVED}/{path}"))
        elif action != parts[1]:
            moves.append(Move(f"{top}/{path}", "/".join([top, parts[0], action, *parts[2:]])))
    problems += [f"{path!r}: stands {count} times" for path, count in seen.items() if count > 1]
    return sorted(moves), problems


def log_of(moves: Iterable[Move]) -> Path:
    """Where the log of these moves is; named after them, so that the same corrections find it again."""
    text = "\n".join(f"{move.source}\0{move.target}" for move in moves)
    return LOGS / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.csv"


def refuse(problems: list[str], what: str) -> None:
    """Raises StageError listing the problems, if there are any."""
    if problems:
        raise StageError(f"{len(problems)} problems with {what}; nothing was done:\n  " + "\n  ".join(problems))


def relabel(file: Path, home: Path, top: str, *, go: bool) -> bool:
    """Do what the corrections in `file` say with the photos in `home`/`top`, or say what would be done.

    Returns whether photos were moved. Raises StageError, with every problem there is, before anything is moved.
    """
    moves, problems = plan(read_rows(file, ("path", "action")), top)
    log, now = log_of(moves), state(home, moves)
    # Without a log it was not us who put a photo where it shall go: that is another photo of the same name.
    problems += now.problems + ([] if log.exists() else [f"{move.source}: no such photo" for move in now.done])
    refuse(problems, str(file))
    describe(now, top)
    if not now.todo:
        print(f"Nothing to do; the log of these corrections is {log}." if moves else "Nothing to do.")
        return False
    if not go:
        print(f"Nothing was changed. To do it: make relabel FILE={file} APPLY=1")
        return False
    write_log(log, moves)
    apply(home, now.todo)
    print(f"Done. To put everything back: make relabel UNDO={log}")
    return True


def undo(log: Path, home: Path, top: str) -> bool:
    """Put back the photos that a log says were moved; those that never were stay. Returns and raises as `relabel`."""
    back = sorted(move.back() for move in read_log(log, (top, REMOVED)))
    now = state(home, back)
    refuse(now.problems, str(log))
    apply(home, now.todo)
    for folder, keep in ((REMOVED, 0), (top, 3)):
        remove_empty(home, (move.source for move in back if move.source.startswith(f"{folder}/")), keep)
    print(f"{len(now.todo)} photos were put back." if now.todo else "Nothing to do: every photo is where it was.")
    return bool(now.todo)


def describe(now: State, top: str) -> None:
    """Print every move, then what they come to in each split."""
    counts: Counter[str] = Counter()
    for move in now.todo:
        source, target = (PurePosixPath(end).parts for end in (move.source, move.target))
        counts[f"{source[1]}: {source[2]} to {target[2] if target[0] == top else REMOVED}"] += 1
        print(f"  {move.source} -> {move.target}")
    for what, count in sorted(counts.items()):
        print(f"{count:6} {what}")
    if now.done:
        print(f"{len(now.done):6} moved before")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.relabel", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--file", type=Path, help="corrections: a CSV with the columns path and action")
    what.add_argument("--undo", type=Path, metavar="LOG", help="put back what the log says was moved")
    parser.add_argument("--apply", action="store_true", help="do it, instead of saying what would be done")
    args = parser.parse_args()
    data = load(Params).data
    root = Path(data.root).resolve()
    if not root.is_dir():
        raise StageError(f"params.yaml: data.root: {root} is no folder")
    if args.undo:
        moved = undo(args.undo, root.parent, root.name)
    else:
        moved = relabel(args.file, root.parent, root.name, go=args.apply)
    if moved:
        print(f"Next: dvc add {data.root}, then dvc repro.")


if __name__ == "__main__":
    run_stage("relabel", main)
