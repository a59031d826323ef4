"""The state of unfinished training, kept so that a run that dies goes on where it was and ends with the same weights.

It lies in the scratch folder under a hash of all that decides the result, so no experiment resumes another's. DVC
deletes a stage's outputs when it starts, hence not among them.
"""

import hashlib
import io
import json
import logging
import math
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from serving.inference.photo.cores import usable_cores
from stages.common.base.errors import StageError
from stages.common.base.files import sha256, write_bytes
from stages.common.base.photos import Photo
from stages.common.pixels.cache import DECODER
from stages.common.pixels.scratch import locked, scratch
from stages.train.devices import is_portable
from stages.train.distributed import Ranks
from stages.train.params import Params

DIGEST_BYTES = 32  # of a sha256
KEPT = 2  # states: the last and, should that be damaged, the one before
ABANDONED = 30 * 86_400.0  # seconds after which nobody goes on with a state

log = logging.getLogger(__name__)


class RecoveryStore:
    """The states of one run, in `<folder>/<number>.pt`: the sha256 of what follows, then torch's format.

    Without a folder it keeps nothing: for the processes that do not write, and where another run has the folder.
    """

    def __init__(self, folder: Path | None, every: float = math.inf) -> None:
        """`every`: seconds between two states, and so of work lost at most."""
        self.folder, self.every, self.saved = folder, every, time.monotonic()
        self._writer, self._writing = ThreadPoolExecutor(1), Future[None]()
        self._writing.set_result(None)

    def wait(self) -> None:
        """Wait until the last state is on the disk, or was given up."""
        self._writing.result()

    def load(self) -> dict[str, Any] | None:
        """The last state that is whole, None to start from the beginning; a damaged one is set aside with a warning."""
        self.wait()
        for path in reversed(self._states()):
            content = path.read_bytes()
            digest, pickled = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
            if hashlib.sha256(pickled).digest() == digest:
                state: dict[str, Any] = torch.load(io.BytesIO(pickled), map_location="cpu", weights_only=True)
                return state
            aside = path.with_suffix(".damaged")
            with suppress(FileNotFoundError):  # another node did it, in a shared folder
                path.replace(aside)
            log.warning("%s is damaged and set aside as %s; going on from the state before it", path, aside.name)
        return None

    def due(self) -> bool:
        return self.folder is not None and time.monotonic() - self.saved >= self.every

    def save(self, state: dict[str, Any]) -> None:
        """Copy a tree of numbers, texts and tensors; a thread writes the copy while training goes on. A full disk is a
        warning."""
        self.wait()
        buffer = io.BytesIO(bytes(DIGEST_BYTES))
        buffer.seek(DIGEST_BYTES)
        torch.save(state, buffer)
        self._writing = self._writer.submit(self._write, buffer.getbuffer())
        self.saved = time.monotonic()

    def _write(self, content: memoryview) -> None:
        states = self._states()
        number = int(states[-1].stem) + 1 if states else 0
        content[:DIGEST_BYTES] = hashlib.sha256(content[DIGEST_BYTES:]).digest()
        try:
            assert self.folder is not None
            write_bytes(self.folder / f"{number:08}.pt", content)
            for old in states[: 1 - KEPT]:
                old.unlink()
        except (StageError, OSError) as error:
            log.warning("training cannot be resumed from here: %s", error)

    def clear(self) -> None:
        """The run is finished: nothing to go on with."""
        self.wait()
        if self.folder is not None:
            with suppress(FileNotFoundError):  # another node did it, in a shared folder
                shutil.rmtree(self.folder)

    def _states(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.pt")) if self.folder else []


@contextmanager
def recovery_store(key: str, every: float, ranks: Ranks) -> Iterator[RecoveryStore]:
    """The recovery store of the run with this key, on the first process; one run at a time has it. Other nodes may hold
    the state of a time when the first process was theirs: their first process gets a store that is never due."""
    if ranks.local != 0:
        yield RecoveryStore(None)
        return
    folder = scratch("train")
    if not ranks.first:
        yield RecoveryStore(folder / key)
        return
    _forget_abandoned(folder)
    with locked(folder / f"{key}.lock", wait=False) as had:
        if had:
            (folder / key).mkdir(exist_ok=True)
        else:
            log.warning("the same training runs already; this one cannot be resumed if it is stopped")
        store = RecoveryStore(folder / key if had else None, every)
        try:
            yield store
        finally:
            store.wait()
        if had and not (folder / key).exists():
            (folder / f"{key}.lock").unlink()


def _forget_abandoned(folder: Path) -> None:
    """Delete the states that nobody touched for long, but for those of runs under way."""
    for state in (path for path in folder.iterdir() if path.is_dir()):
        with suppress(FileNotFoundError):  # another run may delete it at the same time, or end
            if time.time() - state.stat().st_mtime > ABANDONED:
                lock = folder / f"{state.name}.lock"
                with locked(lock, wait=False) as had:
                    if had:
                        shutil.rmtree(state)
                        lock.unlink()


def run_key(
    params: Params, fit: Sequence[Photo], held: Sequence[Photo], data_version: str, backbone: Path, ranks: Ranks
) -> str:
    """A hash of all that decides the trained weights: settings, photos, backbone, code, libraries and processor.

    Where photos lie and how they are cached does not, nor `runtime`, so a run that was killed for memory may go on
    with less. The number of processes does change the last bits, and is left out: a node that is lost must not lose the
    run. Raises StageError when there is no backbone.
    """
    if not backbone.exists():
        raise StageError(f"{backbone} is missing; run `dvc repro backbone`")
    project = Path(__file__).resolve().parents[2]
    files = {Path(path) for module in list(sys.modules.values()) if (path := getattr(module, "__file__", None))}
    code = sorted(path for path in files if path.suffix == ".py" and path.is_relative_to(project / "stages"))
    gpu = ranks.device.type == "cuda"
    parts = {
        "params": [params.img_size, params.model, asdict(params.train)],
        "photos": [data_version, [photo.name for photo in fit], [photo.name for photo in held]],
        "backbone": sha256(backbone),
        "code": {path.relative_to(project).as_posix(): sha256(path) for path in code},
        "libraries": [torch.__version__, timm.__version__, np.__version__, DECODER],
        "processor": [
            torch.cuda.get_device_name() if gpu else torch.backends.cpu.get_cpu_capability(),
            params.train.threads if is_portable(params.train) else usable_cores(),
        ],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
