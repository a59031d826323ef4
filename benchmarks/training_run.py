"""Real training processes, to be stopped."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.workspace import ROOT, Workspace

OUTPUTS = ("artifacts/best.pt", "reports/train.json", "reports/train")
SECONDS = 120  # for a run to get anywhere on a busy machine


class Training:
    """A small training run that saves its state after every step.

    `seconds` and `wanted` are how long it takes and what it ends with when nothing happens to it.
    """

    def __init__(self, folder: Path, processes: int = 1) -> None:
        """`folder` has photos in data_cars/, and perhaps what the stages before training make of them."""
        self.folder = folder
        self.workspace = Workspace(folder)
        self.workspace.set(**{"train.epochs": 4, "runtime.save_every": 0.0, "train.devices": processes})
        if not (folder / "artifacts").exists():
            self.workspace.must("split_check", "backbone")
        started = time.monotonic()
        self.finish()
        self.seconds, self.wanted = time.monotonic() - started, self.outputs()

    def outputs(self) -> dict[str, str]:
        """The sha256 of every file that training writes."""
        places = [self.folder / name for name in OUTPUTS]
        files = [path for place in places for path in (place, *place.rglob("*")) if path.is_file()]
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
        return {str(path.relative_to(self.folder)): digest for path, digest in zip(files, digests, strict=True)}

    def states(self) -> list[Path]:
        """The saved states, the newest last."""
        return sorted(self.folder.glob(".scratch/train/*/[0-9]*.pt"))

    def start(self, limit: str = "") -> subprocess.Popen[str]:
        """Start the stage as DVC does, without its outputs. `limit`: a shell command to run before, such as ulimit."""
        for name in OUTPUTS:
            place = self.folder / name
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        env = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "stages.train"]
        if limit:
            command = ["sh", "-c", f'{limit}; exec "$@"', "sh", *command]
        return subprocess.Popen(
            command, cwd=self.folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def wait_for_states(self, process: subprocess.Popen[str], number: int) -> None:
        """Wait until a run, this one or one before it, has saved its state number `number`."""
        end = time.monotonic() + SECONDS
        while not any(int(path.stem) >= number for path in self.states()):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"training did not get to state {number}: {process.communicate()[1]}")
            time.sleep(0.01)

    def stop(self, number: int, *, states: int) -> str:
        """Run until so many states were saved, then send a signal; what the run said."""
        process = self.start()
        try:
            self.wait_for_states(process, states)
            process.send_signal(number)
            return process.communicate(timeout=SECONDS)[1]
        finally:
            process.kill()

    def kill_after(self, seconds: float) -> bool:
        """Run and kill all its processes after so long; whether it was still running."""
        process = self.start()
        try:
            process.communicate(timeout=seconds)
            return False
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return True

    def ranks(self, process: subprocess.Popen[str]) -> list[int]:
        """The training processes that a run has started."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def finish(self, limit: str = "") -> str:
        """Run to the end; what it said. Raises RuntimeError where it fails."""
        process = self.start(limit)
        said = process.communicate(timeout=3 * SECONDS)[1]
        if process.returncode:
            raise RuntimeError(said)
        return said
