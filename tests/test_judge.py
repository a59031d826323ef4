"""The page for judges, in a real browser; its judgements on the disk; and how they become training photos."""

import csv
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dvc.repo import Repo
from PIL import Image
from playwright import sync_api
from werkzeug.serving import make_server

from serving.audit.kept import Kept, KeptFolder
from stages.common.base.errors import StageError
from tests.support.live import photo
from tests.support.workspace import Workspace, jpeg
from tools import adopt
from tools.audit_promise.__main__ import main as audit
from tools.audit_promise.judgements import COLUMNS, read
from tools.judge.__main__ import create_app
from tools.judge.__main__ import main as judge
from tools.judge.book import Book

HOSTS = ["localhost", "127.0.0.1"]


def name(number: int, digest: str | None = None) -> str:
    return Kept(f"20261126T01{number:04}.000000Z", digest or f"{number:016x}", 0.99, 0.1, "net-0123").name


@pytest.fixture
def kept(tmp_path: Path) -> KeptFolder:
    folder = KeptFolder(tmp_path / "audit")
    for number in range(25):
        folder.put(name(number), photo(10 * number, size=(640, 400)))
    return folder


@pytest.fixture
def page(browser: sync_api.Browser, kept: KeptFolder, tmp_path: Path) -> Iterator[sync_api.Page]:
    app = create_app(kept, Book(tmp_path / "judgements.csv"), 2, HOSTS)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: "Security Policy" in line.text and faults.append(line.text))
    page.goto(f"http://127.0.0.1:{server.server_port}")
    yield page
    context.close()
    server.shutdown()
    thread.join()
    server.server_close()
    assert not faults


def begin(page: sync_api.Page, judge: str) -> None:
    page.fill("#name", judge)
    page.keyboard.press("Enter")


def test_twenty_judgements_by_keyboard(page: sync_api.Page, kept: KeptFolder, tmp_path: Path) -> None:
    begin(page, "Ann")
    for number in range(20):
        sync_api.expect(page.locator("#status")).to_have_text(f"Ann · {number} judged now · {25 - number} left")
        sync_api.expect(page.locator("[data-verdict=clean]")).to_be_enabled()
        assert page.evaluate("() => photo.naturalWidth") == 640
        page.keyboard.press("duc"[number % 3] if number < 3 else "ArrowLeft")
    sync_api.expect(page.locator("#status")).to_contain_text("20 judged now")
    sync_api.expect(page.locator("[data-verdict=clean]")).to_be_enabled()
    page.keyboard.press("z")
    sync_api.expect(page.locator("[data-verdict=clean]")).to_be_enabled()
    page.keyboard.press("d")  # the last one once more
    sync_api.expect(page.locator("#status")).to_contain_text("20 judged now · 5 left")
    rows = list(csv.DictReader((tmp_path / "judgements.csv").open()))
    assert list(rows[0]) == list(COLUMNS) and len(rows) == 21
    assert [row["photo"] for row in rows[:20]] == list(kept.names())[:20]
    assert {(row["judge"], row["share"], row["model"]) for row in rows} == {("Ann", "0.1", "net-0123")}
    assert read(tmp_path / "judgements.csv").dirty.sum() == 2
    audit([str(tmp_path / "judgements.csv"), "--target", "0.5"])


def test_a_second_judge_on_a_phone(page: sync_api.Page, browser: sync_api.Browser, tmp_path: Path) -> None:
    begin(page, "Ann")
    page.click("[data-verdict=dirty]")
    sync_api.expect(page.locator("#status")).to_contain_text("1 judged now")
    context = browser.new_context(viewport={"width": 360, "height": 700}, has_touch=True, is_mobile=True)
    phone = context.new_page()
    phone.goto(page.url)
    begin(phone, "Bob")
    sync_api.expect(phone.locator("#status")).to_have_text("Bob · 0 judged now · 25 left")
    box = phone.locator("[data-verdict=clean]").bounding_box()
    assert box and box["height"] >= 44 and box["y"] + box["height"] <= 700
    assert phone.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    phone.tap("[data-verdict=clean]")
    sync_api.expect(phone.locator("#status")).to_contain_text("1 judged now")
    context.close()
    found = read(tmp_path / "judgements.csv", judges=2)
    assert (len(found.unsure), found.twice, found.agree) == (1, 1, 0)


