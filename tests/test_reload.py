"""The model in service, as a worker follows it."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from serving.inference.model import onnx_check
from serving.process import reload
from serving.process.metrics import RELOADS


def point(store: Path, name: str) -> Path:
    """Make a copy's folder the current one, as the server does."""
    (store / name).mkdir()
    (store / "next").symlink_to(name)
    (store / "next").replace(store / "current")
    return store / name


def test_what_is_too_large_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor a device, which has no end."""
    monkeypatch.setattr(reload.shutil, "copyfile", lambda *_: pytest.fail("it was copied"))
    large = tmp_path / "best.onnx"
    with large.open("wb") as file:
        file.truncate(onnx_check.MAX_BYTES + 1)  # without taking any room
    for model, reason in ((large, "larger than"), (Path("/dev/zero"), "not a file")):
        with pytest.raises(reload.ReloadError, match=f"{model} is {reason}"):
            reload.ModelStore(tmp_path).publish(model, large)
    assert not list(tmp_path.glob("model-*"))


def test_a_published_model_stays_where_the_folder_is_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As TMPDIR may be."""
    model, link = tmp_path / "best.onnx", tmp_path / "link"
    model.write_bytes(b"a model")
    (tmp_path / "real").mkdir()
    link.symlink_to("real")
    monkeypatch.setattr(reload.ModelStore, "_try", lambda self, copy: None)
    store = reload.ModelStore(link)
    for _ in range(3):
        store.publish(model, None)
        assert (store.current / "best.onnx").read_bytes() == b"a model"
    assert len(list((tmp_path / "real").glob("model-*"))) == 2


def test_a_failed_reload_is_tried_again_with_growing_pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(reload, "LONGEST_PAUSE", 0.05)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        time.sleep(seconds)

    monkeypatch.setattr(reload, "time", SimpleNamespace(sleep=sleep))
    failed = RELOADS.labels("failed")._value.get()
    tried: list[Path] = []
    done = threading.Event()

    def change(folder: Path) -> None:
        tried.append(folder)
        if len(tried) < 5:
            raise RuntimeError("no kind of error that this project knows")
        done.set()

    loaded = point(tmp_path, "model-1")
    new = point(tmp_path, "model-2")
    reload.follow(reload.ModelStore(tmp_path), loaded, change)
    assert done.wait(10)
    assert tried == [new] * 5 and RELOADS.labels("failed")._value.get() == failed + 4
    assert pauses[:5] == [0.01, 0.02, 0.04, 0.05, 0.05]
    done.clear()
    newest = point(tmp_path, "model-3")
    assert done.wait(10) and tried[5:] == [newest]  # once: what is loaded is not loaded again
