"""A small data set, and a folder to run stages in."""

import importlib
import io
import logging
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import yaml
from PIL import Image

from stages.common.base.errors import run_stage

ROOT = Path(__file__).parents[2]
SMALL_MODEL = "test_efficientnet"  # with depthwise layers and squeeze-excite gates
SMALL = {
    "model": SMALL_MODEL,
    "img_size": 64,
    "train.epochs": 2,
    "train.batch_size": 8,
    "train.threads": 1,  # more only wait for each other with such small layers
    "runtime.num_workers": 0,
    "train.holdout": 0.25,
    "eval.bootstrap": 20,
    "backbone.source": "random",
    "convert.calibration_photos": 16,
    "convert.car_check": False,
    "benchmark.seconds": 0.05,
}


def jpeg(rng: np.random.Generator, dirty: bool) -> bytes:
    """A noisy one-coloured picture, with brown blotches if dirty."""
    pixels = np.full((48, 64, 3), rng.integers(60, 255, 3), np.float64)
    if dirty:
        for _ in range(12):
            y, x = rng.integers(0, 40), rng.integers(0, 56)
            pixels[y : y + 8, x : x + 8] = (90, 60, 30)
    pixels += rng.normal(0, 6, pixels.shape)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_photos(root: Path, clean: int = 16, dirty: int = 8) -> None:
    """A data folder in the layout of the pipeline."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for label, count in (("clean", clean), ("dirty", dirty)):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number:03}.jpg").write_bytes(jpeg(rng, label == "dirty"))


class Workspace:
    """A folder with photos and params.yaml, in which stages run as their users run them."""

    cards = ""  # the NVIDIA cards that they see

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data_cars"
        self.params: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
        self.set(**SMALL)

    def set(self, **changes: Any) -> None:
        """Change keys of params.yaml, dots between sections."""
        for key, value in changes.items():
            *sections, name = key.split(".")
            place = self.params
            for section in sections:
                place = place[section]
            place[name] = value
        (self.folder / "params.yaml").write_text(yaml.safe_dump(self.params, sort_keys=False))

    def start(self, stage: str, **environment: str) -> subprocess.Popen[str]:
        """`python -m stages.STAGE`."""
        return subprocess.Popen(stdout=subprocess.PIPE, stderr=subprocess.PIPE, **self._call(stage, environment))

    def run(self, stage: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """The same to its end, and what it said; one that hangs is killed."""
        return subprocess.run(capture_output=True, timeout=300, **self._call(stage, environment))

    def _call(self, stage: str, environment: dict[str, str]) -> dict[str, Any]:
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": self.cards, **environment}
        return {"args": [sys.executable, "-m", f"stages.{stage}"], "cwd": self.folder, "env": env, "text": True}

    def must(self, *stages: str) -> None:
        """Run stages that have to succeed."""
        for stage in stages:
            done = self.run(stage)
            assert done.returncode == 0, done.stdout + done.stderr

    def refuses(self, stage: str, *words: str) -> str:
        """Run a stage that has to fail with one message holding these words and no traceback; the message."""
        done = self.run(stage)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        for word in words:
            assert word in done.stderr, (word, done.stderr)
        return done.stderr


class InProcess(Workspace):
    """Runs stages in this process, which saves the seconds that their imports take."""

    def run(self, stage: str, **environment: str) -> subprocess.CompletedProcess[str]:
        package = (ROOT / "stages" / stage).is_dir()
        main = importlib.import_module(f"stages.{stage}.__main__" if package else f"stages.{stage}").main
        out, err, code = io.StringIO(), io.StringIO(), 0
        warnings = logging.StreamHandler(err)
        logging.getLogger().addHandler(warnings)
        with (
            redirect_stdout(out), redirect_stderr(err), chdir(self.folder),
            mock.patch.dict(os.environ, {"CUDA_VISIBLE_DEVICES": "", **environment}),
        ):  # fmt: skip
            try:
                run_stage(stage, main)
            except SystemExit as stop:
                code = int(str(stop.code))
            finally:
                logging.getLogger().removeHandler(warnings)
        return subprocess.CompletedProcess(stage, code, out.getvalue(), err.getvalue())


@contextmanager
def full_disk(left: int = 0) -> Iterator[None]:
    """No file of this process can grow beyond `left` bytes in here: what writing to a full disk looks like."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a failing write then, instead of the signal
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
