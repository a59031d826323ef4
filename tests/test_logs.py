"""What keeps a full disk and a full pipe from the requests."""

import errno
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.process import logs
from serving.process.metrics import LOG_LINES_DROPPED
from serving.process.reload import ModelStore


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """A pipe in place of standard error: where it is read, where it is written."""
    read, write = os.pipe()
    monkeypatch.setattr(logs, "_STDERR", write)
    yield read, write
    for descriptor in (read, write):
        os.close(descriptor)


def line(handler: logging.Handler, text: str) -> None:
    handler.handle(logging.LogRecord("x", logging.INFO, "", 0, text, None, None))


def test_a_pipe_that_nobody_reads_costs_lines_and_no_time(pipe: tuple[int, int]) -> None:
    read, write = pipe
    handler = logs.LineHandler()
    handler.setFormatter(logs.JsonFormatter())
    before, started = LOG_LINES_DROPPED._value.get(), time.monotonic()
    for number in range(300):
        line(handler, f"{number} " + "x" * 9_000)  # longer than what a pipe takes whole or not at all
    assert LOG_LINES_DROPPED._value.get() > before and time.monotonic() - started < 20
    assert os.get_blocking(write)  # whoever shares the pipe is not concerned
    os.set_blocking(read, False)
    while True:
        try:
            os.read(read, 1 << 20)
        except BlockingIOError:
            break
    line(handler, "after")
    torn, last = os.read(read, 1 << 20).splitlines()
    assert torn == b"" and json.loads(last)["message"] == "after"


def test_a_full_disk_costs_lines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr(logs, "_STDERR", descriptor)
    before = LOG_LINES_DROPPED._value.get()
    line(logs.LineHandler(), "lost")
    assert LOG_LINES_DROPPED._value.get() == before + 1
    os.close(descriptor)


RESERVE = """
import errno, os, sys
from serving.process import metrics
def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")
if sys.argv[1] == "full":
    os.posix_fallocate = full
try:
    metrics.reserve()
except OSError as error:
    sys.exit(error.errno)
"""


@pytest.mark.parametrize(("disk", "code", "files"), [("roomy", 0, 3), ("full", errno.ENOSPC, 0)])
def test_metrics_take_their_room_ahead_or_leave_nothing(tmp_path: Path, disk: str, code: int, files: int) -> None:
    env = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", RESERVE, disk], env=env, check=False, timeout=60)
    left = list(tmp_path.iterdir())
    assert ended.returncode == code and len(left) == files
    assert all(path.stat().st_blocks * 512 >= 64 * 1024 for path in left)


def test_a_reason_that_did_not_fit_on_the_disk_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "refused").write_text("")
    assert "disk is full" in str(ModelStore(tmp_path).refused)
