"""The gate: what it stops, what it says, what it writes."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from conftest import Workspace
from PIL import Image

REPORT = "reports/split_check.json"


def test_good_photos_pass_and_the_report_repeats(workspace: Workspace) -> None:
    workspace.must("split_check")
    first = Path(REPORT).read_bytes()
    workspace.must("split_check")
    assert Path(REPORT).read_bytes() == first
    report = json.loads(first)
    assert report["photos"]["train"] == {"clean": 16, "dirty": 8}
    assert report["unreadable"] == 0


def test_the_data_version_follows_the_content(workspace: Workspace) -> None:
    workspace.must("split_check")
    before = json.loads(Path(REPORT).read_text())["data_version"]
    photo = workspace.data / "val/clean/000.jpg"
    photo.write_bytes(photo.read_bytes() + b"\0")
    workspace.must("split_check")
    assert json.loads(Path(REPORT).read_text())["data_version"] != before


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"hello, this is no photo", "not a photo"),
        (b"%PDF-1.7 whatever", "a PDF"),
        (None, "damaged or cut short"),
    ],
)
def test_an_unreadable_file_stops_the_pipeline(workspace: Workspace, content: bytes | None, word: str) -> None:
    photo = workspace.data / "train/dirty/003.jpg"
    photo.write_bytes(photo.read_bytes()[:400] if content is None else content)
    workspace.refuses("split_check", "train/dirty/003.jpg", word, "replace or remove", "dvc add")
    assert not Path(REPORT).exists()


def test_photos_of_every_kind_are_read(workspace: Workspace) -> None:
    folder = workspace.data / "train/clean"
    rng = np.random.default_rng(1)
    colour = Image.fromarray(rng.integers(0, 255, (40, 50, 3)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    colour.save(folder / "rotated.jpg", exif=exif)
    colour.convert("CMYK").save(folder / "cmyk.jpg")
    colour.convert("P").save(folder / "palette.png")
    Image.fromarray(rng.integers(0, 65535, (40, 50)).astype(np.uint16)).save(folder / "grey16.png")
    heic = io.BytesIO()
    pillow_heif.from_pillow(colour).save(heic)
    (folder / "photo.heic").write_bytes(heic.getvalue())
    workspace.must("split_check")
    assert json.loads(Path(REPORT).read_text())["photos"]["train"]["clean"] == 21


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("val/clean/copy.jpg", ("same photo in several splits", "train/clean/000.jpg", "val/clean/copy.jpg")),
        ("train/dirty/copy.jpg", ("both labels", "train/clean/000.jpg", "train/dirty/copy.jpg")),
        ("val/dirty/copy.jpg", ("both labels", "train/clean/000.jpg", "val/dirty/copy.jpg")),
        ("train/clean/copy.jpg", ("twice in one folder", "on_duplicate: warn", "train/clean/copy.jpg")),
    ],
)
def test_a_duplicate_stops_the_pipeline(workspace: Workspace, target: str, words: tuple[str, ...]) -> None:
    shutil.copy(workspace.data / "train/clean/000.jpg", workspace.data / target)
    workspace.refuses("split_check", *words)


def test_a_duplicate_in_one_folder_may_pass_and_no_other(workspace: Workspace) -> None:
    workspace.set(**{"split_check.on_duplicate": "warn"})
    photo = workspace.data / "train/clean/000.jpg"
    shutil.copy(photo, workspace.data / "train/clean/copy.jpg")
    done = workspace.run("split_check")
    assert done.returncode == 0
    assert "WARNING" in done.stdout and "copy.jpg" in done.stdout
    assert json.loads(Path(REPORT).read_text())["duplicates"]["exact"]["within"] == 1
    shutil.copy(workspace.data / "train/clean/001.jpg", workspace.data / "val/clean/copy.jpg")
    workspace.refuses("split_check", "several splits")


def test_an_empty_class_and_a_missing_split_are_named(workspace: Workspace) -> None:
    shutil.rmtree(workspace.data / "val/dirty")
    (workspace.data / "val/dirty").mkdir()
    workspace.refuses("split_check", "val/dirty holds no photos", "layout")
    shutil.rmtree(workspace.data / "val")
    workspace.refuses("split_check", "val/dirty", "No such file")


def test_a_folder_that_cannot_be_listed_is_named(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may read everything, so the refusal is made at the system call.
    import os

    from stages.common.data import list_photos
    from stages.common.errors import StageError

    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("val/clean"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(StageError, match=r"cannot read the folder .*val/clean: Permission denied"):
        list_photos(workspace.data, "val")


def test_hidden_files_are_no_photos_and_subfolders_are_searched(workspace: Workspace) -> None:
    (workspace.data / "train/clean/.DS_Store").write_bytes(b"x")
    (workspace.data / "train/clean/yard").mkdir()
    (workspace.data / "train/clean/000.jpg").rename(workspace.data / "train/clean/yard/000.jpg")
    workspace.must("split_check")
    assert json.loads(Path(REPORT).read_text())["photos"]["train"]["clean"] == 16
