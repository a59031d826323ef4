"""The pipeline on a folder of real photos, across their sources, beside a plain recipe and beside other parameters.

    python -m benchmarks.real_photos FOLDER --runs runs.jsonl [--seeds 0 1 2] [--size 224] [--epochs 4]
        [--source-regex '([a-d])__'] [--group-regex '__g([0-9]+)__'] [--try NAME KEY=VALUE…]…

FOLDER holds clean/ and dirty/; the regular expressions capture a photo's source and its car. Two protocols:
leave-one-source-out (each source with both classes is the test set once) and 3-fold cross-validation by car. What is
not test is split by car, 4 to 1, into train and val. Each run goes through the stages themselves, so that it is the
exported decision that is judged. The plain recipe is plain_recipe.py. A run that is in RUNS is not repeated; without
--try, only the table is printed. Nothing is downloaded.
"""

import argparse
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("split_check", "backbone", "train", "convert", "eval", "threshold")
PLAIN = "plain recipe"
RECALL = 0.97  # of clean, at which false cleans are compared
# Labels of real photos are about 95 % right and copies abound: nothing of that may stop a benchmark.
LENIENT = {f"split_check.on_{defect}": "drop" for defect in ("unreadable", "leak", "conflict", "duplicate")}


@dataclass(frozen=True)
class Fold:
    """A split of the photos, named after the protocol and what is tested on; `{split: [path]}` below FOLDER."""

    name: str
    photos: dict[str, list[str]]


@dataclass(frozen=True)
class Run:
    """What one run gave on its test photos. `one_source_auc`: the mean over the sources with both classes."""

    name: str
    fold: str
    seed: int
    auc: float
    one_source_auc: float
    dirty: int
    false_clean: int  # at the recall that is compared
    precision: float | None = None  # of clean, at the threshold that the run chose
    recall: float | None = None
    certified: bool | None = None
    seconds: float = 0.0  # of training


def part(key: str, seed: str) -> float:
    """A number in [0, 1) that depends on the words alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big") / 2**64


def captured(pattern: str, path: str) -> str:
    """What a regular expression captures of a path, the whole path where it does not match."""
    found = re.search(pattern, path)
    return found[1] if found else path


def folds(folder: Path, source_regex: str, group_regex: str) -> Iterator[Fold]:
    """The splits of both protocols."""
    paths = sorted(
        path.relative_to(folder).as_posix() for label in ("clean", "dirty") for path in (folder / label).iterdir()
    )
    car = {path: captured(source_regex, path) + captured(group_regex, path) for path in paths}
    labels = defaultdict(set)
    for path in paths:
        labels[captured(source_regex, path)].add(path.split("/")[0])
    tests = {
        f"source {one}": {p for p in paths if captured(source_regex, p) == one}
        for one in labels
        if len(labels[one]) == 2
    }
    tests |= {f"fold {k}": {p for p in paths if int(3 * part(car[p], "fold")) == k} for k in range(3)}
    for name, test in sorted(tests.items()):
        rest = [path for path in paths if path not in test]
        val = [path for path in rest if part(car[path], "val") < 0.2]
        yield Fold(name, {"train": sorted({*rest} - {*val}), "val": val, "test": sorted(test)})


def lay_out(fold: Fold, source: Path, target: Path) -> None:
    """A data folder of links."""
    for split, paths in fold.photos.items():
        for path in paths:
            place = target / split / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to((source / path).resolve())


def command(folder: Path, *arguments: str) -> str:
    """What a program of the project prints, run in a folder; it must succeed."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    env = os.environ | {"PYTHONPATH": path, "DIRTYCAR_SCRATCH": str(folder.parent / "scratch")}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout


