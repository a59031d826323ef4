"""Training that is stopped goes on where it was, and ends with the same bytes as if nothing had happened."""

import itertools
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.common.base.errors import StageError
from stages.common.base.params import Data, Runtime, load
from stages.common.base.paths import CHECKPOINT
from stages.common.base.photos import CLEAN_LABEL, DIRTY_LABEL, Photo
from stages.common.pixels.scratch import locked, scratch
from stages.train import recovery
from stages.train.distributed import Ranks
from stages.train.params import Params
from stages.train.recovery import RecoveryStore, recovery_store, run_key
from stages.train.trainer import Trainer
from tests.support.workspace import ROOT, Workspace, full_disk

OUTPUTS = ("artifacts/best.pt", "artifacts/holdout.csv", "reports/train.json")


def stop_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Ctrl-C in the step of this number from now on."""
    step, steps = Trainer.step, itertools.count(1)

    def interrupted(self: Trainer, *batch: Any) -> torch.Tensor:
        if next(steps) == number:
            monkeypatch.setattr(Trainer, "step", step)
            raise KeyboardInterrupt
        return step(self, *batch)

    monkeypatch.setattr(Trainer, "step", interrupted)


def test_a_run_that_is_stopped_and_whose_state_is_damaged_goes_on(
    trainable: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainable.set(**{"runtime.save_every": 0.0})
    trainable.must("train")
    wanted = [Path(name).read_bytes() for name in OUTPUTS]
    Path(CHECKPOINT).unlink()
    for number, said in ((3, ""), (2, "goes on from step 2 of epoch 1")):
        stop_at(monkeypatch, number)
        done = trainable.run("train")
        assert done.returncode == 130 and "train: interrupted" in done.stderr and said in done.stderr
    assert not CHECKPOINT.exists()
    *_, newest = sorted(Path(".scratch/train").glob("*/[0-9]*.pt"))
    newest.write_bytes(newest.read_bytes()[:-100])
    done = trainable.run("train")
    assert newest.name in done.stderr and "set aside" in done.stderr
    assert "goes on from step 2 of epoch 1" in done.stderr
    assert [Path(name).read_bytes() for name in OUTPUTS] == wanted, "as if it had run once, undisturbed"
    assert not list(Path(".scratch/train").iterdir()), "a finished run clears up"


def test_two_runs_in_one_folder_are_refused(trainable: Workspace) -> None:
    with locked(Path()):
        trainable.refuses("train", "runs in this folder already")


@pytest.fixture
def disk(tmp_path: Path) -> RecoveryStore:
    memory = RecoveryStore(tmp_path, 0.0)
    for step in range(4):
        memory.save({"step": step, "weights": torch.full((1000,), step)})
    memory.wait()
    return memory


def test_the_last_two_states_are_kept_and_a_damaged_one_is_set_aside(
    disk: RecoveryStore, caplog: pytest.LogCaptureFixture
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


def states_in(memory: RecoveryStore) -> list[Path]:
    memory.wait()
    return sorted(memory.folder.glob("*.pt"))


def test_a_state_that_cannot_be_written_does_not_stop_training(
    disk: RecoveryStore, caplog: pytest.LogCaptureFixture
) -> None:
    with full_disk():
        disk.save({"step": 4, "weights": torch.zeros(1000)})
        disk.wait()
    assert "cannot be resumed from here" in caplog.text
    assert disk.load()["step"] == 3 and len(list(disk.folder.iterdir())) == 2  # type: ignore[index]


def test_the_key_follows_all_that_decides_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load(Params, ROOT / "params.yaml")
    same = replace(params, data=Data("elsewhere", "none", 1.0, None), runtime=Runtime(7, 1.0, True))
    backbone = tmp_path / "backbone"
    backbone.write_bytes(b"weights")
    fit, held = [Photo("train/clean/1.jpg", CLEAN_LABEL)], [Photo("train/dirty/2.jpg", DIRTY_LABEL)]
    ranks = Ranks(0, 1, torch.device("cpu"))
    key = run_key(params, fit, held, "version", backbone, ranks)
    assert key == run_key(same, fit, held, "version", backbone, ranks)
    assert key == run_key(params, fit, held, "version", backbone, replace(ranks, world=2)), "a node may be lost"
    others = {
        run_key(replace(params, train=replace(params.train, lr=0.5)), fit, held, "version", backbone, ranks),
        run_key(replace(params, img_size=160), fit, held, "version", backbone, ranks),
        run_key(params, held, fit, "version", backbone, ranks),
        run_key(params, fit, held, "other", backbone, ranks),
    }
    backbone.write_bytes(b"other")
    others.add(run_key(params, fit, held, "version", backbone, ranks))
    backbone.write_bytes(b"weights")
    monkeypatch.setattr(recovery, "DECODER", "another")
    others.add(run_key(params, fit, held, "version", backbone, ranks))
    assert len(others | {key}) == 7
    backbone.unlink()
    with pytest.raises(StageError, match="backbone is missing; run `dvc repro backbone`"):
        run_key(params, fit, held, "version", backbone, ranks)


def test_abandoned_states_are_deleted_but_for_those_in_use(workspace: Workspace) -> None:
    folder, long_ago = scratch("train"), time.time() - recovery.ABANDONED - 1
    for name in ("used", "old", "new"):
        (folder / name).mkdir()
        (folder / f"{name}.lock").touch()
        if name != "new":
            os.utime(folder / name, (long_ago, long_ago))
    with locked(folder / "used.lock"), recovery_store("mine", 1.0, Ranks(0, 1, torch.device("cpu"))):
        found = sorted(path.name for path in folder.iterdir())
    assert found == ["mine", "mine.lock", "new", "new.lock", "used", "used.lock"]
