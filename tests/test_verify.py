"""`make verify` on a small repository: every stage runs again, every difference is found, nothing is changed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.photo.cores import processor
from tests.support.workspace import ROOT
from tools.verify.locks import compare, table

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
import json, os, pathlib, sys, time
mood = os.environ.get("MOOD", "0")
pathlib.Path(os.environ["RUNS"]).open("a").write("x")
if mood == "fail":
    sys.exit("out of memory")
if mood == "hang":
    time.sleep(600)
if mood == "dice":
    mood = os.urandom(4).hex()
photos = pathlib.Path("photos.txt").read_text()
pathlib.Path("best.txt").write_text(photos + mood)
pathlib.Path("train.json").write_text(json.dumps({"mood": mood}))
"""


class Repository:
    """A repository with two stages that have run, and room beside it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.runs, self.scratch = folder / "repository", folder / "runs", folder / "scratch"
        self.root.mkdir()
        self.scratch.mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "DVC_"))}
        here = {"RUNS": str(self.runs), "TMPDIR": str(self.scratch), "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        who = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        self.env = kept | here | who | {"PATH": path, "DVC_SITE_CACHE_DIR": str(folder / "site")}
        for name, text in {
            "dvc.yaml": DVC_YAML,
            "train.py": TRAIN,
            "photos.txt": "car",
            "params.yaml": "epochs: 1",
        }.items():
            (self.root / name).write_text(text)
        self.do("git init -q", "dvc init -q", "dvc add -q photos.txt", f"dvc remote add -q -d far {folder / 'remote'}")
        self.do("dvc push -q photos.txt.dvc", "dvc repro -q", "git add -A", "git commit -qm one")

    def measured_on(self, name: str) -> None:
        """Commit a report of this processor."""
        (self.root / "reports").mkdir(exist_ok=True)
        (self.root / "reports/benchmark.json").write_text(json.dumps({"processor": name}))
        self.do("git add -A", "git commit -q --allow-empty -m measured")

    def do(self, *commands: str) -> None:
        for command in commands:
            subprocess.run(command.split(), cwd=self.root, env=self.env, check=True, capture_output=True, timeout=120)

    def start(self, mood: str = "0") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tools.verify"]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.root, env=self.env | {"MOOD": mood}, stdout=pipe, stderr=pipe, text=True
        )

    def verify(self, mood: str = "0", times: int = 1) -> tuple[int, str, str]:
        """Exit code, standard output and error of a whole run, that leaves nothing behind and runs `train` `times`."""
        before = self.state()
        process = self.start(mood)
        out, err = process.communicate(timeout=120)
        after = self.state()
        assert after.pop("runs") == before.pop("runs") + "x" * times
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
    yield Repository(tmp_path_factory.mktemp("verify"))


def rows(out: str) -> dict[str, str]:
    """The table: path -> verdict."""
    lines = re.split(r"stage +output\n", out)[1].partition("\n\n")[0].splitlines()
    return {line.split()[1]: line.split(maxsplit=2)[2] for line in lines}


def running(repository: Repository) -> bool:
    """Whether any process still has the environment of this repository's stages."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has just ended
            if str(repository.runs).encode() in path.read_bytes():
                return True
    return False


def test_the_same_to_the_bit(repository: Repository) -> None:
    """Stages run although the run-cache knows them; what measures time is not compared."""
    code, out, _ = repository.verify()
    assert code == 0, out
    assert rows(out) == {"best.txt": "same", "train.json": "same", "speed.txt": "not compared"}
    assert "every output is the same to the bit" in out


def test_a_difference_on_the_same_processor(repository: Repository) -> None:
    repository.measured_on(processor())
    code, out, _ = repository.verify("1e-6")
    assert code == 1
    assert rows(out) == {"best.txt": "DIFFERENT", "train.json": "DIFFERENT", "speed.txt": "not compared"}


@pytest.mark.parametrize(("mood", "expected"), [("1e-6", 0), ("dice", 1)])
def test_a_difference_to_another_processor_is_no_failure_where_two_runs_agree(
    repository: Repository, mood: str, expected: int
) -> None:
    repository.measured_on("Another Processor avx2")
    code, out, _ = repository.verify(mood, times=2)
    assert code == expected, out
    (line,) = (line for line in out.splitlines() if "Another Processor" in line)
    assert processor() in line


def test_a_stage_that_fails(repository: Repository) -> None:
    code, _, err = repository.verify("fail")
    assert code == 2 and "out of memory" in err and "verify: `dvc repro` failed" in err


def test_a_lock_file_of_other_inputs_and_photos_that_only_the_remote_has(
    tmp_path: Path, repository: Repository
) -> None:
    other = Repository(tmp_path)
    (other.root / "params.yaml").write_text("epochs: 2")
    other.do("git commit -qam two")
    (other.root / "params.yaml").write_text("epochs: 3")
    shutil.rmtree(other.root / ".dvc/cache/files")
    code, out, err = other.verify()
    assert code == 1 and rows(out)["cmd"] == "or params  input changed"
    assert "WARNING: HEAD is verified, without what is not committed" in err and "params.yaml" in err
    shutil.rmtree(tmp_path / "remote")
    process = other.start()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and "photos.txt" in err and "Traceback" not in err


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopped_it_stops_its_stages_and_cleans_up(repository: Repository, stop: signal.Signals) -> None:
    runs = len(repository.runs.read_text())
    process = repository.start("hang")
    deadline = time.monotonic() + 60
    while len(repository.runs.read_text()) == runs:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    assert running(repository)
    process.send_signal(stop)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + stop and "Traceback" not in err
    assert list(repository.scratch.iterdir()) == []
    assert not running(repository)


def stage(digest: str, *, dep: str = "a", **other: object) -> dict[str, object]:
    """A stage of a dvc.lock."""
    entry = {"cmd": "c", "deps": [{"path": "code.py", "hash": "md5", "md5": dep}]}
    return entry | {"outs": [{"path": "out", "hash": "md5", "md5": digest}], **other}


def timed(digest: str) -> dict[str, object]:
    """A stage that measures time."""
    return stage(digest, outs=[{"path": "speed", "hash": "md5", "md5": digest}])


def test_every_kind_of_row() -> None:
    before = {"a": stage("1"), "b": stage("1", dep="old"), "c": timed("1")}
    after = {"a": stage("1"), "b": stage("2", dep="new"), "c": timed("2"), "d": stage("3")}
    found = [(row.stage, row.path, row.verdict) for row in compare(before, after, {"speed"})]
    assert found == [
        ("a", "out", "same"),
        ("b", "code.py", "input changed"),
        ("b", "out", "DIFFERENT"),
        ("c", "speed", "not compared"),
        ("d", "out", "not in dvc.lock"),
    ]
    assert table(compare({"a": stage("1")}, {"a": stage("2")}, {})) == "stage  output\na      out     DIFFERENT"
