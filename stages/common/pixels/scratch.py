"""A folder for what may be deleted at any time: decoded pixels, the state of unfinished training. Not in git or DVC."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.common.base.errors import StageError

VARIABLE = "DIRTYCAR_SCRATCH"


def checkout() -> Path:
    """The checkout: the current folder, but in the copy below `.dvc/tmp/exps` in which `dvc exp run --temp` or the
    queue runs an experiment, and which is deleted after it, the folder that was copied."""
    here = Path.cwd()
    return next((parent.parent for parent in reversed(here.parents) if parent.name == ".dvc"), here)


def scratch(name: str) -> Path:
    """A folder of this name below $DIRTYCAR_SCRATCH, else below `.scratch/` in the checkout; it exists afterwards.

    Raises StageError when it cannot be made.
    """
    folder = Path(os.environ.get(VARIABLE) or checkout() / ".scratch") / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StageError(f"cannot make {folder}: {error.strerror}; set {VARIABLE} to a folder with room") from error
    return folder


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock on a file, made where it is missing, or on a folder for the length of a `with` block; the kernel lets
    go of it even when the process is killed.

    Gives whether the lock was had: without `wait`, False at once where another process holds it.
    """
    file = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # closing alone would leave it to the processes forked meanwhile
        os.close(file)