def test_no_verdict_before_its_photo_is_seen(page: sync_api.Page, tmp_path: Path) -> None:
    held, shown = list[sync_api.Route](), threading.Event()
    page.route("**/photo/**", lambda route: route.continue_() if shown.is_set() else held.append(route))
    begin(page, "Ann")
    sync_api.expect(page.locator("#status")).to_have_text("Ann · 0 judged now · 25 left")
    page.keyboard.press("d")
    sync_api.expect(page.locator("[data-verdict=dirty]")).to_be_disabled()
    shown.set()
    for route in held:
        route.continue_()
    page.dblclick("[data-verdict=clean]")
    sync_api.expect(page.locator("#status")).to_contain_text("1 judged now")
    assert [row["verdict"] for row in csv.DictReader((tmp_path / "judgements.csv").open())] == ["clean"]


def test_a_photo_that_is_gone_and_a_page_that_is_loaded_again(
    page: sync_api.Page, kept: KeptFolder, tmp_path: Path
) -> None:
    names = list(kept.names())
    page.route(
        "**/photo/**", lambda route: route.abort() if route.request.url.endswith(names[1]) else route.continue_()
    )
    begin(page, "Zoë <i>李</i>")
    page.click("[data-verdict=dirty]")
    sync_api.expect(page.locator("#message")).to_contain_text("cannot be shown")
    for key in "cd":
        page.keyboard.press(key)  # on what nobody has seen
    sync_api.expect(page.locator("[data-verdict=clean]")).to_be_disabled()
    (kept.path / names[2]).unlink()
    page.keyboard.press("u")
    sync_api.expect(page.locator("[data-verdict=clean]")).to_be_enabled()
    page.reload()
    sync_api.expect(page.locator("#status")).to_have_text("Zoë <i>李</i> · 0 judged now · 22 left")
    page.click("[data-verdict=clean]")
    sync_api.expect(page.locator("#status")).to_contain_text("1 judged now")
    (tmp_path / "judgements.csv").rename(tmp_path / "moved.csv")
    (tmp_path / "judgements.csv").mkdir()
    page.click("[data-verdict=clean]")
    sync_api.expect(page.locator("#status")).to_contain_text("Not saved ([Errno 21] Is a directory")
    sync_api.expect(page.locator("[data-verdict=clean]")).to_be_enabled()
    (tmp_path / "judgements.csv").rmdir()
    page.click("[data-verdict=clean]")
    sync_api.expect(page.locator("#status")).to_contain_text("2 judged now")
    assert read(tmp_path / "judgements.csv").dirty.tolist() == [False]
    kept.path.rename(tmp_path / "elsewhere")
    page.reload()
    sync_api.expect(page.locator("#status")).to_contain_text("No next photo ([Errno 2] No such file")
    rows = list(csv.DictReader((tmp_path / "moved.csv").open(encoding="utf-8")))
    assert [(row["photo"], row["verdict"]) for row in rows] == [
        (names[0], "dirty"), (names[1], "unsure"), (names[3], "clean"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/photo/../judgements.csv", 404),
        ("/photo/2026-11-26/../../judgements.csv", 404),
        ("/photo/etc%2fpasswd", 404),
        (f"/photo/{name(99)}", 404),
        (f"/photo/{name(3)}", 200),
        ("/next", 400),
        ("/next?judge=%00", 400),
    ],
)
def test_only_kept_photos_are_shown(path: str, status: int, kept: KeptFolder, tmp_path: Path) -> None:
    client = create_app(kept, Book(tmp_path / "judgements.csv"), 1, HOSTS).test_client()
    assert client.get(path).status_code == status
    assert client.get(path, headers={"Host": "evil.example"}).status_code == 400


def test_a_judgement_is_json_about_a_kept_photo(kept: KeptFolder, tmp_path: Path) -> None:
    client = create_app(kept, Book(tmp_path / "judgements.csv"), 1, HOSTS).test_client()
    good = {"photo": name(0), "judge": '=Ann,"\n', "verdict": "clean"}
    for body in ({**good, "verdict": "maybe"}, {**good, "photo": "x"}, [], {**good, "judge": ""}, good):
        assert client.post("/judgement", json=body).status_code == 400
    assert client.post("/judgement", data=good).status_code == 415
    assert client.post("/judgement", json={**good, "judge": "Ann, B."}).status_code == 200
    assert read(tmp_path / "judgements.csv").dirty.tolist() == [False]


