"""Training that is stopped goes on where it was, and ends with the same bytes as if nothing had happened."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Workspace, full_disk

from stages.common.data import CLEAN, DIRTY, Photo
from stages.common.params import load
from stages.common.scratch import scratch
from stages.train.distributed import Ranks
from stages.train.params import Params
from stages.train.resume import DiskMemory, run_key

OUTPUTS = ("artifacts/best.pt", "reports/train.json", "reports/train")
SECONDS = 120  # for a run to get anywhere on a busy machine


def digest(folder: Path) -> dict[str, str]:
    """The sha256 of every file that training writes."""
    files = [path for name in OUTPUTS for path in [folder / name, *sorted((folder / name).rglob("*"))]]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file()
    }


def states(folder: Path) -> list[Path]:
    return sorted(folder.glob(".scratch/train/*/[0-9]*.pt"))


class Training:
    """A workspace whose training keeps every step, and what it should end with."""

    def __init__(self, workspace: Workspace, processes: int) -> None:
        self.workspace, self.folder = workspace, workspace.folder
        workspace.set(**{"train.epochs": 4, "train.save_every": 0.0, "train.devices": processes})
        workspace.must("split_check", "backbone", "train")
        self.wanted = digest(self.folder)
        self.lose_outputs()

    def lose_outputs(self) -> None:
        """As DVC does when a stage starts."""
        Path(self.folder, OUTPUTS[0]).unlink(missing_ok=True)
        Path(self.folder, OUTPUTS[1]).unlink(missing_ok=True)
        shutil.rmtree(self.folder / OUTPUTS[2], ignore_errors=True)

    def start(self) -> subprocess.Popen[str]:
        self.lose_outputs()
        env = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.Popen(
            [sys.executable, "-m", "stages.train"], cwd=self.folder, env=env, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def stop_after(self, count: int, number: int) -> str:
        """Run until `count` states were written, then send it a signal; what it said."""
        process = self.start()
        try:
            end = time.monotonic() + SECONDS
            while not states(self.folder) or int(states(self.folder)[-1].stem) < count:
                assert process.poll() is None and time.monotonic() < end, process.communicate()[1]
                time.sleep(0.01)
            process.send_signal(number)
            return process.communicate(timeout=SECONDS)[1]
        finally:
            process.kill()

    def finish(self) -> str:
        """Run to the end, check that every output is as if never stopped; what it said."""
        self.lose_outputs()
        done = self.workspace.run("train")
        assert done.returncode == 0, done.stderr
        assert digest(self.folder) == self.wanted
        assert list(scratch("train").iterdir()) == [], "a finished run clears up"
        return done.stderr


def test_killed_interrupted_damaged_and_run_twice_at_once(workspace: Workspace) -> None:
    training = Training(workspace, processes=1)
    training.stop_after(3, signal.SIGKILL)
    said = training.stop_after(7, signal.SIGINT)
    assert "Traceback" not in said and "goes on" in said
    newest = states(training.folder)[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    training.lose_outputs()
    pair = [training.start(), training.start()]
    said = "".join(process.communicate(timeout=SECONDS)[1] for process in pair)
    assert [process.returncode for process in pair] == [0, 0], said
    assert newest.name in said and "set aside" in said
    assert digest(training.folder)["artifacts/best.pt"] == training.wanted["artifacts/best.pt"]
    assert not states(training.folder), "a finished run clears up"


def test_a_process_that_dies_stops_the_others_and_both_go_on(workspace: Workspace) -> None:
    training = Training(workspace, processes=2)
    process = training.start()
    try:
        end = time.monotonic() + SECONDS
        while not states(training.folder):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        ranks = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(ranks) == 2
        killed = time.monotonic()
        os.kill(int(ranks[1]), signal.SIGKILL)
        said = process.communicate(timeout=SECONDS)[1]
        assert time.monotonic() - killed < 30
        assert process.returncode == 1 and "a training process failed" in said
    finally:
        process.kill()
    training.finish()


@pytest.fixture
def disk(tmp_path: Path) -> DiskMemory:
    memory = DiskMemory(tmp_path, 0.0)
    for step in range(4):
        memory.save({"step": step, "weights": torch.full((1000,), step)})
    return memory


def test_the_last_two_states_are_kept_and_a_damaged_one_is_set_aside(
    disk: DiskMemory, caplog: pytest.LogCaptureFixture
) -> None:
    before, last = states_in(disk)
    assert disk.load()["step"] == 3  # type: ignore[index]
    content = bytearray(last.read_bytes())
    content[-500] ^= 1
    last.write_bytes(content)
    assert disk.load()["step"] == 2 and last.name in caplog.text  # type: ignore[index]
    before.write_bytes(b"")
    assert disk.load() is None
    assert sorted(path.suffix for path in disk.folder.iterdir()) == [".damaged", ".damaged"]
    disk.save({"step": 9})
    assert disk.load() == {"step": 9}
    disk.clear()
    assert not disk.folder.exists()


def states_in(memory: DiskMemory) -> list[Path]:
    return sorted(memory.folder.glob("*.pt"))


def test_a_state_that_cannot_be_written_does_not_stop_training(
    disk: DiskMemory, caplog: pytest.LogCaptureFixture
) -> None:
    with full_disk():
        disk.save({"step": 4, "weights": torch.zeros(1000)})
    assert "cannot be resumed from here" in caplog.text
    assert disk.load()["step"] == 3 and len(list(disk.folder.iterdir())) == 2  # type: ignore[index]


def test_the_key_follows_all_that_decides_the_weights(tmp_path: Path) -> None:
    params = load(Params, ROOT / "params.yaml")
    backbone = tmp_path / "backbone"
    backbone.write_bytes(b"weights")
    photos = [Photo("train/clean/1.jpg", CLEAN), Photo("train/dirty/2.jpg", DIRTY)]
    ranks = Ranks(0, 1, torch.device("cpu"))
    key = run_key(params, photos, "version", backbone, ranks)
    assert key == run_key(params, photos[::-1], "version", backbone, ranks)
    others = {
        run_key(replace(params, train=replace(params.train, lr=0.5)), photos, "version", backbone, ranks),
        run_key(replace(params, img_size=160), photos, "version", backbone, ranks),
        run_key(params, photos[:1], "version", backbone, ranks),
        run_key(params, photos, "other", backbone, ranks),
        run_key(params, photos, "version", backbone, replace(ranks, world=2)),
    }
    backbone.write_bytes(b"other")
    others.add(run_key(params, photos, "version", backbone, ranks))
    assert len(others | {key}) == 7
