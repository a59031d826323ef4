"""`make verify` on a small repository: every stage runs again, every difference is found, nothing is changed."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.inference.photo.cores import processor
from tests.support.live import wait_until
from tests.support.repository import do, environment
from tools import verify

DVC_YAML = """
stages:
  train:
    cmd: python train.py
    params: [epochs]
    deps: [photos.txt, train.py]
    outs: [best.txt]
    metrics:
      - train.json: {cache: false}
  benchmark:
    meta: {timings: [speed.txt]}
    cmd: python -c "import time; open('speed.txt', 'w').write(str(time.time_ns()))"
    deps: [best.txt]
    outs: [speed.txt]
"""
# What the environment says stands in for the weather: it is no input that DVC knows of.
TRAIN = """
import os, pathlib, sys, time
pathlib.Path(os.environ["RUNS"]).open("a").write("x")
mood = os.environ.get("MOOD", "0")
if mood == "fail":
    sys.exit("out of memory")
if mood == "hang":
    time.sleep(600)
pathlib.Path("best.txt").write_text(pathlib.Path("photos.txt").read_text() + mood)
pathlib.Path("train.json").write_text("{}")
"""


class Repository:
    """A repository with two stages that have run, and room beside it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.runs, self.scratch = folder / "repository", folder / "runs", folder / "scratch"
        self.scratch.mkdir()
        self.root.mkdir()
        texts = {"dvc.yaml": DVC_YAML, "train.py": TRAIN, "photos.txt": "car", "params.yaml": "epochs: 1"}
        for name, text in texts.items():
            (self.root / name).write_text(text)
        do(
            self.root,
            "git init -q",
            "dvc init -q",
            "dvc add -q photos.txt",
            f"dvc remote add -q -d far {folder}/remote",
        )
        do(self.root, "dvc push -q photos.txt.dvc", "dvc repro -q", "git add -A", "git commit -qm one")

    def start(self, mood: str = "0") -> subprocess.Popen[str]:
        command, pipe = [sys.executable, "-m", "tools.verify"], subprocess.PIPE
        env = os.environ | {"MOOD": mood, "TMPDIR": str(self.scratch)}
        return subprocess.Popen(command, cwd=self.root, env=env, stdout=pipe, stderr=pipe, text=True)

    def verify(self, mood: str = "0") -> tuple[int, str, str]:
        """Exit code, standard output and error of a whole run, that leaves nothing behind and runs `train` once."""
        before = self.state()
        process = self.start(mood)
        out, err = process.communicate(timeout=120)
        after = self.state()
        assert after.pop("runs") == before.pop("runs") + "x"
        assert after == before and list(self.scratch.iterdir()) == []
        assert "Traceback" not in err
        return process.returncode, out, err

    def state(self) -> dict[str, str]:
        """Every file of the repository and of its cache, by its content; and how often `train` has run."""
        files = (path for path in sorted(self.root.rglob("*")) if path.is_file() and "tmp" not in path.parts)
        found = {str(path): hashlib.md5(path.read_bytes()).hexdigest() for path in files}
        return found | {"runs": self.runs.read_text()}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    folder = tmp_path_factory.mktemp("verify")
    with environment(folder, RUNS=str(folder / "runs")):
        yield Repository(folder)


def running(repository: Repository) -> bool:
    """Whether any other process still has the environment of this repository's stages."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has just ended
            if path.parent.name != str(os.getpid()) and str(repository.runs).encode() in path.read_bytes():
                return True
    return False


def test_the_same_to_the_bit(repository: Repository) -> None:
    """Stages run although the run-cache knows them; what measures time is not compared."""
    code, out, _ = repository.verify()
    assert code == 0 and "2 outputs the same, 0 DIFFERENT" in out


@pytest.mark.slow
def test_a_difference_and_a_stage_that_fails(repository: Repository) -> None:
    code, out, _ = repository.verify("1e-6")
    assert code == 1 and "1 outputs the same, 1 DIFFERENT\n  best.txt\n" in out
    code, _, err = repository.verify("fail")
    assert code == 2 and "out of memory" in err and "verify: `dvc repro` failed" in err


@pytest.mark.slow
def test_a_lock_of_other_inputs_and_photos_that_only_the_remote_has(tmp_path: Path) -> None:
    with environment(tmp_path, RUNS=str(tmp_path / "runs")):
        other = Repository(tmp_path)
        (other.root / "params.yaml").write_text("epochs: 2")
        do(other.root, "git commit -qam two")
        (other.root / "params.yaml").write_text("epochs: 3")
        shutil.rmtree(other.root / ".dvc/cache/files")
        code, _, err = other.verify()
        assert code == 1 and "params of train;" in err and "what is not committed:\n M params.yaml" in err
        shutil.rmtree(tmp_path / "remote")
        process = other.start()
        _, err = process.communicate(timeout=120)
        assert process.returncode == 2 and "photos.txt" in err and "Traceback" not in err


@pytest.mark.parametrize("stop", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_stopped_it_stops_its_stages_and_cleans_up(repository: Repository, stop: signal.Signals) -> None:
    runs = len(repository.runs.read_text())
    process = repository.start("hang")
    wait_until(lambda: len(repository.runs.read_text()) > runs or process.poll() is not None)
    assert running(repository)
    process.send_signal(stop)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + stop and "Traceback" not in err
    assert list(repository.scratch.iterdir()) == []
    wait_until(lambda: not running(repository))


def lock(best: str, speed: str = "0", code: str = "0") -> dict[str, Any]:
    """The stages of a dvc.lock."""

    def entry(path: str, digest: str) -> dict[str, str]:
        return {"path": path, "hash": "md5", "md5": digest}

    train = {"cmd": "train", "deps": [entry("train.py", code)], "outs": [entry("best.txt", best)]}
    return {"train": train, "benchmark": {"cmd": "b", "deps": train["outs"], "outs": [entry("speed.txt", speed)]}}


@pytest.mark.parametrize(
    ("made_on", "runs", "code"),
    [
        (None, [lock("1")], 0),
        (None, [lock("1", speed="2")], 0),
        (None, [lock("2")], 1),
        (processor(), [lock("2")], 1),
        ("another", [lock("2"), lock("2")], 0),
        ("another", [lock("2"), lock("3")], 1),
    ],
)
def test_two_runs_here_decide_where_the_lock_was_made_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_on: str | None, runs: list[dict[str, Any]], code: int
) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": lock("1")}))
    if made_on:
        (tmp_path / "reports/benchmark.json").write_text(json.dumps({"processor": made_on}))
    do(tmp_path, "git init -q")
    monkeypatch.setattr(verify, "clone", lambda *_: tmp_path)
    left = iter(runs)
    monkeypatch.setattr(verify, "reproduce", lambda *_: next(left))
    assert verify.verify(tmp_path) == code
    assert next(left, None) is None


def test_other_inputs_are_named() -> None:
    for changed in (lock("2", code="1"), lock("2") | {"new": {"cmd": "new"}}):
        with pytest.raises(verify.StaleError, match=r"train\.py|cmd of new"):
            verify.same(lock("1"), changed, set())
