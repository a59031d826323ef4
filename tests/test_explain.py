"""Where a verdict comes from: the map finds what decides, the path is off the hot one, the page shows it on a tap."""

import base64
import io
import threading
from pathlib import Path

import numpy as np
import pytest
from flask import Flask
from PIL import Image
from playwright import sync_api

from serving.app import create_app
from serving.explain import GRID, occlusion, overlay
from serving.inference.photo import decode
from serving.settings import Settings
from serving.web import explain
from serving.web.explain import SIDE
from tests.support.live import photo, running
from tests.support.onnx_models import write_pair


def weighed(images: np.ndarray) -> np.ndarray:
    """A network that is linear in the pixels: right of the middle light is clean, left of it dirty."""
    weight = np.where(np.arange(112) < 56, -1.0, 1.0)
    return np.asarray((images.mean((1, 3)) / 255 * weight).sum(-1))


@pytest.mark.parametrize("batch", [1, 7, 32])
def test_of_a_linear_network_the_map_has_the_sign_of_the_weights(batch: int) -> None:
    image = np.zeros((112, 112, 3), np.uint8)
    image[40:60, 80:100] = 255  # speaks for clean
    image[40:60, 10:30] = 255  # speaks for dirty
    grid = occlusion(weighed, image, batch)
    assert grid.shape == (GRID, GRID)
    assert np.unravel_index(grid.argmax(), grid.shape)[1] > 7 > np.unravel_index(grid.argmin(), grid.shape)[1]
    assert grid[6, 11] > 0 > grid[6, 2] and abs(grid[0]).max() < grid.max() / 2
    shown = np.asarray(overlay(Image.fromarray(image).resize((300, 200)), grid)).astype(int)
    assert shown.shape == (200, 300, 3)
    assert shown[90, 240, 1] > shown[90, 240, 0] and shown[90, 50, 0] > shown[90, 50, 1]  # green, orange


def make(folder: Path, **environ: str) -> Flask:
    return create_app(Settings.from_env({"MODEL_PATH": str(write_pair(folder, t_clean=0.5).model), **environ}))


def ask(app: Flask, data: bytes) -> tuple[int, dict[str, object]]:
    answer = app.test_client().post("/explain/file", data={"file": (io.BytesIO(data), "a.jpg")})
    return answer.status_code, answer.get_json(force=True)


def test_the_path(tmp_path: Path) -> None:
    app = make(tmp_path)
    half = Image.new("RGB", (400, 300))
    half.paste((255, 255, 255), (200, 0, 400, 300))
    buffer = io.BytesIO()
    half.save(buffer, "PNG")
    status, answer = ask(app, buffer.getvalue())
    grid = np.array(answer["grid"])
    assert status == 200 and grid.shape == (GRID, GRID)
    assert (grid[:, 8:] > 0).all() and (grid[:, :6] < 0).all()  # the network tells brightness
    picture = Image.open(io.BytesIO(base64.b64decode(str(answer["overlay"]).partition(",")[2])))
    assert picture.size == (SIDE, SIDE) and answer["caution"]
    told = app.test_client().post("/predict/file", data={"file": (io.BytesIO(buffer.getvalue()), "a")}).json
    assert {name: told[name] for name in ("label", "p_clean", "model")}.items() <= answer.items()


def test_a_costly_photo_is_decoded_by_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "decode_here", lambda *_: pytest.fail("in the process that knows the secrets"))
    assert ask(make(tmp_path), photo(200, size=(4000, 3000), kind="PNG"))[0] == 200


@pytest.mark.parametrize(("cells", "by_default"), [(0, "occlusion"), (8, "occlusion"), (16, "cam")])
def test_the_map_of_the_network_itself(tmp_path: Path, cells: int, by_default: str) -> None:
    """Where there is one, if it was asked for or is fine enough."""
    pair = write_pair(tmp_path, t_clean=0.5, cells=cells, max_distance=0.9)
    client = create_app(Settings.from_env({"MODEL_PATH": str(pair.model)})).test_client()

    def asked(query: str) -> tuple[int, dict[str, object]]:
        answer = client.post("/explain/file" + query, data={"file": (io.BytesIO(photo(200)), "a.jpg")})
        return answer.status_code, answer.get_json(force=True)

    assert asked("")[1]["method"] == by_default
    assert asked("?method=occlusion")[1]["method"] == "occlusion"
    status, answer = asked("?method=cam")
    assert status == (200 if cells else 400)
    if cells:
        assert np.shape(answer["grid"]) == (cells, cells)
        assert np.allclose(answer["grid"], np.float64(answer["p_clean"]) - 0.5, atol=0.01)
    assert asked("?method=other")[0] == 400


@pytest.mark.parametrize(("data", "status"), [(b"%PDF-1.7", 415), (b"", 400), (photo()[:200], 400)])
def test_what_is_no_photo(tmp_path: Path, data: bytes, status: int) -> None:
    assert ask(make(tmp_path), data)[0] == status


def test_one_at_a_time_and_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app, taken = make(tmp_path / "a"), threading.BoundedSemaphore(1)
    taken.acquire()
    monkeypatch.setattr(explain, "_place", taken)
    assert ask(app, photo())[0] == 503
    assert ask(make(tmp_path / "b", EXPLAIN="off"), photo())[0] == 404
    assert ask(make(tmp_path / "c", API_TOKEN="correct-horse"), photo())[0] == 401


def test_the_page_shows_it_on_a_tap(browser: sync_api.Browser, tmp_path: Path) -> None:
    with running(write_pair(tmp_path / "pair"), tmp_path) as live:
        context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
        page = context.new_page()
        page.goto(live.url)
        page.set_input_files("#pick", [{"name": "a.jpg", "mimeType": "image/jpeg", "buffer": photo(240)}])
        page.get_by_role("button", name="Why?").tap()
        sync_api.expect(page.locator(".map")).to_contain_text("not that the reason is right")
        assert page.evaluate("() => document.querySelector('.map img').decode().then(() => true)")
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        context.close()
