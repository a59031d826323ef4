"""Cards for workers, and what is told of misspelt settings. What settings may hold is in test_predictor.py."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from serving.near_misses import near_misses
from serving.photo.cores import usable_cores
from serving.process import cards
from serving.settings import Settings


@pytest.fixture(autouse=True)
def counted_anew() -> Iterator[None]:
    cards.visible.cache_clear()
    yield
    cards.visible.cache_clear()


@pytest.mark.parametrize(
    ("chosen", "shown", "expected"),
    [
        (None, 2, ("0", "1")),
        ("1,0", 2, ("1", "0")),
        ("GPU-8932f937, GPU-0123", 2, ("GPU-8932f937", "GPU-0123")),
        ("0,-1,1", 1, ("0",)),
        ("-1", 0, ()),
        ("", 0, ()),
    ],
)
def test_visible_cards(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, shown: int, expected: tuple[str, ...]
) -> None:
    """`shown` is what the driver counts under that CUDA_VISIBLE_DEVICES."""
    monkeypatch.delenv(cards.VISIBLE, raising=False)
    if chosen is not None:
        monkeypatch.setenv(cards.VISIBLE, chosen)
    monkeypatch.setattr(cards.ctypes, "CDLL", lambda name: None)
    monkeypatch.setattr(cards.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=f"{shown}\n"))
    assert cards.visible() == expected
    assert Settings.from_env({}).workers == (min(len(expected), usable_cores()) or -(-usable_cores() // 4))


def test_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(cards.ctypes, "CDLL", lambda name: None)
    cards.visible()
    assert not caplog.messages  # the program that counts has run


def test_a_driver_that_hangs_shows_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("python", 1)

    monkeypatch.setattr(cards.ctypes, "CDLL", lambda name: None)
    monkeypatch.setattr(cards.subprocess, "run", hang)
    assert cards.visible() == ()


def test_each_worker_has_a_card_of_its_own() -> None:
    assert cards.least_used((), []) is None
    assert [cards.least_used(("0", "1"), used) for used in ([], ["0"], ["1"], ["0", "1"])] == ["0", "1", "0", "0"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("THRESHOLD", "THRESH"),
        ("TRESH", "THRESH"),
        ("T_CLEAN", "THRESH"),
        ("DIRTYCAR_T_LOW", "T_LOW"),
        ("MODEL", "MODEL_PATH"),
        ("MODELPATH", "MODEL_PATH"),
        ("MAX_BYTE", "MAX_BYTES"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("URL_DENY_HOST", "URL_DENY_HOSTS"),
        ("REQUIRE_CERTIFICATE", "REQUIRE_CERTIFIED"),
        ("QUEUE_SIZE", "QUEUE"),
    ],
)
def test_a_misspelt_setting_is_told(name: str, meant: str) -> None:
    (told,) = near_misses([name, "THRESH", "PORT"])
    assert told.startswith(name) and f"is {meant} meant" in told


def test_what_is_not_ours_is_not_told() -> None:
    usual = """PATH HOME HOSTNAME LANG LC_ALL PWD SHLVL SHELL USER LOGNAME TERM TMPDIR PYTHONPATH PYTHON_VERSION GPG_KEY
        PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE VIRTUAL_ENV LD_LIBRARY_PATH OMP_NUM_THREADS CUDA_VISIBLE_DEVICES
        NVIDIA_VISIBLE_DEVICES NVIDIA_DRIVER_CAPABILITIES PROMETHEUS_MULTIPROC_DIR DIRTYCAR_STORE DIRTYCAR_SCRATCH
        KUBERNETES_PORT KUBERNETES_SERVICE_HOST HTTP_PROXY NO_PROXY SSL_CERT_FILE RES_OPTIONS INVOCATION_ID
        JOURNAL_STREAM SERVER_SOFTWARE WEB_CONCURRENCY GUNICORN_CMD_ARGS TZ MAIL EDITOR DISPLAY OLDPWD DEVICE DOMAIN"""
    assert not list(near_misses(usual.split()))
