"""`python -m tools.drift predictions.csv|.parquet|METRICS_URL`: what has changed since the certificate, without labels.

Estimates the share of dirty cars now and what it does to the precision of clean by the certificate's own table, and
tests whether that share alone explains the scores. Writes reports/drift.json, for alarms, and reports/drift.html. Exit
code 0: no alarm, 3: an alarm, 1: it could not be done, the message says why.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from serving.batch.results import printable
from serving.batch.scorer import Row
from serving.inference.model.quality import Quality
from serving.inference.photo.errors import PhotoError
from stages.common.base.errors import StageError, run_stage
from stages.common.base.files import json_bytes, write_atomically
from stages.common.base.params import IdRegex
from stages.common.base.paths import REPORTS
from stages.split_check.groups import id_of
from stages.split_check.scan import photo_stats
from tools.drift.page import render
from tools.drift.predictions import read_file, read_metrics
from tools.drift.reference import FEWEST, SURE, Certificate, Reference, Report

BLOCKS = 12  # of the rows, where no time is given
LOOKED_AT = 40  # photos of each block whose quality is measured


def regex(text: str) -> str:
    """An argument that has a group, as those of params.yaml."""
    try:
        return str(TypeAdapter(IdRegex).validate_python(text))
    except ValidationError as error:
        raise argparse.ArgumentTypeError(error.errors()[0]["msg"]) from None


def split_by(rows: Sequence[Row], regex: str | None) -> dict[str, list[Row]]:
    """Rows by what a regular expression captures of their paths, sorted; without one, blocks in the order of the file,
    by the number of their first row."""
    if regex is None:
        blocks = max(1, min(BLOCKS, len(rows) // FEWEST))
        return {str(part[0]): [rows[i] for i in part] for part in np.array_split(np.arange(len(rows)), blocks)}
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(printable(id_of(row.path, regex) or "other"), []).append(row)
    if list(found) == ["other"]:
        raise StageError(f"{regex!r} captures nothing of any path; the first is {rows[0].path!r}")
    return dict(sorted(found.items()))


def quality(rows: Sequence[Row], folder: Path) -> dict[str, float]:
    """Median brightness, contrast and sharpness of some of the photos; nothing where none can be read."""
    found = []
    for row in rows[:: max(1, len(rows) // LOOKED_AT)]:
        try:
            found.append(photo_stats((folder / row.path).read_bytes()).quality)
        except (OSError, PhotoError):
            continue  # its row says so, or it is not here any more
    return dict(zip(Quality._fields, np.median(found, 0).tolist(), strict=True)) if found else {}


def alarms(report: Report, target: float) -> list[str]:
    """What should wake somebody."""
    found = []
    parts = [("all photos", report["now"], SURE)]
    parts += [(name, one, SURE / len(report["sources"])) for name, one in report["sources"].items()]
    for name, one, sure in parts:
        if one.get("p_value", 1) <= sure:
            found.append(f"{name}: other scores than any share of dirty cars explains; dirt or photos have changed")
        elif one.get("precision_clean_certified", 1) < target:
            found.append(f"{name}: {one['dirty_share']:.0%} of the cars are dirty, more than the certificate covers")
    return found


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.drift", description=__doc__)
    parser.add_argument("predictions", help="a CSV or Parquet file of serving.batch, or the URL of a service")
    parser.add_argument("--source", metavar="REGEX", type=regex, help="captures camera, yard or customer from a path")
    parser.add_argument("--time", metavar="REGEX", type=regex, help="captures what sorts by time; else in file order")
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="where the paths begin: quality over time")
    parser.add_argument("--out", type=Path, default=REPORTS / "drift.json", help="and a page .html beside it")
    args = parser.parse_args(arguments)
    if args.out.suffix == ".html":
        parser.error("--out names the JSON file; the page is written beside it")
    certificate = Certificate.read()
    report: Report = {"predictions": args.predictions, "target": certificate.target, "covers": certificate.covers}
    report |= {"over_time": {}, "sources": {}}
    if args.predictions.startswith(("http://", "https://")):
        if args.source or args.time or args.photos:
            parser.error("--source, --time and --photos take a file of predictions: a service counts all photos as one")
        now, edges, threshold, rates, reloaded = read_metrics(args.predictions)
        reference = Reference(certificate, edges)
        report["now"] = {"photos": int(now.photos), "refused": rates, **reference.now(now)}
        if reloaded:
            report["now"]["note"] = "the service has reloaded its model since it started: some counts may be of another"
    else:
        rows, threshold = read_file(Path(args.predictions))
        reference = Reference(certificate)
        now = reference.scores([row.p_clean for row in rows if row.p_clean is not None])
        report["now"] = reference.rows(rows)
        for name, part in split_by(rows, args.time).items():
            report["over_time"][name] = reference.rows(part) | (quality(part, args.photos) if args.photos else {})
        if args.photos and not any(Quality._fields[0] in one for one in report["over_time"].values()):
            raise StageError(f"{args.photos} holds none of the photos that were tried; the first is {rows[0].path!r}")
        if args.source:
            sources = split_by(rows, args.source)
            report["sources"] = {name: reference.rows(part, len(sources)) for name, part in sources.items()}
    if abs(threshold - certificate.t_clean) > 1e-6:
        raise StageError(
            f"{args.predictions} has T_clean {threshold:.6f}, {REPORTS}/threshold.json {certificate.t_clean:.6f}: they "
            "are of two models, or THRESH was set; check out the commit of the model that is in service"
        )
    report["alarms"] = alarms(report, certificate.target)
    page = render(report, reference.edges, reference.clean, reference.dirty, now)
    write_atomically({args.out: json_bytes(report), args.out.with_suffix(".html"): page.encode()})
    notes = filter(None, [report["now"].get("note")])
    print(*(report["alarms"] or ["no alarm"]), *notes, f"{args.out.with_suffix('.html')} shows the curves.", sep="\n")
    if report["alarms"]:
        sys.exit(3)


if __name__ == "__main__":
    run_stage("drift", main)
