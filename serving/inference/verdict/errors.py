"""The base of every error that input can cause, and the reading of files that may hold anything."""

from __future__ import annotations

import os
from pathlib import Path


class UserError(ValueError):
    """Something its sender, or who runs this, can mend; the message says what is wrong and with which file or key.

    Whatever else is raised is a defect.
    """


def read_at_most(path: Path, limit: int, kind: type[UserError]) -> bytes:
    """The bytes of a file. Raises `kind`, with its name, when it cannot be read or has more than `limit` of them."""
    try:
        with path.open("rb") as file:
            # One byte more is enough to be told that there are too many; and no more room is made than is needed.
            content = file.read(min(os.fstat(file.fileno()).st_size, limit) + 1)
    except OSError as error:
        raise kind(f"cannot read {path}: {error.strerror}") from error
    if len(content) > limit:
        raise kind(f"{path} is larger than {limit:,} bytes")
    return content
