"""`make split FROM=photos`: a leak-free, stratified split of photos/{clean,dirty} into train, val and test.

Photos that belong together (copies, near copies, and one car or session by `data.car_regex`) stay together. It
prints the plan and writes it to artifacts/split_plan.csv; with `--copy` it copies the photos to a folder that must
be new or empty, and is complete or not there at all.
"""

import argparse
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from serving.inference.verdict.rule import CLASSES
from stages.common.base.errors import StageError, run_stage
from stages.common.base.files import write_csv
from stages.common.base.params import load
from stages.common.base.photos import DIRTY_LABEL, SPLITS, Photo, list_photos
from stages.split_check.check import find_links
from stages.split_check.groups import Group, components, id_of
from stages.split_check.groups import groups as groups_of
from stages.split_check.outlook import outlook
from stages.split_check.params import Params
from stages.split_check.policy import bounded
from stages.split_check.scan import ScannedPhoto, scan
from tools.split.copying import check_target, copy
from tools.split.shares import Shares, assign

PLAN = Path("artifacts/split_plan.csv")


def read_shares(text: str) -> Shares:
    """Shares such as 70/15/15, as parts of 1."""
    try:
        parts = tuple(float(part) for part in text.split("/"))
    except ValueError:
        parts = ()
    if len(parts) != len(SPLITS) or not all(0 < part < math.inf for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not three positive numbers, as in 70/15/15")
    return tuple(part / sum(parts) for part in parts)


def find_photos(source: Path) -> list[Photo]:
    """The photos of an unsplit folder. Raises StageError for any other layout."""
    if not source.is_dir():
        raise StageError(f"{source} is no folder; name the one that holds {' and '.join(sorted(CLASSES))}: FROM=photos")
    if any((source / split).is_dir() for split in SPLITS):
        raise StageError(f"{source} is split already; make split wants {source}/{{{','.join(sorted(CLASSES))}}}/")
    for name in CLASSES:
        if not (source / name).is_dir():
            raise StageError(f"{source / name} is missing; the layout is {source}/{{{','.join(sorted(CLASSES))}}}/")
        if not os.listdir(source / name):
            raise StageError(f"{source / name} holds no photos")
    return list_photos(source, "")


def usable(scanned: Sequence[ScannedPhoto], *, skip: bool) -> list[ScannedPhoto]:
    """The photos that can be read. Raises StageError naming those that cannot, or says that they are left out."""
    broken = [f"{one.name}: {one.problem}" for one in scanned if one.problem is not None]
    if broken:
        text = f"{len(broken)} files cannot be read:{_lines(broken)}"
        if not skip:
            raise StageError(f"{text}\nRemove them, or leave them out with SKIP_UNREADABLE=1.")
        print(f"WARNING: {text}\nThey are left out.")
    return [one for one in scanned if one.problem is None]


def warn_of_conflicts(groups: Iterable[Group]) -> None:
    """Say which photos stand under both labels: wherever they go, split_check will stop at them."""
    conflicts = [" = ".join(bounded(group.names)) for group in groups if group.kind == "conflict"]
    if conflicts:
        told = f"{len(conflicts)} photos stand under both labels; keep each under the right one"
        print(f"WARNING: {told}:{_lines(conflicts)}")


def _lines(texts: list[str]) -> str:
    return "".join(f"\n  {text}" for text in bounded(texts))


def table(split_of: Mapping[str, str], group_of: Mapping[str, str]) -> str:
    """The plan as a table: photos, groups and each class in every split. Raises StageError where a class has none."""
    names = sorted(CLASSES)
    count = Counter((split, name.split("/")[0]) for name, split in split_of.items())
    lines = [f"{'':8}{'photos':>8}{'groups':>8}" + "".join(f"{name:>16}" for name in names)]
    for split in SPLITS:
        photos = [name for name, where in split_of.items() if where == split]
        groups = {group_of[name] for name in photos}
        cells = []
        for name in names:
            if not count[split, name]:
                raise StageError(
                    f"{split} gets no {name} photo: there are too few that are no copies of each other for these shares"
                )
            share = count[split, name] / sum(count[one, name] for one in SPLITS)
            cells.append(f"{count[split, name]:8} ({share:.1%})".rjust(16))
        lines.append(f"{split:8}{len(photos):8}{len(groups):8}" + "".join(cells))
    return "\n".join(lines)


def check_regex(photos: Sequence[ScannedPhoto], regex: str | None) -> None:
    """Say how many paths tell their car. Raises StageError where the pattern is for paths that begin with a split."""
    if regex is None:
        return
    cars = [id_of(one.name, regex) for one in photos]
    if not any(cars) and any(id_of(f"{split}/{one.name}", regex) for split in SPLITS for one in photos):
        raise StageError(f"data.car_regex: {regex!r} matches no path; here they begin with the class: {photos[0].name}")
    print(f"data.car_regex tells the car of {len(cars) - cars.count(None)} of {len(photos)} photos.")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.split", description=__doc__)
    parser.add_argument("source", type=Path, metavar="FROM", help="the folder that holds clean and dirty")
    parser.add_argument("--to", type=Path, help="where --copy puts the photos (default: data.root of params.yaml)")
    parser.add_argument("--shares", type=read_shares, default="70/15/15", help="of train, val and test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out files that cannot be read")
    parser.add_argument("--copy", action="store_true", help="copy the photos, after the plan")
    args = parser.parse_args(arguments)
    params = load(Params)
    target = args.to or Path(params.data.root)
    photos = find_photos(args.source)
    if args.copy:
        check_target(args.source, target)
    scanned = usable(scan(args.source, photos), skip=args.skip_unreadable)
    check_regex(scanned, params.data.car_regex)
    links = find_links(scanned, params.split_check, params.data.car_regex)
    warn_of_conflicts(groups_of(scanned, links))
    groups = components([one.name for one in scanned], links)
    split_of = assign(groups, {one.name: CLASSES[one.photo.label] for one in scanned}, args.shares, args.seed)
    group_of = {name: members[0] for members in groups for name in members}
    print(table(split_of, group_of))
    print(outlook((split_of[one.name], group_of[one.name]) for one in scanned if one.photo.label == DIRTY_LABEL))
    write_csv(PLAN, ("path", "split", "group"), ((name, split_of[name], group_of[name]) for name in sorted(split_of)))
    print(f"{PLAN} says where each photo goes.")
    if args.copy:
        copy(args.source, target, split_of)
        elsewhere = "" if target == Path(params.data.root) else f"set data.root: {target} in params.yaml, "
        print(f"Copied to {target}. Next: {elsewhere}dvc add {target}, then dvc repro.")
    else:
        print(f"Nothing was copied. COPY=1 copies to {target}, with TO= to another folder.")


if __name__ == "__main__":
    run_stage("split", main)
