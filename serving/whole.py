"""Files that appear whole or not at all: written under a name of their own, flushed to the disk, then renamed."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.tmp")


@contextmanager
def whole(target: Path, *, new: bool = False) -> Iterator[BinaryIO]:
    """A file to write, which is `target` once the block has ended; if it raises, nothing is left.

    Raises OSError; with `new` FileExistsError where there is one already, which stays.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if new:
            try:
                os.link(temporary, target)  # unlike a rename, it replaces nothing
                return
            except OSError:  # exFAT and some mounted stores know no links; two writers at once are not told apart then
                if target.exists():
                    raise FileExistsError(target) from None
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def unfinished(name: str) -> str | None:
    """The name that a file was to get which a killed program left; None for any other file."""
    found = _TEMPORARY.fullmatch(name)
    return found and found["name"]
