"""`python -m stages.split_check`: find what ruins results before training; stop, leave photos out or warn.

reports/split_check.json is the gate: counts and rounded figures, and `data_version`, a hash of every usable photo's
place and content. The same photos give the same file, so nothing after it reruns.
"""

from pathlib import Path

from serving.inference.verdict.rule import CLASSES
from stages.common.base.errors import StageError, run_stage
from stages.common.base.files import csv_bytes, json_bytes, write_atomically
from stages.common.base.params import load
from stages.common.base.paths import EXCLUSIONS, FEATURES, GROUPS, REPORTS, TRAIN_PHOTOS
from stages.common.base.photos import SPLITS, list_photos
from stages.split_check.check import check
from stages.split_check.lists import features, groups, train_photos
from stages.split_check.page import PAGE, write_page
from stages.split_check.params import Params
from stages.split_check.report import FINDINGS, Findings, report
from stages.split_check.scan import scan

REPORT = REPORTS / "split_check.json"


def main() -> None:
    """Scan every photo, write the findings, and stop the pipeline where the policy of a defect is `fail`."""
    params = load(Params)
    root = Path(params.data.root)
    photos = [photo for split in SPLITS for photo in list_photos(root, split)]
    checked = check(scan(root, photos), params.split_check, params.data.car_regex)
    findings = Findings.of(checked, params.data.root)
    findings.write()  # before stopping: that is when it is needed most
    stops = [*map(str, checked.stops), *checked.lacking]
    if not stops:
        write_atomically(
            {
                EXCLUSIONS: csv_bytes(["path", "reason"], ((one.path, one.reason) for one in checked.excluded)),
                GROUPS: groups(checked),
                FEATURES: features(checked),
                TRAIN_PHOTOS: train_photos(checked),
                REPORT: json_bytes(report(checked)),
            }
        )
    try:
        write_page()
    except StageError as error:  # a list of an earlier audit, which the gate does not hang on
        print(f"WARNING: {PAGE} was not written: {error}")
    if stops:
        text = "\n".join(stops)
        raise StageError(
            f"the photos in {root} are not fit to train on\n{text}\n{FINDINGS} has all of it. Mend the photos, then "
            f"`dvc add {root}` and `dvc repro`; or see `split_check` in params.yaml."
        )
    print(findings.outlook)
    for folder, names in {root: SPLITS, **{root / split: CLASSES for split in SPLITS}}.items():
        for path in sorted(folder.glob("[!.]*")):
            if path.name not in names:
                print(f"WARNING: no stage reads {path}, whose name is none of {', '.join(names)}")
    for warning in findings.warnings:
        print(f"WARNING: {warning}")


if __name__ == "__main__":
    run_stage("split_check", main)
