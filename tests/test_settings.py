"""What settings may hold, what is told of misspelt ones, and cards for workers."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from serving.near_misses import near_misses
from serving.process import cards
from serving.settings import Settings, SettingsError


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


@pytest.mark.parametrize(
    ("cores", "gpus", "workers"),
    [(1, 0, 1), (1, 2, 1), (2, 2, 2), (4, 1, 1), (5, 0, 2), (16, 0, 4), (16, 1, 4), (16, 8, 8)],
)
def test_default_workers(monkeypatch: pytest.MonkeyPatch, cores: int, gpus: int, workers: int) -> None:
    """Every card is used, and no worker has more cores than Python's lock lets it use."""
    monkeypatch.setattr("serving.settings.usable_cores", lambda: cores)
    monkeypatch.setattr(cards, "visible", lambda: tuple(map(str, range(gpus))))
    settings = Settings.from_env({})
    assert (settings.workers, settings.threads) == (workers, cores // workers)


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


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"THRESH": "1.1"}, "THRESH"),
        ({"THRESH": "nan"}, "THRESH"),
        ({"THRESH": "0.5", "T_HIGH": "0.6"}, "THRESH"),
        ({"T_LOW": "0.9", "T_HIGH": "0.5"}, "T_LOW"),
        ({"WORKERS": "two"}, "WORKERS"),
        ({"QUEUE": "4", "MAX_PHOTOS": "8"}, "MAX_PHOTOS"),
        ({"MAX_BYTES": "200", "MAX_REQUEST_BYTES": "100"}, "MAX_BYTES <= MAX_REQUEST_BYTES"),
        ({"MAX_REQUEST_BYTES": "999999999"}, "MAX_REQUEST_BYTES <= MAX_BYTES_IN_FLIGHT"),
        ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL"),
        ({"URL_PORTS": "80,http"}, "URL_PORTS"),
        ({"URL_ALLOW_NETWORKS": "10.0.0.0/99"}, "URL_ALLOW_NETWORKS"),
    ],
)
def test_a_wrong_setting_is_named(environ: dict[str, str], name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_env(environ)


@pytest.mark.parametrize("token", ["hunter2", "hunter2-größer", "hunter2 hunter2", "hunter2=hunter2"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(SettingsError, match="API_TOKEN") as caught:
        Settings.from_env({"API_TOKEN": token})
    assert "hunter2" not in str(caught.value)
    assert "correct-horse" not in repr(Settings.from_env({"API_TOKEN": "correct-horse"}))


def test_env_example_lists_every_setting_with_its_default() -> None:
    path = Path(__file__).resolve().parent.parent / "serving" / "env.example"
    lines = [line for line in path.read_text().splitlines() if "=" in line and not line.startswith("# ")]
    listed = dict(line.removeprefix("#").split("=", 1) for line in lines)
    assert set(listed) == {name.upper() for name in Settings.model_fields}
    assert Settings.from_env(listed) == Settings.from_env({})
