"""Outputs are written whole or not at all, and expected errors are one message."""

import json
import os
from pathlib import Path

import pytest

from stages.common.base.errors import StageError, run_stage
from stages.common.base.files import csv_bytes, json_bytes, read_json, write_atomically, write_bytes, write_json
from tests.support.workspace import full_disk


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_json(path, {"a": 1})
    message = r"cannot write .*report\.json: File too large; nothing was left half-written"
    with full_disk(), pytest.raises(StageError, match=message):
        write_bytes(path, b"x" * 100_000)
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["report.json"]


def test_of_several_files_all_are_written_or_none(tmp_path: Path) -> None:
    """The second is too large for what the disk has left."""
    files = {tmp_path / "plots/a.csv": b"a", tmp_path / "plots/b.csv": b"b" * 100_000, tmp_path / "c.json": b"{}"}
    with full_disk(50_000), pytest.raises(StageError, match=r"cannot write .*plots/b\.csv: File too large"):
        write_atomically(files)
    assert os.listdir(tmp_path) == ["plots"] and os.listdir(tmp_path / "plots") == []
    write_atomically(files)
    assert {path: path.read_bytes() for path in files} == files
    assert sorted(os.listdir(tmp_path / "plots")) == ["a.csv", "b.csv"]


def test_content_is_on_disk_before_it_has_its_name_and_then_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of a power cut's chances: flush each file, rename all, flush the folder."""
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def spy_fsync(descriptor: int) -> None:
        steps.append(f"flush {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name.split('.')[1:2]}")
        fsync(descriptor)

    def spy_replace(self: Path, target: Path) -> Path:
        steps.append(f"name {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    write_atomically({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert steps == ["flush ['a']", "flush ['b']", "name a", "name b", "flush []"]


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("a file")
    with pytest.raises(StageError, match=r"cannot write .*reports/x\.json"):
        write_json(tmp_path / "reports/x.json", {})


def test_json_is_rounded_for_reports_and_whole_for_artifacts(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": [1 / 3, {"b": 2 / 3}], "n": None, "t": True})
    assert read_json(path) == {"a": [0.333333, {"b": 0.666667}], "n": None, "t": True}
    assert json.loads(json_bytes({"a": 1 / 3}, digits=None)) == {"a": 1 / 3}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})


def test_csv_keeps_every_digit_and_quotes_names() -> None:
    assert csv_bytes(["path", "p"], [("a,b.jpg", 1 / 3)]) == b'path,p\n"a,b.jpg",0.3333333333333333\n'


def test_what_another_stage_left_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    for name in ("x.json", "missing.json"):
        with pytest.raises(StageError, match=f"cannot read .*{name}"):
            read_json(tmp_path / name)


def test_expected_errors_are_a_message_and_others_keep_their_trace(capsys: pytest.CaptureFixture[str]) -> None:
    def expected() -> None:
        raise StageError("the file x is broken")

    def defect() -> None:
        raise KeyError("oops")

    with pytest.raises(SystemExit) as stop:
        run_stage("train", expected)
    assert stop.value.code == 1
    assert capsys.readouterr().err == "\ntrain: the file x is broken\n"
    with pytest.raises(KeyError):
        run_stage("train", defect)
