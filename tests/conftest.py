"""Fixtures: a workspace to run stages in, one whole run of the pipeline, and a browser."""

import functools
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from playwright.sync_api import Browser, expect, sync_playwright

from tests.support.workspace import ROOT, InProcess, Workspace, write_photos

# A shell makes what it starts in the background deaf to Ctrl-C, and so every program that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
expect.set_options(timeout=60_000)
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


@functools.cache
def of_the_whole_run(nodeid: str) -> bool:
    """Whether a test's file asks for `pipeline`."""
    return bool(re.search("(pipeline|copy): Workspace", (ROOT / nodeid.split("::")[0]).read_text()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of the whole run take longest, so they begin."""
    items.sort(key=lambda item: not of_the_whole_run(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One worker makes the whole run, once, and has all of its tests; the others are shared out file by file."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "the whole run" if of_the_whole_run(nodeid) else super()._split_scope(nodeid)

    return Scheduling(config, log)


@pytest.fixture
def rng() -> np.random.Generator:
    """The same numbers in whatever order tests run."""
    return np.random.default_rng(0)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A fresh workspace with photos; the current folder. Its stages run in this process."""
    write_photos(tmp_path / "data_cars")
    monkeypatch.chdir(tmp_path)
    return InProcess(tmp_path)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which all was run that training needs. Do not change it."""
    folder = tmp_path_factory.mktemp("prepared")
    write_photos(folder / "data_cars")
    workspace = InProcess(folder)
    workspace.must("split_check", "backbone")
    return workspace


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which every stage has run once. Do not change it."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_photos(folder / "data_cars", clean=40, dirty=20)
    workspace = InProcess(folder)
    workspace.must("split_check", "backbone", "train", "convert", "eval", "threshold", "export", "benchmark")
    return workspace


@pytest.fixture
def trainable(prepared: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A copy of `prepared` that may be changed; the current folder."""
    return _copy(prepared, tmp_path, monkeypatch)


@pytest.fixture
def copy(pipeline: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A copy of the whole run that may be changed; the current folder."""
    return _copy(pipeline, tmp_path, monkeypatch)


def _copy(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    shutil.copytree(workspace.folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return InProcess(tmp_path / "copy")


@pytest.fixture(scope="module")  # its event loop must not outlive the tests that need it
def browser() -> Iterator[Browser]:
    """A real headless browser. Where there is none, its tests are skipped, or fail with REQUIRE_BROWSER=1."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((path for name in names if (path := shutil.which(name))), None)
    if path is None:
        give_up = pytest.fail if os.environ.get("REQUIRE_BROWSER") == "1" else pytest.skip
        give_up("no Chromium on the PATH (REQUIRE_BROWSER=1 makes this an error)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