def set_params(folder: Path, changes: dict[str, Any]) -> None:
    """Write params.yaml with some keys changed, dots between sections."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key, value in changes.items():
        *sections, name = key.split(".")
        place = params
        for section in sections:
            place = place[section]
        if name not in place:
            sys.exit(f"params.yaml has no key {key}")
        place[name] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def judged(paths: Sequence[str], is_clean: NDArray[np.bool_], score: NDArray[Any], source_regex: str) -> dict[str, Any]:
    """The figures of a run that follow from the ranking of its test photos."""
    sources = np.array([captured(source_regex, path) for path in paths])
    within = [
        roc_auc_score(is_clean[here], score[here])
        for one in sorted(set(sources)) if len(set(is_clean[here := sources == one])) == 2
    ]  # fmt: skip
    cut = np.quantile(score[is_clean], 1 - RECALL, method="lower")
    return {
        "auc": roc_auc_score(is_clean, score), "one_source_auc": float(np.mean(within)),
        "dirty": int((~is_clean).sum()), "false_clean": int((score[~is_clean] >= cut).sum()),
    }  # fmt: skip


def ours(name: str, fold: Fold, seed: int, folder: Path, source_regex: str) -> Run:
    """One run of the stages, up to the threshold."""
    seconds = 0.0
    for stage in STAGES:
        start = time.perf_counter()
        command(folder, "-m", f"stages.{stage}")
        if stage == "train":
            seconds = time.perf_counter() - start
    with (folder / "artifacts/predictions/test.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    is_clean = np.array([row["label"] == "clean" for row in rows])
    score = np.array([float(row["logit"]) for row in rows])
    figures = judged([row["path"] for row in rows], is_clean, score, source_regex)
    decision = json.loads((folder / "artifacts/threshold.json").read_text())
    passed = np.array([float(row["p_clean"]) for row in rows]) >= decision["T_clean"]
    return Run(
        name, fold.name, seed, **figures, seconds=seconds, certified=decision["certified"],
        precision=float(is_clean[passed].mean()) if passed.any() else None, recall=float(passed[is_clean].mean()),
    )  # fmt: skip


def plain(fold: Fold, seed: int, folder: Path, settings: dict[str, Any], source_regex: str) -> Run:
    """One run of the plain recipe on the same photos and backbone."""
    for stage in STAGES[:2]:
        command(folder, "-m", f"stages.{stage}")
    held = [path for path in fold.photos["train"] if part(path, "held out") < 0.1]
    (folder / "held.json").write_text(json.dumps([f"train/{path}" for path in held]))
    params = yaml.safe_load((folder / "params.yaml").read_text())
    train = params["train"]
    numbers = (
        settings["img_size"],
        train["batch_size"],
        settings["train.epochs"],
        train["lr"],
        train["weight_decay"],
        seed,
    )
    found = json.loads(
        command(
            folder, str(ROOT / "benchmarks/plain_recipe.py"), "data_cars", params["model"], *map(str, numbers),
            "artifacts/backbone.safetensors", "held.json",
        )
    )  # fmt: skip
    paths = list(found["scores"])
    is_clean = np.array([path.split("/")[1] == "clean" for path in paths])
    figures = judged(paths, is_clean, np.array(list(found["scores"].values())), source_regex)
    return Run(PLAIN, fold.name, seed, **figures, seconds=found["seconds"])


def table(runs: Sequence[Run]) -> str:
    """Means over seeds and folds; the spread is the standard deviation of a seed's mean over folds."""
    lines = [
        f"{'':28}{'protocol':>8}{'runs':>5}{'AUC':>8}{'one-source AUC':>18}{'false cleans':>14}"
        f"{'precision':>11}{'recall':>8}{'train s':>9}"
    ]
    for name in dict.fromkeys(run.name for run in runs):
        for protocol in ("source", "fold"):
            chosen = [run for run in runs if run.name == name and run.fold.startswith(protocol)]
            if not chosen:
                continue
            seeds = [
                np.mean([r.one_source_auc for r in chosen if r.seed == s]) for s in sorted({r.seed for r in chosen})
            ]
            decided = [run for run in chosen if run.precision is not None]
            precision, recall = (
                f"{np.mean([getattr(r, key) for r in decided]):.3f}" if decided else "-"
                for key in ("precision", "recall")
            )
            false, dirty = sum(run.false_clean for run in chosen), sum(run.dirty for run in chosen)
            lines.append(
                f"{name:28}{protocol:>8}{len(chosen):5}{np.mean([run.auc for run in chosen]):8.4f}"
                f"{f'{np.mean(seeds):.4f} +- {np.std(seeds):.4f}':>18}{f'{false} of {dirty}':>14}"
                f"{precision:>11}{recall:>8}{np.mean([run.seconds for run in chosen]):9.0f}"
            )
    return "\n".join(lines)


def main() -> None:
    """Do the runs that are missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=Path, required=True, help="where each run is kept, a line of JSON each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--source-regex", default="([a-d])__")
    parser.add_argument("--group-regex", default="__g([0-9]+)__")
    parser.add_argument("--protocol", default="", help="only folds whose name begins so: source, fold, 'source a'")
    parser.add_argument("--try", dest="tries", nargs="+", action="append", default=[], metavar=("NAME", "KEY=VALUE"))
    args = parser.parse_args()
    runs = [Run(**json.loads(line)) for line in args.runs.read_text().splitlines()] if args.runs.exists() else []
    done = {(run.name, run.fold, run.seed) for run in runs}
    regexes = {"split_check.source_regex": args.source_regex, "data.car_regex": args.group_regex}
    base = {"img_size": args.size, "train.epochs": args.epochs, **LENIENT, **regexes}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in args.seeds:
            for fold in folds(args.folder, args.source_regex, args.group_regex):
                todo = [one for one in args.tries if (one[0], fold.name, seed) not in done]
                if not todo or not fold.name.startswith(args.protocol):
                    continue
                folder = Path(scratch, f"{fold.name} {seed}")
                lay_out(fold, args.folder, folder / "data_cars")
                for name, *pairs in todo:
                    changes = {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in pairs)}
                    settings = base | {"train.seed": seed} | changes
                    set_params(folder, settings)
                    if name == PLAIN:
                        run = plain(fold, seed, folder, settings, args.source_regex)
                    else:
                        run = ours(name, fold, seed, folder, args.source_regex)
                    runs.append(run)
                    with args.runs.open("a") as file:
                        file.write(json.dumps(asdict(run)) + "\n")
                    print(json.dumps(asdict(run)), flush=True)
    print(table(runs))


if __name__ == "__main__":
    main()
