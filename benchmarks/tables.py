"""Tables that are printed line by line, and kept."""

from collections.abc import Iterable
from pathlib import Path

from stages.common.base.files import write_bytes


def show(lines: Iterable[str], out: Path | None) -> None:
    """Print each line as soon as it is there; write all of them to `out` at the end."""
    shown = []
    for line in lines:
        print(line, flush=True)
        shown.append(line)
    if out:
        write_bytes(out, ("\n".join(shown) + "\n").encode())
