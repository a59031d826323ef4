"""judgements.csv, to which lines are only ever added: who has judged which photo, and what comes next."""

import csv
import errno
import io
import os
import threading
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from serving.audit.kept import parse
from tools.audit_promise.judgements import COLUMNS, read_rows


class Book:
    """The judgements so far; safe to use from several threads of one process."""

    def __init__(self, path: Path) -> None:
        """Raises StageError for a file that holds something else."""
        self._path, self._lock = path, threading.Lock()
        self._judges: dict[str, set[str]] = defaultdict(set)
        if path.exists() and path.stat().st_size:
            for row in read_rows(path):
                self._judges[row["photo"]].add(row["judge"])
            self._mend()
        else:
            self._append(COLUMNS)

    def left(self, names: Sequence[str], judge: str, judges: int) -> list[str]:
        """The photos that fewer than `judges` have judged, and this judge has not."""
        with self._lock:
            return [name for name in names if judge not in self._judges[name] and len(self._judges[name]) < judges]

    def add(self, name: str, judge: str, verdict: str) -> None:
        """Write one judgement to the disk, at once. Raises OSError."""
        kept = parse(name)
        assert kept is not None
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._lock:
            self._append((name, verdict, judge, f"{kept.share:.12g}", kept.model, now))
            self._judges[name].add(judge)

    def _append(self, row: Sequence[str]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(row)
        line = text.getvalue().encode()
        with self._path.open("ab", buffering=0) as file:
            start = file.tell()
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(start)  # no half line, nor one that the judge is told is not saved
                raise

    def _mend(self) -> None:
        """Cut off a last line that was cut short."""
        content = self._path.read_bytes()
        os.truncate(self._path, content.rfind(b"\n") + 1)
