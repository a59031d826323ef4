"""judgements.csv, to which lines are only ever added: who has judged which photo, and what comes next."""

import errno
import os
import threading
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from serving.audit.kept import parse
from stages.common.base.errors import StageError
from stages.common.base.files import csv_bytes
from tools.audit_promise.judgements import COLUMNS, read_rows


class Book:
    """The judgements so far; safe to use from several threads of one process."""

    def __init__(self, path: Path) -> None:
        """Raises StageError for a file that holds something else."""
        self._path, self._lock = path, threading.Lock()
        self._judges: dict[str, set[str]] = defaultdict(set)
        self._shown: dict[str, str] = {}  # to each judge
        content = path.read_bytes() if path.exists() else b""
        if csv_bytes(COLUMNS, ()).startswith(content):  # none, or a first line that was cut short
            path.write_bytes(b"")
            self._append()
            return
        for row in read_rows(path):
            self._judges[row["photo"]].add(row["judge"])
        if content.decode("utf-8-sig").partition("\n")[0].rstrip("\r") != ",".join(COLUMNS):  # \r alone ends no line
            raise StageError(f"{path}: lines can be added to the columns {', '.join(COLUMNS)} alone, in this order")
        os.truncate(path, content.rfind(b"\n") + 1)  # a last line that was cut short

    def left(self, names: Sequence[str], judge: str, judges: int) -> list[str]:
        """The photos that fewer than `judges` have judged, and this judge has not; the first is taken to be shown.

        Those that others are looking at come last.
        """
        with self._lock:
            left = [name for name in names if judge not in self._judges[name] and len(self._judges[name]) < judges]
            others = {name for who, name in self._shown.items() if who != judge}
            left.sort(key=others.__contains__)
            self._shown[judge] = left[0] if left else ""
            return left

    def add(self, name: str, judge: str, verdict: str) -> None:
        """Write one judgement to the disk, at once. Raises OSError."""
        kept = parse(name)
        assert kept is not None
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._lock:
            self._append((name, verdict, judge, f"{kept.share:.12g}", kept.model, now))
            self._judges[name].add(judge)

    def _append(self, *rows: Sequence[str]) -> None:
        with self._path.open("a+b", buffering=0) as file:
            start = file.tell()
            first, *others = rows if start else (COLUMNS, *rows)  # the file may have been moved away
            file.seek(max(0, start - 1))
            torn = file.read(1) not in (b"", b"\n")  # as some editors save a last line
            line = b"\n" * torn + csv_bytes(first, others)
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(start)  # no half line, nor one that the judge is told is not saved
                raise