def test_the_book_mends_what_was_cut_short_and_keeps_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "judgements.csv"
    Book(path).add(name(0), "Ann", "clean")
    whole = path.read_bytes()
    path.write_bytes(whole + b"2026-11-26/torn")
    book = Book(path)
    assert path.read_bytes() == whole and book.left([name(0), name(1)], "Ann", 1) == [name(1)]

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        book.add(name(1), "Ann", "clean")
    assert path.read_bytes() == whole and book.left([name(1)], "Ann", 1) == [name(1)]
    others = (
        "something,else\n1,2\n",
        f"photo,judge,verdict\n{name(0)},Ann,clean\n",
        whole.decode().replace("\n", "\r"),
    )
    for other in others:
        path.write_bytes(other.encode())
        with pytest.raises(StageError, match="columns"):
            Book(path)
        assert path.read_bytes() == other.encode()


def test_a_judgement_is_not_glued_to_a_line_that_an_editor_left_open(tmp_path: Path) -> None:
    path = tmp_path / "judgements.csv"
    book = Book(path)
    book.add(name(0), "Ann", "clean")
    path.write_bytes(path.read_bytes().rstrip())
    book.add(name(1), "Ann", "dirty")
    assert read(path).dirty.tolist() == [False, True]


@pytest.mark.parametrize("left", [0, 7, 41, 42])
def test_a_first_line_that_was_cut_short_is_written_again(left: int, tmp_path: Path) -> None:
    path = tmp_path / "judgements.csv"
    path.write_text((",".join(COLUMNS) + "\n")[:left])
    Book(path).add(name(0), "Zoë, 李", "dirty")
    assert read(path).dirty.tolist() == [True]


def test_two_judges_at_once_are_shown_different_photos(tmp_path: Path) -> None:
    book, names = Book(tmp_path / "judgements.csv"), [name(number) for number in range(3)]
    assert book.left(names, "Ann", 1)[0] == book.left(names, "Ann", 1)[0] == names[0]  # a page loaded again
    assert book.left(names, "Bob", 1) == [names[1], names[2], names[0]]
    book.add(names[1], "Bob", "clean")
    assert book.left(names, "Bob", 1) == [names[2], names[0]]
    book.add(names[2], "Bob", "clean")
    assert book.left(names, "Bob", 1) == [names[0]]  # Ann has gone home


def test_nobody_cannot_judge(kept: KeptFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.judge.__main__.make_server", pytest.fail)
    with pytest.raises(SystemExit):
        judge([str(kept.path), "--out", str(tmp_path / "judgements.csv"), "--judges", "0"])


def test_judged_photos_become_training_photos(
    workspace: Workspace, kept: KeptFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(7)
    shown = {number: jpeg(rng, dirty=True) for number in range(4)}
    held = next(workspace.data.glob("val/clean/*.jpg")).read_bytes()
    smaller = io.BytesIO()
    Image.open(io.BytesIO(held)).save(smaller, "PNG")
    shown |= {4: held, 5: smaller.getvalue(), 6: next(workspace.data.glob("train/dirty/*.jpg")).read_bytes(), 7: b"?"}
    shown[10] = smaller.getvalue()[:-500]  # its header can be read
    book, store = Book(Path("judgements.csv")), KeptFolder(Path("audit"))
    for number, data in shown.items():
        store.put(name(number), data)
        book.add(name(number), "Ann", "dirty" if number in (0, 6) else "clean")
    book.add(name(1), "Bob", "dirty")  # they disagree
    book.add(name(99), "Ann", "clean")  # deleted meanwhile
    for number, verdict in ((8, "clean"), (9, "dirty")):  # the same photo twice
        store.put(name(number, "f" * 16), jpeg(rng, dirty=True))
        book.add(name(number, "f" * 16), "Ann", verdict)
    with Repo.init(no_scm=True):
        adopt.main(["judgements.csv", "audit"])
        told = capsys.readouterr().out
        assert "2 left out: unreadable" in told and "1 left out: unsure, or judges differ" in told
        assert not list(workspace.data.rglob("audit-*"))
        adopt.main(["judgements.csv", "audit", "--apply"])
        expected = {f"train/dirty/audit-{0:016x}.jpg", *(f"train/clean/audit-{number:016x}.jpg" for number in (2, 3))}
        assert {str(path.relative_to(workspace.data)) for path in workspace.data.rglob("audit-*")} == expected
        assert (workspace.data / f"train/dirty/audit-{0:016x}.jpg").read_bytes() == shown[0]
        assert Path("data_cars.dvc").exists()
        capsys.readouterr()
        adopt.main(["judgements.csv", "audit"])
        assert "3 left out: adopted before" in capsys.readouterr().out
    workspace.must("split_check")  # no leak was made
