"""Corrections: checked in full before anything moves, logged before the first move, undone exactly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.common.base.errors import StageError
from tests.support.workspace import ROOT, Workspace
from tools.relabel import moves
from tools.relabel.__main__ import LOGS, relabel, undo

TOP = "data_cars"
CORRECTIONS = "path,action\ntrain/dirty/000.jpg,clean\ntest/clean/003.jpg,exclude\nval/clean/001.jpg,clean\n"


@pytest.fixture
def home(workspace: Workspace) -> Path:
    """Photos whose names are their own in every split, as relabel needs them."""
    for path in workspace.data.rglob("dirty/*.jpg"):
        path.rename(path.with_name("d" + path.name))
    (workspace.data / "train/dirty/d000.jpg").rename(workspace.data / "train/dirty/000.jpg")
    (workspace.data / "train/clean/000.jpg").unlink()
    return workspace.folder


def corrections(home: Path, text: str = CORRECTIONS) -> Path:
    file = home / "corrections.csv"
    file.write_text(text)
    return file


def tree(home: Path) -> dict[str, bytes]:
    """Every photo and its content."""
    found = (path for top in (TOP, "removed_photos") for path in (home / top).rglob("*"))
    return {str(path.relative_to(home)): path.read_bytes() if path.is_file() else b"" for path in found}


def log() -> Path:
    (found,) = LOGS.iterdir()
    return found


def test_a_dry_run_changes_nothing_and_says_what_would_be_done(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(home)
    assert not relabel(corrections(home), home, TOP, go=False)
    said = capsys.readouterr().out
    assert tree(home) == before and not LOGS.exists()
    assert "data_cars/train/dirty/000.jpg -> data_cars/train/clean/000.jpg" in said
    assert "1 test: clean to removed_photos" in said and "APPLY=1" in said
    assert "val/clean/001.jpg" not in said  # it is clean already


def test_applied_and_undone_everything_is_as_before(home: Path) -> None:
    before = tree(home)
    assert relabel(corrections(home), home, TOP, go=True)
    after = tree(home)
    assert after["data_cars/train/clean/000.jpg"] == before["data_cars/train/dirty/000.jpg"]
    assert after["removed_photos/test/clean/003.jpg"] == before["data_cars/test/clean/003.jpg"]
    assert sum(map(bool, after.values())) == sum(map(bool, before.values()))
    assert undo(log(), home, TOP)
    assert tree(home) == before and not (home / "removed_photos").exists()


def test_photos_in_sub_folders_keep_them_and_undo_removes_what_it_made(home: Path) -> None:
    deep = home / TOP / "train/dirty/yard 7/cam,1"
    deep.mkdir(parents=True)
    (deep / 'ü "b".jpg').write_bytes(b"photo")
    before = tree(home)
    rows = 'path,action\n"train/dirty/yard 7/cam,1/ü ""b"".jpg",clean\n'
    assert relabel(corrections(home, rows), home, TOP, go=True)
    assert (home / TOP / 'train/clean/yard 7/cam,1/ü "b".jpg').exists()
    undo(log(), home, TOP)
    assert tree(home) == before


def test_twice_is_once_and_after_undo_it_can_be_done_again(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = corrections(home)
    relabel(file, home, TOP, go=True)
    after = tree(home)
    assert not relabel(file, home, TOP, go=True) and tree(home) == after
    assert "Nothing to do" in capsys.readouterr().out
    undo(log(), home, TOP)
    assert not undo(log(), home, TOP)
    assert relabel(file, home, TOP, go=True) and tree(home) == after


@pytest.mark.parametrize("finish", ["complete", "undo"])
def test_an_interrupted_run_is_completed_or_undone(home: Path, monkeypatch: pytest.MonkeyPatch, finish: str) -> None:
    before, rename = tree(home), Path.rename

    def crash(self: Path, target: Path) -> Path:
        if self.name == "000.jpg":  # the second
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            relabel(corrections(home), home, TOP, go=True)
    assert (home / "removed_photos/test/clean/003.jpg").exists() and (home / TOP / "train/dirty/000.jpg").exists()
    if finish == "undo":
        undo(log(), home, TOP)
        assert tree(home) == before
        return
    assert relabel(corrections(home), home, TOP, go=True)
    assert {"data_cars/train/clean/000.jpg", "removed_photos/test/clean/003.jpg"} <= set(tree(home))


def test_the_log_is_on_the_disk_before_the_first_move(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(Path, "rename", lambda self, target: seen.append((log().read_text(), target)))
    relabel(corrections(home), home, TOP, go=True)
    text = "from,to\ndata_cars/test/clean/003.jpg,removed_photos/test/clean/003.jpg\n"
    assert len(seen) == 2 and all(content.startswith(text) for content, _ in seen)


def test_every_problem_is_listed_and_nothing_is_done(home: Path) -> None:
    (home / TOP / "val/dirty/001.jpg").write_bytes(b"another")
    before = tree(home)
    rows = [
        "train/clean/nowhere.jpg,dirty", "val/clean/001.jpg,dirty", "test/clean/001.jpg,wash",
        "test/clean/002.jpg,exclude", "test/clean/002.jpg,dirty", "../secret,exclude",
        "/etc/passwd,exclude", "train/clean,exclude",
        "train/clean/../clean/004.jpg,dirty", "train/clean/005.jpg,dirty",
    ]  # fmt: skip
    with pytest.raises(StageError) as error:
        relabel(corrections(home, "path,action\n" + "\n".join(rows)), home, TOP, go=True)
    for words in (
        "train/clean/nowhere.jpg: no such photo", "val/clean/001.jpg: there is another data_cars/val/dirty/001.jpg",
        "test/clean/001.jpg: action 'wash'", "'test/clean/002.jpg': stands 2 times", "'../secret'", "'/etc/passwd'",
        "'train/clean'", "'train/clean/../clean/004.jpg'",
    ):  # fmt: skip
        assert words in str(error.value)
    assert str(error.value).startswith("8 problems") and "005.jpg" not in str(error.value)
    assert tree(home) == before and not LOGS.exists()


def test_a_photo_of_the_same_name_in_the_other_class_is_not_taken_for_a_moved_one(home: Path) -> None:
    with pytest.raises(StageError, match=r"train/dirty/001\.jpg: no such photo"):
        relabel(corrections(home, "path,action\ntrain/dirty/001.jpg,clean\n"), home, TOP, go=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"path;action\nx;clean\n", "separated by commas"),
        (b"photo,what\n", "columns path,action"),
        (b"", "columns path,action"),
        (b"path,action\n\xff\xfe,clean\n", "cannot read"),
        (b'path,action\n"train/clean/001.jpg,clean\n', "cannot read"),
        (b"path,action\ntrain/clean/001.jpg\n", "action ''"),
    ],
)
def test_a_csv_that_is_none_is_refused(home: Path, content: bytes, words: str) -> None:
    file = home / "corrections.csv"
    file.write_bytes(content)
    with pytest.raises(StageError, match=words):
        relabel(file, home, TOP, go=True)


def test_a_spreadsheet_may_have_saved_it(home: Path) -> None:
    file = home / "corrections.csv"
    file.write_bytes("﻿rank,path,action\r\n1,train/dirty/000.jpg,clean\r\n,,\r\n".encode())
    assert relabel(file, home, TOP, go=True)
    assert (home / TOP / "train/clean/000.jpg").exists()


def test_links_into_a_cache_are_moved_as_links(home: Path, tmp_path: Path) -> None:
    cached, photo = tmp_path / "cached", home / TOP / "train/dirty/000.jpg"
    photo.rename(cached)
    cached.chmod(0o444)
    photo.symlink_to(cached)
    relabel(corrections(home), home, TOP, go=True)
    assert os.readlink(home / TOP / "train/clean/000.jpg") == str(cached)
    assert cached.stat().st_mode & 0o777 == 0o444


def test_undo_refuses_a_log_that_leads_elsewhere(home: Path) -> None:
    file = home / "log.csv"
    for row in ("data_cars/train/clean/001.jpg,/tmp/x", "data_cars/../x,removed_photos/x", "other/a,removed_photos/a"):
        file.write_text(f"from,to\n{row}\n")
        with pytest.raises(StageError, match="is no log of relabel"):
            undo(file, home, TOP)


def test_undo_does_not_overwrite_what_came_after(home: Path) -> None:
    relabel(corrections(home), home, TOP, go=True)
    (home / TOP / "train/dirty/000.jpg").write_bytes(b"a new photo")
    before = tree(home)
    with pytest.raises(StageError, match=r"there is another data_cars/train/dirty/000\.jpg"):
        undo(log(), home, TOP)
    assert tree(home) == before


def test_a_photo_that_appears_meanwhile_is_not_overwritten(home: Path) -> None:
    move = moves.Move("data_cars/train/clean/001.jpg", "data_cars/train/clean/002.jpg")
    before = tree(home)
    with pytest.raises(StageError, match="appeared meanwhile"):
        moves.apply(home, [move])
    assert tree(home) == before


def test_the_command_line(home: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tools.relabel", *arguments]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=60)

    corrections(home)
    done = run("--file", "corrections.csv", "--apply")
    assert done.returncode == 0 and "Next: dvc add data_cars, then dvc repro." in done.stdout, done.stderr
    done = run("--undo", str(log()))
    assert done.returncode == 0 and "2 photos were put back" in done.stdout, done.stderr
    done = run("--file", "nowhere.csv")
    assert done.returncode == 1 and "cannot read nowhere.csv" in done.stderr and "Traceback" not in done.stderr
