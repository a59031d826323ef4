"""Scoring a folder: order, bad files, resuming."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from serving import batch
from serving.engine import scorer
from serving.model import golden
from serving.model.predictor import Predictor
from tests.support.live import ROOT, environment, photo, wait_until
from tests.support.onnx_models import Pair, write_pair
from tests.support.workspace import full_disk


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    pair = write_pair(tmp_path / "artifacts", t_clean=0.75, t_low=0.5)
    monkeypatch.setenv("MODEL_PATH", str(pair.model))
    return pair


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number in range(30):
        path = folder / f"{number % 3}" / f"{number:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(number * 8, size=(64 + 40 * (number % 7), 48)))
    return folder


def rows(out: Path) -> list[list[str]]:
    with out.open(newline="", errors="surrogateescape") as file:
        return list(csv.reader(file))


def refused(arguments: list[str]) -> bool:
    with pytest.raises(SystemExit) as stop:
        batch.main(arguments)
    return stop.value.code == 2


def test_every_photo_has_a_row_in_order(pair: Pair, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    assert batch.main([str(folder), "--out", str(out)]) == 0
    header, *body = rows(out)
    assert header == ["path", "label", "p_clean", "threshold", "error"]
    assert [row[0] for row in body] == sorted(row[0] for row in body) and len(body) == 30
    for path, label, p_clean, threshold, error in body:
        expected = int(Path(path).stem) * 8 / 255
        assert float(p_clean) == pytest.approx(expected, abs=0.01) and threshold == "0.750000" and not error
        assert label == ("clean" if float(p_clean) >= 0.75 else "uncertain" if float(p_clean) >= 0.5 else "dirty")


def test_a_misspelt_setting_is_told(
    pair: Pair, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("THRESHOLD", "0.9")
    assert batch.main([str(folder / "0"), "--out", str(tmp_path / "out.csv")]) == 0
    assert any("THRESHOLD" in line and "THRESH meant" in line for line in caplog.messages)


def test_bad_files_are_recorded_and_the_rest_finished(
    pair: Pair, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "notes.txt").write_text("hello")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.png").write_bytes(photo(size=(900, 900), kind="PNG")[:200])
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / ".hidden").write_text("left out")
    (folder / 'odd "name",\nwith a line.jpg').write_bytes(photo(255))
    (folder / os.fsdecode(b"latin-\xe9.jpg")).write_bytes(photo(255))
    out = folder / "out.csv"
    assert batch.main([str(folder), "--out", str(out)]) == 1
    with out.open(newline="", errors="surrogateescape") as file:
        body = {row["path"]: row for row in csv.DictReader(file)}
    assert len(body) == 30 + 6
    assert {path for path, row in body.items() if row["error"]} == {"notes.txt", "empty.jpg", "cut.png", "gone.jpg"}
    assert body['odd "name",\nwith a line.jpg']["label"] == "clean"
    assert "4 error" in capsys.readouterr().err
    assert batch.main([str(folder), "--out", str(out)]) == 1  # the CSV itself is no photo
    assert len(rows(out)) == 1 + 36


@pytest.mark.parametrize("cut", [0, 5, 200, 201, 230, 700])
def test_resume_gives_the_same_file_without_scoring_again(
    pair: Pair, folder: Path, tmp_path: Path, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.csv"
    batch.main([str(folder), "--out", str(out)])
    whole = out.read_bytes()
    kept = whole[:cut].count(b"\n") - 1 if cut > 40 else 0
    out.write_bytes(whole[:cut])
    if cut == 5:
        assert refused([str(folder), "--out", str(out), "--resume"])
        return
    scored = []
    original = Predictor.p_clean
    monkeypatch.setattr(Predictor, "p_clean", lambda self, x: scored.append(len(x)) or original(self, x))
    assert batch.main([str(folder), "--out", str(out), "--resume"]) == 0
    assert out.read_bytes() == whole
    warm_up = 1 + golden.COUNT
    checked = min(kept, batch.CHECKED)
    assert sum(scored) - warm_up - checked == 30 - kept


def test_resume_with_another_threshold_is_refused(
    pair: Pair, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    batch.main([str(folder), "--out", str(out)])
    monkeypatch.setenv("THRESH", "0.6")
    assert refused([str(folder), "--out", str(out), "--resume"])
    assert "was written with threshold 0.750000" in capsys.readouterr().err


def test_resume_with_another_rule_or_model_is_refused(
    pair: Pair, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    batch.main([str(folder), "--out", str(out)])
    resume = [str(folder), "--out", str(out), "--resume"]
    monkeypatch.setenv("T_LOW", "0.1")
    assert refused(resume)
    assert "with the T_low of now" in capsys.readouterr().err
    monkeypatch.delenv("T_LOW")
    original = Predictor.p_clean
    monkeypatch.setattr(Predictor, "p_clean", lambda self, images: original(self, images) * 0.9)
    monkeypatch.setattr(golden, "difference", lambda *_: None)
    assert refused(resume)
    assert "another model wrote it" in capsys.readouterr().err


def test_links_to_folders_and_pipes(pair: Pair, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / "nas").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(folder / "pipe")
    (tmp_path / "linked").symlink_to(folder)
    out = folder / "out.csv"
    for _ in range(2):  # its own CSV is no photo, however the folder is named
        assert batch.main([str(tmp_path / "linked"), "--out", str(out)]) == 1
        assert [row[0] for row in rows(out)[1:] if row[4]] == ["nas"]


def test_a_full_disk_is_named_and_resume_goes_on(
    pair: Pair, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    with full_disk(300):
        assert refused([str(folder), "--out", str(out)])
    assert f"cannot write {out}: File too large" in capsys.readouterr().err
    assert 0 < len(rows(out)) < 31
    assert batch.main([str(folder), "--out", str(out), "--resume"]) == 0
    assert len(rows(out)) == 31


def test_what_cannot_be_done_at_all(pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused([str(tmp_path / "no"), "--out", "x.csv"])
    pair.model.unlink()
    assert refused([str(tmp_path), "--out", str(tmp_path / "x.csv")])
    assert "no model at" in capsys.readouterr().err


def test_a_folder_that_cannot_be_listed_has_a_row(
    pair: Pair, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir  # root may list everything, so the refusal is made here

    def scandir(path: str) -> object:
        if Path(path).name == "1":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert batch.main([str(folder), "--out", str(tmp_path / "out.csv")]) == 1
    _, *body = rows(tmp_path / "out.csv")
    assert [row[0] for row in body if row[4]] == ["1"] and len(body) == 21


@pytest.mark.parametrize("on_gpu", [False, True])
def test_order_and_calls_at_once_when_batches_take_different_times(
    pair: Pair, folder: Path, tmp_path: Path, on_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer, "usable_cores", lambda: 3)
    monkeypatch.setattr(Predictor, "on_gpu", on_gpu)
    monkeypatch.setenv("MAX_BATCH", "2")
    running, most, lock = 0, 0, threading.Lock()
    original = Predictor.p_clean

    def slow(self: Predictor, images: np.ndarray) -> np.ndarray:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02 * float(np.random.default_rng(int(images.sum())).random()))
        with lock:
            running -= 1
        return original(self, images)

    monkeypatch.setattr(Predictor, "p_clean", slow)
    assert batch.main([str(folder), "--out", str(tmp_path / "out.csv")]) == 0
    body = rows(tmp_path / "out.csv")[1:]
    assert [row[0] for row in body] == sorted(row[0] for row in body) and len(body) == 30
    assert all(float(p) == pytest.approx(int(Path(path).stem) * 8 / 255, abs=0.01) for path, _, p, _, _ in body)
    assert most == (1 if on_gpu else 3)


def test_ctrl_c_leaves_whole_rows_and_resume_adds_the_rest(folder: Path, tmp_path: Path) -> None:
    slow, out = write_pair(tmp_path / "slow", work=60), tmp_path / "out.csv"
    command = [sys.executable, "-m", "serving.batch", str(folder), "--out", str(out)]
    env = environment(slow, MAX_BATCH="1")
    with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: out.exists() and out.read_bytes().count(b"\n") >= 3, 60)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "--resume" in errors and "Traceback" not in errors
    left = rows(out)
    assert 3 <= len(left) < 31 and all(len(row) == 5 and row[1] for row in left) and out.read_bytes().endswith(b"\n")
    assert subprocess.run([*command, "--resume"], cwd=ROOT, env=env, check=False, timeout=60).returncode == 0
    assert rows(out)[: len(left)] == left and len(rows(out)) == 31
