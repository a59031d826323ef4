"""The model in service, kept apart from the file it came from.

The server copies a model, tries the copy in a process of its own, and only then makes it current. Workers load the
current copy and follow it. So a half-written or unusable file is never loaded, all workers run the same model, and a
worker that dies comes back with it, whatever has become of the file since. While a copy is tried, the server goes on.
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

from serving.inference.model import onnx_check
from serving.inference.verdict import rule
from serving.inference.verdict.errors import UserError
from serving.process.metrics import MULTIPROCESS_DIR, RELOADS
from serving.process.signature import MAX_SIGNATURE_BYTES, signature_of

log = logging.getLogger(__name__)

STORE = "DIRTYCAR_STORE"  # tells workers where the server keeps its copies
POLL_SECONDS = 0.2
LONGEST_PAUSE = 30.0  # seconds between two tries to load a model that fails
TRY_SECONDS = 120
CAN_BE_SERVED = "can be served"  # what serving.engine.check says of such a model


class ReloadError(UserError):
    """A model cannot be served; the message says why."""


def files(folder: Path) -> tuple[Path, Path | None]:
    """The model in a copy's folder and, where THRESHOLD_PATH is set, the threshold that replaces the model's own."""
    threshold = folder / "threshold.json"
    return folder / "best.onnx", threshold if threshold.exists() else None


class ModelStore:
    """Copies of models in one folder: `current` is a link to the one in service."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._numbers = itertools.count(1)
        self._trial: subprocess.Popen[str] | None = None

    @property
    def current(self) -> Path:
        """The folder of the copy in service, by its own name rather than the link's."""
        return (self._folder / "current").resolve()

    @property
    def refused(self) -> str | None:
        """Why the last reload was refused, or None if it was not."""
        try:
            return (self._folder / "refused").read_text() or "the disk is full; the log tells more"
        except FileNotFoundError:
            return None

    def publish(self, model: Path, threshold: Path | None, *, signed: bool = False) -> None:
        """Copy a model, with its signature if it is `signed`, try it, and put it in service. Raises ReloadError, and
        then leaves the old one there."""
        copy = self._folder / f"model-{next(self._numbers)}"
        copy.mkdir()
        copies = [(model, copy / "best.onnx", onnx_check.MAX_BYTES)]
        if threshold is not None:
            copies.append((threshold, copy / "threshold.json", rule.MAX_BYTES))
        if signed and signature_of(model).exists():  # else the trial says that it is missing
            copies.append((signature_of(model), signature_of(copy / "best.onnx"), MAX_SIGNATURE_BYTES))
        try:
            for original, file, limit in copies:
                _copy(original, file, limit)
            self._try(copy)
        except (OSError, ReloadError) as error:
            reason = str(error)
            for original, file, _ in copies:
                reason = reason.replace(str(file), str(original))
            shutil.rmtree(copy)
            with contextlib.suppress(OSError):  # a full disk may have been the reason
                (self._folder / "refused").write_text(reason)
            raise ReloadError(reason) from None
        old = self.current
        (self._folder / "next").unlink(missing_ok=True)
        (self._folder / "next").symlink_to(copy.name)
        (self._folder / "next").replace(self._folder / "current")
        (self._folder / "refused").unlink(missing_ok=True)
        for past in self._folder.glob("model-*"):
            if past not in (copy, old):  # a worker may still be reading the one before
                shutil.rmtree(past)

    def stop(self) -> None:
        if self._trial is not None:
            self._trial.kill()

    def _try(self, copy: Path) -> None:
        """Load a copy in another process: the server must not, for a model's threads do not survive its forks.

        What the process says counts, not its exit code: the server, which waits for its workers, may take that.
        """
        # The check is no worker: it must leave no files among the workers' metrics.
        environ = {name: value for name, value in os.environ.items() if name != MULTIPROCESS_DIR}
        command, pipe = [sys.executable, "-m", "serving.engine.check", str(copy)], subprocess.PIPE
        with subprocess.Popen(command, env=environ, stdout=pipe, stderr=pipe, text=True) as self._trial:
            try:
                said, complaint = self._trial.communicate(timeout=TRY_SECONDS)
            except subprocess.TimeoutExpired:
                raise ReloadError(f"the model did not load within {TRY_SECONDS} seconds") from None
            finally:
                self._trial.kill()
        if said.strip() != CAN_BE_SERVED:
            raise ReloadError(complaint.strip().rpartition("\n")[2] or "the check ended without a word")


class Reloader:
    """Publishes the configured files in a thread, so that the server goes on with its signals and workers."""

    def __init__(self, publish: Callable[[], None]) -> None:
        """`publish` raises ReloadError or OSError for what is refused."""
        self._publish = publish
        self._places = threading.BoundedSemaphore(2)  # one that runs, and one that will see the newest files
        self._one = threading.Lock()
        # A worker is forked at any time: not while a thread holds the lock of a log or a counter.
        self._telling = telling = threading.Lock()
        os.register_at_fork(before=telling.acquire, after_in_parent=telling.release, after_in_child=telling.release)

    def ask(self) -> None:
        """Publish the files as they are from now on; returns at once."""
        if self._places.acquire(blocking=False):
            threading.Thread(target=self._run, name="reload", daemon=True).start()

    def _run(self) -> None:
        try:
            with self._one:
                self._publish()
        except (ReloadError, OSError) as error:  # OSError: no room for a copy
            with self._telling:
                RELOADS.labels("refused").inc()
                log.error("reload refused, the old model stays in service: %s", error)
        finally:
            self._places.release()


def _copy(original: Path, file: Path, limit: int) -> None:
    """Copy a file. What is too large is refused first: its copy could fill the disk, or a memory that is one."""
    if original.exists() and not original.is_file():
        raise ReloadError(f"{original} is not a file")
    if original.stat().st_size > limit:
        raise ReloadError(f"{original} is larger than {limit:,} bytes")
    shutil.copyfile(original, file)


def follow(store: ModelStore, loaded: Path, reload: Callable[[Path], None]) -> None:
    """Start a thread that calls `reload` with the current copy's folder whenever it is another than `loaded`.

    The copy was tried before, so whatever `reload` raises comes from this process's state, such as a lack of memory: it
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

    threading.Thread(target=watch, name="follow-model", daemon=True).start()


def store_from_env() -> ModelStore | None:
    """The server's store, or None outside of it."""
    folder = os.environ.get(STORE)
    return ModelStore(Path(folder)) if folder else None
