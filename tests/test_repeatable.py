"""The same photos and params give the same bytes, in whatever folder.

Of training, tests/test_train.py and tests/test_resume.py say so.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import yaml

from tests.support.workspace import ROOT, Workspace, write_photos

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


@pytest.fixture(scope="module")
def again(pipeline: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The pipeline but for training once more, in another folder, with photos written anew."""
    folder = tmp_path_factory.mktemp("quite-another-place") / "deeper"
    folder.mkdir()
    write_photos(folder / "data_cars", clean=40, dirty=20)
    workspace = Workspace(folder)
    workspace.must("split_check", "backbone")
    for name in outputs(pipeline.folder, BETWEEN):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pipeline.folder / name, folder / name)
    workspace.must("convert", "eval", "threshold", "export")
    return workspace


@pytest.mark.parametrize("stage", OTHERS)
def test_a_second_run_elsewhere_gives_the_same_bytes(pipeline: Workspace, again: Workspace, stage: str) -> None:
    first = outputs(pipeline.folder, stage)
    assert first and outputs(again.folder, stage) == first


def test_no_output_names_the_folder_it_was_made_in(pipeline: Workspace) -> None:
    place = str(pipeline.folder).encode()
    for stage in (*OTHERS, BETWEEN):
        for name in outputs(pipeline.folder, stage):
            assert place not in (pipeline.folder / name).read_bytes(), name


@pytest.mark.parametrize(
    ("stage", "in_the_way"), [("eval", "reports/eval"), ("threshold", "reports/threshold"), ("export", "reports")]
)
def test_a_stage_that_cannot_write_one_output_writes_none(
    pipeline: Workspace, tmp_path: Path, stage: str, in_the_way: str
) -> None:
    shutil.copytree(pipeline.folder, tmp_path / "copy")
    workspace = Workspace(tmp_path / "copy")
    for name in outputs(workspace.folder, stage):
        (workspace.folder / name).unlink()
    shutil.rmtree(workspace.folder / in_the_way)
    (workspace.folder / in_the_way).write_text("a file where a folder has to be")
    workspace.refuses(stage, "cannot write", in_the_way)
    assert set(outputs(workspace.folder, stage)) <= {in_the_way}
