"""The model and threshold in service, kept apart from the files they came from.

The server copies a pair, tries the copy in a process of its own, and only then makes it current. Workers load the
current copy and follow it. So a half-written or unusable file is never loaded, all workers run the same pair, and a
worker that dies comes back with it, whatever has become of the files since.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from serving import decision, onnx_file
from serving.expected import ExpectedError
from serving.metrics import MULTIPROCESS_DIR, RELOADS

log = logging.getLogger(__name__)

STORE = "DIRTYCAR_STORE"  # tells workers where the server keeps its copies
POLL_SECONDS = 0.2
LONGEST_PAUSE = 30.0  # seconds between two tries to load a pair that fails
TRY_SECONDS = 120


class PairError(ExpectedError):
    """A pair cannot be served; the message says why."""


def files(folder: Path) -> tuple[Path, Path | None]:
    """The model in a copy's folder and, where THRESHOLD_PATH is set, the threshold that replaces the model's own."""
    threshold = folder / "threshold.json"
    return folder / "best.onnx", threshold if threshold.exists() else None


class Store:
    """Copies of pairs in one folder: `current` is a link to the one in service."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)

    @property
    def current(self) -> Path:
        """The folder of the pair in service, by its own name rather than the link's."""
        return (self._folder / "current").resolve()

    @property
    def refused(self) -> str | None:
        """Why the last reload was refused, or None if it was not."""
        try:
            return (self._folder / "refused").read_text() or "the disk is full; the log tells more"
        except FileNotFoundError:
            return None

    def publish(self, model: Path, threshold: Path | None) -> None:
        """Copy a model, try it, and put it in service. Raises PairError, and then leaves the old one there."""
        copy = self._folder / f"pair-{next(self._numbers)}"
        copy.mkdir()
        copies = [(model, copy / "best.onnx", onnx_file.MAX_BYTES)]
        if threshold is not None:
            copies.append((threshold, copy / "threshold.json", decision.MAX_BYTES))
        try:
            for original, file, limit in copies:
                _copy(original, file, limit)
            _try(copy)
        except (OSError, PairError) as error:
            reason = str(error)
            for original, file, _ in copies:
                reason = reason.replace(str(file), str(original))
            shutil.rmtree(copy)
            with contextlib.suppress(OSError):  # a full disk may have been the reason
                (self._folder / "refused").write_text(reason)
            raise PairError(reason) from None
        old = self.current
        (self._folder / "next").unlink(missing_ok=True)
        (self._folder / "next").symlink_to(copy.name)
        (self._folder / "next").replace(self._folder / "current")
        (self._folder / "refused").unlink(missing_ok=True)
        for past in self._folder.glob("pair-*"):
            if past not in (copy.resolve(), old):  # a worker may still be reading the one before
                shutil.rmtree(past)


def _copy(original: Path, file: Path, limit: int) -> None:
    """Copy a file. What is too large is refused first: its copy could fill the disk, or a memory that is one."""
    if original.exists() and not original.is_file():
        raise PairError(f"{original} is not a file")
    if original.stat().st_size > limit:
        raise PairError(f"{original} is larger than {limit:,} bytes")
    shutil.copyfile(original, file)


def _try(pair: Path) -> None:
    """Load a pair in another process: the server itself must not, for a model's threads do not survive its forks."""
    command = [sys.executable, "-m", "serving.check", str(pair)]
    # The check is no worker: it must leave no files among the workers' metrics.
    environ = {name: value for name, value in os.environ.items() if name != MULTIPROCESS_DIR}
    try:
        outcome = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=TRY_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise PairError(f"the model did not load within {TRY_SECONDS} seconds") from None
    if outcome.returncode != 0:
        raise PairError(outcome.stderr.strip().rpartition("\n")[2] or f"the check ended with {outcome.returncode}")


def follow(store: Store, loaded: Path, reload: Callable[[Path], None]) -> None:
    """Start a thread that calls `reload` with the current pair's folder whenever it is another than `loaded`.

    The pair was tried before, so whatever `reload` raises comes from this process's state, such as a lack of memory: it
    is tried again, after pauses that grow to LONGEST_PAUSE.
    """

    def watch() -> None:
        seen, pause = loaded, POLL_SECONDS
        while True:
            time.sleep(pause)
            if (current := store.current) == seen:
                continue
            try:
                reload(current)
            except Exception as error:  # of any kind: without this thread the old model would stay for good
                pause = min(2 * pause, LONGEST_PAUSE)
                RELOADS.labels("failed").inc()
                log.error("kept the old model, next try in %.1f s: %s", pause, error, exc_info=error)
            else:
                seen, pause = current, POLL_SECONDS
                RELOADS.labels("done").inc()

    threading.Thread(target=watch, name="follow-pair", daemon=True).start()


def store_from_env() -> Store | None:
    """The server's store, or None outside of it."""
    folder = os.environ.get(STORE)
    return Store(Path(folder)) if folder else None
