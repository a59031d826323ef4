"""`make relabel FILE=corrections.csv`: move photos to the other class, or out of the data folder, as a CSV says.

Without `--apply` it checks everything and prints the plan. The CSV has the columns path (below the data folder, as in
train/dirty/0007.jpg) and action: clean, dirty or exclude, which moves to removed_photos/ beside the data folder.
`dvc checkout data_cars.dvc` is the undo until `dvc add data_cars`; the same command again completes a run that was
interrupted. Contents are never touched, since DVC may share them with its cache.
"""

import argparse
import filecmp
import os
import shutil
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from serving.inference.verdict.rule import CLASSES
from stages.common.base.errors import StageError, run_stage
from stages.common.base.params import Data, load, strict
from stages.common.base.photos import SPLITS
from tools.table import read_table

REMOVED, EXCLUDE = "removed_photos", "exclude"
COLUMNS, ACTIONS = ("path", "action"), (*sorted(CLASSES), EXCLUDE)


@strict
class Params:
    data: Data


class Correction(NamedTuple):
    """A photo, by its path below the data folder, and where it moves."""

    path: str
    action: str
    target: Path


def read_corrections(path: Path) -> list[tuple[str, str]]:
    """(path, action) rows of a CSV that a spreadsheet may have saved. Raises StageError naming what is wrong."""
    rows = [(row["path"], row["action"]) for _, row in read_table(path, COLUMNS)]
    return [row for row in rows if any(row)]


def plan(rows: list[tuple[str, str]], root: Path) -> list[Correction]:
    """The moves that are still to be made in the data folder `root`.

    A photo that has the label needs none; one that is at its target only was moved before. Raises StageError listing
    every row that cannot be followed.
    """
    moves, problems, moved = [], [], 0
    for path, action in rows:
        parts = PurePosixPath(path).parts
        plain = str(PurePosixPath(path)) == path and ".." not in parts and "\0" not in path
        if not plain or len(parts) < 3 or parts[0] not in SPLITS or parts[1] not in CLASSES:
            problems.append(f"{path!r}: no photo below {{{','.join(SPLITS)}}}/{{{','.join(sorted(CLASSES))}}}/")
        elif action not in ACTIONS:
            problems.append(f"{path}: action {action!r} is none of {', '.join(ACTIONS)}")
        elif action != parts[1]:
            kept = root.joinpath(parts[0], action, *parts[2:])
            source, target = root / path, root.parent / REMOVED / path if action == EXCLUDE else kept
            # A link counts wherever it leads: DVC may keep photos behind links.
            if not os.path.lexists(source):
                moved += os.path.lexists(target)
                problems += [] if os.path.lexists(target) else [f"{path}: no such photo"]
            elif os.path.lexists(target) and not filecmp.cmp(source, target, shallow=False):
                problems.append(f"{path}: there is another {target}; rename one of the two")
            else:
                moves.append(Correction(path, action, target))
    problems += [f"{path!r}: stands {n} times" for path, n in Counter(path for path, _ in rows).items() if n > 1]
    if problems:
        raise StageError(f"{len(problems)} problems; nothing was done:\n  " + "\n  ".join(problems))
    if moved:
        print(f"{moved:6} not where the file says, but where it wants them: moved before")
    return sorted(moves)


def relabel(file: Path, root: Path, *, go: bool) -> bool:
    """Move the photos below `root` as the corrections in `file` say, or print what would be done.

    Returns whether photos were moved. Raises StageError before anything is moved, OSError where a move fails.
    """
    moves = plan(read_corrections(file), root)
    for move in moves:
        print(f"  {move.path} -> {os.path.relpath(move.target, root.parent)}")
    counts = Counter(f"{move.path.split('/')[0]}: {move.path.split('/')[1]} to {move.action}" for move in moves)
    for what, count in sorted(counts.items()):
        print(f"{count:6} {what}")
    if not moves:
        print("Nothing to do.")
    elif not go:
        print(f"Nothing was changed. To do it: make relabel FILE={file} APPLY=1")
    else:
        for move in moves:
            move.target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(root / move.path, move.target)
    return go and bool(moves)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.relabel", description=__doc__)
    parser.add_argument("--file", type=Path, required=True, help="corrections: a CSV with the columns path and action")
    parser.add_argument("--apply", action="store_true", help="do it, instead of saying what would be done")
    args = parser.parse_args(arguments)
    data = load(Params).data
    root = Path(data.root).resolve()
    if not root.is_dir():
        raise StageError(f"params.yaml: data.root: {root} is no folder")
    if relabel(args.file, root, go=args.apply):
        print(f"Done. To undo it: dvc checkout {data.root}.dvc. To keep it: dvc add {data.root}, then dvc repro.")


if __name__ == "__main__":
    run_stage("relabel", main)
