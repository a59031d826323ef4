"""The page in a real headless browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright import sync_api

from tests.support.live import Live, photo, running, wait_until
from tests.support.onnx_models import write_pair

TOKEN = "correct-horse"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("page")
    with running(write_pair(folder / "pair", t_clean=0.75, t_low=0.5), folder) as live:
        yield live


@pytest.fixture
def page(browser: sync_api.Browser, live: Live) -> Iterator[sync_api.Page]:
    """The page, open; it must not ask any other host for anything, nor throw."""
    page = browser.new_page()
    faults: list[str] = []
    page.on("request", lambda r: None if r.url.startswith((live.url, "blob:", "data:")) else faults.append(r.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(live.url)
    yield page
    page.close()
    assert not faults


def upload(name: str, data: bytes) -> dict[str, object]:
    return {"name": name, "mimeType": "image/jpeg", "buffer": data}


def card(page: sync_api.Page, name: str) -> sync_api.Locator:
    """The card of a photo, once it has an answer."""
    found = page.locator(".card", has_text=name)
    sync_api.expect(found).not_to_have_attribute("data-state", "waiting")
    return found


def test_dropping_a_photo_shows_its_verdict(page: sync_api.Page) -> None:
    handle = page.evaluate_handle(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "dropped.jpg", { type: "image/jpeg" }));
            return data;
        }""",
        list(photo(255)),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": handle})
    dropped = card(page, "dropped.jpg")
    sync_api.expect(dropped.locator(".verdict")).to_have_text("clean")
    sync_api.expect(dropped.locator(".numbers")).to_have_text("p_clean 1.0000 · T 0.7500")
    assert dropped.locator(".time").inner_text().endswith(" ms")
    bar = dropped.locator(".bar").bounding_box()
    mark = dropped.locator(".mark").bounding_box()
    assert mark["x"] + mark["width"] / 2 == pytest.approx(bar["x"] + 0.75 * bar["width"], abs=1.5)


def test_several_photos_and_errors_in_words(page: sync_api.Page) -> None:
    photos = {"clean": photo(255), "uncertain": photo(160), "dirty": photo(0), "error": b"%PDF-1.7"}
    page.set_input_files("#pick", [upload(f"{name}.jpg", data) for name, data in photos.items()])
    assert [card(page, f"{name}.jpg").get_attribute("data-state") for name in photos] == list(photos)
    sync_api.expect(card(page, "error.jpg").locator(".problem")).to_contain_text("This is a PDF")
    sync_api.expect(page.locator("#counts")).to_have_text("1 clean · 1 dirty · 1 uncertain · 1 without a verdict")
    page.click("#clear")
    sync_api.expect(page.locator(".card")).to_have_count(0)


def test_photos_become_views_of_one_car(page: sync_api.Page) -> None:
    photos = {"front": photo(255), "rear": photo(10), "paper": b"%PDF-1.7"}
    page.set_input_files("#pick", [upload(f"{name}.jpg", data) for name, data in photos.items()])
    page.get_by_role("button", name="Judge 3 as one car").focus()
    page.keyboard.press("Enter")
    car = page.locator(".car")
    sync_api.expect(car).to_be_focused()
    sync_api.expect(car.locator("> .body .verdict")).to_have_text("dirty")
    sync_api.expect(car.locator("> .body .name")).to_contain_text("2 of 3")
    sync_api.expect(car.locator("> .body .numbers")).to_contain_text(f"p_clean {10 / 255:.4f}")
    views = page.get_by_role("list", name="Photos of this car").locator(".card")
    assert [view.get_attribute("data-state") for view in views.all()] == ["clean", "dirty", "error"]
    sync_api.expect(views.last.locator(".problem")).to_contain_text("This is a PDF")
    sync_api.expect(page.locator("#counts")).to_have_text("1 dirty")
    sync_api.expect(page.locator("#group")).to_be_hidden()
    page.set_input_files("#pick", [upload(f"{name}.jpg", photo(250)) for name in ("once", "again")])
    sync_api.expect(page.locator("#counts")).to_have_text("2 clean · 1 dirty")
    page.get_by_role("button", name="Judge 2 as one car").click()
    copy = page.locator(".views .card", has_text="again.jpg")
    sync_api.expect(copy.locator(".problem")).to_have_text("This photo is here already.")
    sync_api.expect(copy.locator(".scale")).to_be_hidden()
    page.get_by_role("button", name="Clear").click()
    page.set_input_files("#pick", [upload(f"{n}.jpg", photo(255)) for n in range(9)])
    sync_api.expect(page.locator("#counts")).to_have_text("9 clean")
    sync_api.expect(page.locator("#group")).to_be_hidden()


def test_photos_of_a_car_that_cannot_be_judged_are_judged_by_themselves(page: sync_api.Page) -> None:
    held: list[sync_api.Route] = []
    page.route("**/predict/car", lambda route: route.abort())
    page.route("**/predict/file", lambda route: held.append(route) if len(held) < 4 else route.continue_())
    page.set_input_files("#pick", [upload(f"{n}.jpg", photo(255)) for n in range(6)])
    wait_until(lambda: page.wait_for_timeout(10) or len(held) == 4)
    page.click("#group")  # four uploads are under way, two photos wait
    for route in held:
        route.continue_()
    sync_api.expect(page.locator(".views .card[data-state=clean]")).to_have_count(6)
    sync_api.expect(page.locator(".car > .body .problem")).to_contain_text("could not be reached")


def test_it_works_by_keyboard(page: sync_api.Page) -> None:
    focused = []
    for _ in range(3):
        page.keyboard.press("Tab")
        focused.append(page.evaluate("() => document.activeElement.id || document.activeElement.tagName"))
    assert "pick" in focused
    with page.expect_file_chooser() as chooser:
        # Inside, because the browser is told to hand choosers over without waiting for its answer; this takes longer.
        while page.evaluate("() => document.activeElement.id") != "pick":
            page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
    chooser.value.set_files([upload("typed.jpg", photo(255))])
    sync_api.expect(card(page, "typed.jpg").locator(".verdict")).to_have_text("clean")


def test_it_fits_a_phone(browser: sync_api.Browser, live: Live) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    page = context.new_page()
    page.goto(live.url)
    page.set_input_files("#camera", [upload("a-very-long-name-" * 6 + ".jpg", photo(30))])
    card(page, "a-very-long-name-")
    page.set_input_files("#camera", [upload("b.jpg", photo(30))])
    page.click("#group")
    sync_api.expect(page.locator(".car[data-state=dirty]")).to_be_visible()
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    sync_api.expect(page.get_by_text("Take a photo")).to_be_visible()
    assert page.get_by_text("Take a photo").bounding_box()["height"] >= 44
    context.close()


def test_it_asks_for_a_token(browser: sync_api.Browser, tmp_path: Path) -> None:
    with running(write_pair(tmp_path), tmp_path, API_TOKEN=TOKEN) as live:
        page = browser.new_page()
        page.goto(live.url)
        page.set_input_files("#pick", [upload("a.jpg", photo(255))])
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        sync_api.expect(card(page, "a.jpg").locator(".verdict")).to_have_text("clean")
        page.close()


def test_the_docs_work_offline(live: Live, page: sync_api.Page) -> None:
    page.goto(live.url + "/docs")
    page.get_by_text("/predict/files").first.click()
    sync_api.expect(page.get_by_text("A list in the order of the photos")).to_be_visible()
