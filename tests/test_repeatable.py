"""The same photos and params give the same bytes, in whatever folder.

Of training, tests/test_train.py and tests/test_resume.py say so.
"""

import hashlib
import shutil
from pathlib import Path

import pytest
import yaml

from tests.support.workspace import ROOT, InProcess, Workspace, write_photos

DECLARED = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
OTHERS = ("split_check", "backbone", "convert", "eval", "threshold", "export")
BETWEEN = "train"  # its outputs are taken from the first run


def outputs(folder: Path, stage: str) -> dict[str, str]:
    """The md5 of every file that a stage declares to write, but for those that hold times."""
    entries = [out for kind in ("outs", "metrics", "plots") for out in DECLARED[stage].get(kind, [])]
    names = [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]
    paths = [folder / name for name in names if name not in DECLARED[stage].get("meta", {}).get("timings", [])]
    found = [file for path in paths for file in (path, *sorted(path.rglob("*"))) if file.is_file()]
    return {str(file.relative_to(folder)): hashlib.md5(file.read_bytes()).hexdigest() for file in found}


def run_again(pipeline: Workspace, workspace: Workspace) -> None:
    """The pipeline but for training once more, in another folder, with photos written anew."""
    write_photos(workspace.data, clean=40, dirty=20)
    workspace.must("split_check", "backbone")
    for name in outputs(pipeline.folder, BETWEEN):
        (workspace.folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pipeline.folder / name, workspace.folder / name)
    workspace.must("convert", "eval", "threshold", "export")
    for stage in OTHERS:
        first = outputs(pipeline.folder, stage)
        assert first and outputs(workspace.folder, stage) == first


@pytest.mark.parametrize("kind", [InProcess, pytest.param(Workspace, marks=pytest.mark.slow)])
def test_a_second_run_elsewhere_gives_the_same_bytes(
    pipeline: Workspace, tmp_path: Path, kind: type[Workspace]
) -> None:
    (tmp_path / "quite another/place").mkdir(parents=True)
    run_again(pipeline, kind(tmp_path / "quite another/place"))


def test_no_output_names_the_folder_it_was_made_in(pipeline: Workspace) -> None:
    place = str(pipeline.folder).encode()
    for stage in (*OTHERS, BETWEEN):
        for name in outputs(pipeline.folder, stage):
            assert place not in (pipeline.folder / name).read_bytes(), name


@pytest.mark.parametrize(("stage", "in_the_way"), [("eval", "reports/eval"), ("threshold", "reports/threshold")])
def test_a_stage_that_cannot_write_one_output_writes_none(copy: Workspace, stage: str, in_the_way: str) -> None:
    for name in outputs(copy.folder, stage):
        (copy.folder / name).unlink()
    shutil.rmtree(copy.folder / in_the_way)
    (copy.folder / in_the_way).write_text("a file where a folder has to be")
    copy.refuses(stage, "cannot write", in_the_way)
    assert set(outputs(copy.folder, stage)) <= {in_the_way}
