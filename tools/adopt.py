"""`make adopt FILE=judgements.csv AUDIT_DIR=audit`: judged photos become training photos, and `dvc add` follows.

Without `--apply` it only says what would be done. Photos go to train alone: those that a model called clean are no
random sample of all, and in val or test would bias the certificate and the results. So a photo whose car, or
near-duplicate, is in val or test is left out, as are photos that are there already, and copies under both labels.
"""

import argparse
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from serving.audit.auditor import AuditStore, open_store
from serving.audit.kept import parse
from serving.inference.photo.decode import open_photo
from serving.inference.photo.errors import PhotoError
from serving.inference.verdict.rule import CLASSES
from serving.stores import ReadError, reading
from stages.common.base.errors import StageError, run_stage
from stages.common.base.params import load
from stages.common.base.photos import SPLITS, Photo, list_photos
from stages.split_check.check import find_links
from stages.split_check.groups import EXACT, components, groups
from stages.split_check.params import Params
from stages.split_check.scan import ScannedPhoto, scan
from tools.audit_promise.judgements import unanimous
from tools.shell import DVC, ask

SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "HEIF": "heic", "TIFF": "tif"}


def fetch(verdicts: dict[str, str], store: AuditStore, root: Path, staging: Path) -> tuple[list[Photo], Counter[str]]:
    """Copy the judged photos that `root` does not hold to `staging`, as train photos; and why the others are left."""
    photos, left = [], Counter[str]()
    there = {path.stem for path in root.glob("*/*/audit-*")}
    judged = {name: parse(name) for name in sorted(verdicts)}
    same = {(kept.digest, verdicts[name]) for name, kept in judged.items() if kept}
    for name, kept in judged.items():
        verdict = verdicts[name]
        if kept is None:
            raise StageError(f"{name!r} is no photo that the service kept; judgements of `make judge` can be adopted")
        if len({(kept.digest, one) for one in CLASSES} & same) > 1:
            left["came twice, judged clean and dirty"] += 1
            continue
        try:
            with reading():
                data = store.get(name)
            kind = open_photo(data).format or ""
        except ReadError as error:
            if error.kind != "missing":
                raise
            left["deleted meanwhile (AUDIT_DAYS)"] += 1
            continue
        except PhotoError:
            left["unreadable"] += 1
            continue
        if f"audit-{kept.digest}" in there:
            left["adopted before"] += 1
            continue
        there.add(f"audit-{kept.digest}")
        photo = Photo(f"train/{verdict}/audit-{kept.digest}.{SUFFIXES.get(kind, kind.lower())}", CLASSES.index(verdict))
        place = staging / photo.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        photos.append(photo)
    return photos, left


def choose(new: list[ScannedPhoto], old: list[ScannedPhoto], params: Params) -> tuple[list[str], Counter[str]]:
    """The names of the new photos that may go to train, and why the others may not."""
    names, taken = {one.name for one in new if one.problem is None}, list[str]()
    left = Counter(unreadable=len(new) - len(names))
    scanned = [one for one in (*old, *new) if one.problem is None]
    links = find_links(scanned, params.split_check, params.data.car_regex)
    conflicting = {name for group in groups(scanned, links) if group.kind == "conflict" for name in group.names}
    copies = {frozenset((link.first, link.second)) for link in links if link.how in EXACT}
    same = {name for pair in copies for name in pair if len(pair - names) == 1}
    for members in components([one.name for one in scanned], links):
        elsewhere = sorted({name.split("/")[0] for name in members if name not in names} - {"train"})
        for name in sorted(names & set(members)):
            if name in conflicting:
                left["copy of a photo with the other label"] += 1
            elif name in same:
                left["in the data already"] += 1
            elif elsewhere:
                left[f"its car or near-duplicate is in {' and '.join(elsewhere)}"] += 1
            else:
                taken.append(name)
    return sorted(taken), left


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.adopt", description=__doc__)
    parser.add_argument("judgements", type=Path)
    parser.add_argument("audit_dir", help="where the service keeps photos: its AUDIT_DIR")
    parser.add_argument("--apply", action="store_true", help="do it, instead of saying what would be done")
    args = parser.parse_args(arguments)
    params = load(Params)
    root, store = Path(params.data.root), open_store(args.audit_dir)
    verdicts, doubtful = unanimous(args.judgements)
    with tempfile.TemporaryDirectory(prefix=".adopt.", dir=root.resolve().parent) as folder:
        staging = Path(folder)
        photos, left = fetch(verdicts, store, root, staging)
        existing = [photo for split in SPLITS for photo in list_photos(root, split)]
        taken, refused = choose(scan(staging, photos), scan(root, existing), params) if photos else ([], Counter())
        for why, count in (Counter({"unsure, or judges differ": doubtful}) + left + refused).items():
            print(f"{count:6} left out: {why}")
        for label, count in Counter(name.split("/")[1] for name in taken).items():
            print(f"{count:6} {label} to {root}/train/{label}")
        if not args.apply:
            print("Nothing was changed. APPLY=1 does it." if taken else "Nothing to adopt.")
            return
        for name in taken:
            shutil.move(staging / name, root / name)
    ask((*DVC, "add", str(root)), Path.cwd())  # also where an earlier run was stopped before it
    print(f"Done, and {root} added to DVC. Next: dvc repro.")


if __name__ == "__main__":
    run_stage("adopt", main)
