"""dvc.yaml declares what the stages really use: every module they import, every key of params.yaml they read."""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Set
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.common.base.params import keys, load
from stages.threshold.params import QualityLimits
from tests.support.workspace import write_photos
from tools import release

ROOT = Path(__file__).parents[1]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES = list(PIPELINE["stages"])


def module_file(name: str, root: Path = ROOT) -> Path | None:
    """The file of a first-party module or package, None for others."""
    base = root.joinpath(*name.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.exists():
            return candidate
    return None


def used_by(file: Path) -> set[str]:
    """The modules a file imports, anywhere in it, or starts by name, and the packages they lie in."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", str(node.value)):
            names.add(str(node.value))
    return names | {name.rsplit(".", depth)[0] for name in names for depth in range(1, name.count(".") + 1)}


def code_of(stage: str, root: Path = ROOT) -> set[str]:
    """Every first-party file that `python -m stages.STAGE` runs, but empty ones."""
    package = root / "stages" / stage
    entry = [package / "__init__.py", package / "__main__.py"] if package.is_dir() else [package.with_suffix(".py")]
    todo, seen = entry, set()
    while todo:
        file = todo.pop()
        if file not in seen:
            seen.add(file)
            todo += [found for name in used_by(file) if (found := module_file(name, root)) is not None]
    return {str(file.relative_to(root)) for file in seen if file.stat().st_size}


def disagreements(stage: str, deps: list[str], root: Path = ROOT) -> list[str]:
    """What a stage runs and does not declare, and what it declares and does not run, each by file and folder."""
    code = code_of(stage, root)
    found = [
        f"{stage} runs {file}, which no dep covers" for file in code if not any(map(Path(file).is_relative_to, deps))
    ]
    for dep in (dep for dep in deps if dep.startswith(("stages", "serving"))):
        files = [root / dep] if dep.endswith(".py") else (root / dep).rglob("*.py")
        names = [str(file.relative_to(root)) for file in files if file.stat().st_size]
        found += [f"{stage} declares {dep} and does not run {name}" for name in names if name not in code]
    return sorted(found)


def test_the_stages_are_the_modules() -> None:
    for name, stage in PIPELINE["stages"].items():
        assert stage["cmd"] == f"python -m stages.{name}"
        assert stage["desc"]


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_code_a_stage_runs_and_no_more(stage: str) -> None:
    assert not disagreements(stage, PIPELINE["stages"][stage]["deps"])


def params_of(stage: str) -> type[Any]:
    """The `Params` of a stage: in params.py of its package, or in its one module."""
    package = (ROOT / "stages" / stage).is_dir()
    return importlib.import_module(f"stages.{stage}.params" if package else f"stages.{stage}").Params


@pytest.mark.parametrize("stage", STAGES)
def test_params_list_the_keys_a_stage_reads(stage: str) -> None:
    """Of `data` the folder is a dependency and split_check declares the cars; `runtime` changes nothing. Of a section
    of another stage, the keys that are read."""
    read = keys(params_of(stage))
    expected = [key for key in read if key not in ("data", "runtime")]
    expected += ["data.car_regex"] * (stage == "split_check")
    if stage == "threshold":
        expected.remove("split_check")
        expected += [f"split_check.{key}" for key in keys(QualityLimits)]
    assert sorted(PIPELINE["stages"][stage].get("params", [])) == sorted(expected)
    load(params_of(stage), ROOT / "params.yaml")


def test_every_section_of_params_yaml_is_read_by_a_stage() -> None:
    read = {key for stage in STAGES for key in keys(params_of(stage))}
    assert set(yaml.safe_load((ROOT / "params.yaml").read_text())) == read


TOY = """
from pathlib import Path

from stages.common.base.errors import run_stage
from stages.common.base.files import write_json
from stages.common.base.params import Data, load, strict
from stages.common.base.paths import REPORTS
from stages.common.base.photos import list_photos


@strict
class ToyParams:
    times: int


@strict
class Params:
    data: Data
    toy: ToyParams


def main() -> None:
    params = load(Params)
    photos = list_photos(Path(params.data.root), "train")
    write_json(REPORTS / "toy.json", {"photos": params.toy.times * len(photos)})


if __name__ == "__main__":
    run_stage("toy", main)
"""


def test_a_stage_is_added_by_a_module_a_section_and_an_entry(tmp_path: Path) -> None:
    for name in ("stages", "serving", "tools", "tests/support"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "remote"))
    write_photos(tmp_path / "data_cars")
    for name in ("params.yaml", "dvc.yaml", "tests/test_pipeline.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "stages/toy.py").write_text(TOY)
    with (tmp_path / "params.yaml").open("a") as file:
        file.write("toy: {times: 3}\n")
    deps = ["serving/inference/verdict", "${data.root}/train", "stages/common/base", "stages/toy.py"]
    entry = {
        "desc": "A toy", "cmd": "python -m stages.toy", "params": ["toy"], "deps": deps,
        "metrics": [{"reports/toy.json": {"cache": False}}],
    }  # fmt: skip
    stages = PIPELINE["stages"] | {"toy": entry}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE | {"stages": stages}, sort_keys=False))

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    checks = "toy or every_section or stages_are or in_git or everything"
    run("pytest", "--noconftest", "-p", "no:cacheprovider", "tests/test_pipeline.py", "-k", checks)
    run("stages.toy")
    assert json.loads((tmp_path / "reports/toy.json").read_text()) == {"photos": 3 * 24}
    assert "toy runs serving/inference/verdict/errors.py, which no dep covers" in disagreements(
        "toy", deps[1:], tmp_path
    )
    assert disagreements("toy", [*deps, "stages/benchmark.py"], tmp_path) == [
        "toy declares stages/benchmark.py and does not run stages/benchmark.py"
    ]


@pytest.mark.parametrize("stage", ["train", "convert"])
def test_idle_threads_are_told_to_sleep_before_torch_starts_them(stage: str) -> None:
    program = f"""
import os, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "torch":
            print("torch"), os._exit(os.environ.get("OMP_WAIT_POLICY") != "PASSIVE")
sys.meta_path.insert(0, Finder())
import stages.{stage}.__main__
assert "OMP_WAIT_POLICY" in os.environ
"""
    env = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=env, check=True, timeout=60)


def test_metrics_and_plots_are_in_git_and_artifacts_are_not() -> None:
    for stage in PIPELINE["stages"].values():
        for kind in ("metrics", "plots"):
            for entry in stage.get(kind, []):
                ((path, options),) = entry.items()
                assert path.startswith("reports/") and options["cache"] is False
        for out in stage.get("outs", []):
            path, options = (out, {}) if isinstance(out, str) else next(iter(out.items()))
            cached = path.startswith("artifacts/") or path == "reports/mistakes.html"  # which holds photos
            assert cached or (path.startswith("reports/") and options["cache"] is False)
            assert ("cache" in options) != cached
            assert (options.get("remote") == "samples") == (path in (release.MODEL, release.THRESHOLD))


def test_everything_a_stage_reads_is_written_by_one_before_it() -> None:
    written: set[str] = set()
    for stage in PIPELINE["stages"].values():
        for dep in stage["deps"]:
            if dep.startswith(("artifacts/", "reports/")):
                assert dep in written, dep
        outs = [*stage.get("outs", []), *stage.get("metrics", [])]
        written |= {out if isinstance(out, str) else next(iter(out)) for out in outs}


def written_by(stage: str) -> set[str]:
    """What a stage declares to write."""
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in PIPELINE["stages"][stage].get(kind, [])]
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}


def stale(params: Set[str] = frozenset(), changed: Set[str] = frozenset()) -> list[str]:
    """The stages that a change of these params, or of these files, makes out of date."""
    found: list[str] = []
    for name, stage in PIPELINE["stages"].items():
        if params & set(stage.get("params", [])) or changed & set(stage["deps"]):
            found.append(name)
            changed |= written_by(name)
    return found


def test_a_photo_in_val_retrains_nothing() -> None:
    """split_check runs again, and writes the same list of train photos."""
    after_split_check = {"artifacts/groups.csv", "artifacts/exclusions.csv", "reports/split_check.json"}
    found = stale(changed={"${data.root}/val"} | after_split_check)
    assert found == ["eval", "threshold", "export", "benchmark"]


@pytest.mark.parametrize(
    ("section", "stages"),
    [
        ("threshold", ["threshold", "export", "benchmark"]),
        ("convert", ["convert", "eval", "threshold", "export", "benchmark"]),
        ("benchmark", ["benchmark"]),
    ],
)
def test_a_changed_section_reruns_what_follows_from_it_alone(section: str, stages: list[str]) -> None:
    assert stale(params={section}) == stages


def test_outputs_that_hold_times_are_outputs_that_no_stage_reads() -> None:
    read = {dep for stage in PIPELINE["stages"].values() for dep in stage["deps"]}
    for name, stage in PIPELINE["stages"].items():
        timings = set(stage.get("meta", {}).get("timings", []))
        assert timings <= written_by(name) and not timings & read


@pytest.mark.slow
def test_the_lock_file_is_current() -> None:
    """On a fresh clone nothing has to run: code, params, photos and outputs are those of dvc.lock."""
    command = [sys.executable, "-m", "dvc", "repro", "--dry", "--allow-missing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Running stage" not in done.stdout, done.stdout


def test_the_pipeline_solves_the_samples_and_their_metrics_are_committed() -> None:
    """What README says of the samples: see test_samples.py for what colour alone reaches on them."""
    evaluated = json.loads((ROOT / "reports/eval.json").read_text())
    assert evaluated["test"]["roc_auc"]["value"] >= 0.95
    threshold = json.loads((ROOT / "reports/threshold.json").read_text())
    assert threshold["certified"] and threshold["test"]["precision_clean"] >= 0.95


def test_photos_have_no_remote_unless_one_is_set_up() -> None:
    """`dvc push` of a customer's photos must not land in the work tree, where `git add` would publish them."""
    config = (ROOT / ".dvc/config").read_text()
    assert "remote = " not in config
    (photos,) = yaml.safe_load((ROOT / "data_cars.dvc").read_text())["outs"]
    assert photos["remote"] == "samples"
    accident = "samples/remote/files/md5/ff/by_accident"
    assert subprocess.run(["git", "check-ignore", "-q", accident], cwd=ROOT).returncode == 0
