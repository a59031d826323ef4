"""reports/split_check.html: written whatever the verdict, safe with any name, and its corrections can be applied."""

import contextlib
import csv
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from markupsafe import escape
from PIL import Image, ImageEnhance
from playwright.sync_api import Browser, expect

from stages.split_check import page as pages
from stages.split_check.groups import Group, Kind
from stages.split_check.report import Findings, Note
from tests.support.workspace import InProcess, Workspace, write_photos
from tools.relabel import relabel

NASTY = "<img src=x onerror=alert(1)> \"&'.jpg"
KINDS: tuple[Kind, ...] = get_args(Kind)
PAGE = Path("reports/split_check.html")


def plant(data: Path) -> None:
    """A leak, a conflict with a nasty name, a file that is no photo, a dark photo."""
    shutil.copy(data / "train/clean/000.jpg", data / "test/clean/copy.jpg")
    shutil.copy(data / "train/clean/001.jpg", data / "train/dirty" / NASTY)
    (data / "val/dirty/broken.jpg").write_bytes(b"")
    dark = ImageEnhance.Brightness(Image.open(data / "val/clean/003.jpg")).enhance(0.05)
    dark.save(data / "val/clean/dark.jpg")


def audit(*names: str) -> None:
    """Suspected labels, as `make audit` lists them."""
    rows = [",".join(pages.AUDIT_HEADER)]
    for rank, name in enumerate(names, 1):
        split, label, _ = name.split("/")
        rows.append(f"{rank},{name},{split},{label},{'dirty' if label == 'clean' else 'clean'},0.0{rank}")
    pages.AUDIT.parent.mkdir(exist_ok=True)
    pages.AUDIT.write_text("\n".join(rows) + "\n")


def findings(**changes: Any) -> Findings:
    """Findings of a clean bill, with changes."""
    kinds = ("unreadable", "odd", "excluded", *KINDS, "hubs", "small", "dark", "washed_out", "blurred")
    content: dict[str, Any] = {
        "root": "data_cars", "data_version": "0", "photos": {"train": {"clean": 16, "dirty": 8}},
        "totals": dict.fromkeys(kinds, 0), "unreadable": (), "odd": (), "excluded": (), "groups": (), "shortcuts": (),
        "drift": (), "poor": (), "outlook": "", "warnings": (),
    }  # fmt: skip
    return Findings(**(content | changes))


def test_it_is_written_when_the_stage_stops_and_names_are_only_text(workspace: Workspace) -> None:
    plant(workspace.data)
    audit("val/clean/002.jpg", "train/clean/gone.jpg")
    workspace.refuses("split_check", "in several splits", "both labels")
    html = PAGE.read_text()
    for words in ("These photos spoil results", "test/clean/copy.jpg", "val/dirty/broken.jpg", "val/clean/dark.jpg"):
        assert words in html
    assert "<img src=x" not in html and "&lt;img src=x onerror=alert(1)&gt; &#34;&amp;&#39;.jpg" in html
    assert "train/clean/gone.jpg" not in html and "1 more have been moved" in html


def test_the_blind_sample_shows_no_label(workspace: Workspace) -> None:
    pages.BLIND.parent.mkdir()
    pages.BLIND.write_text("path\nval/dirty/000.jpg\ntest/clean/001.jpg\ntest/clean/gone.jpg\n")
    section = pages.render(findings()).split('<section id="blind"')[1].split("</section>")[0]
    assert section.count("<figure") == section.count("data:image/jpeg") == 2
    shown = re.sub(r'data-\w+="[^"]*"', "", section)
    assert "000.jpg" not in shown and not re.search(r">\s*looks|class=\"tag|checked|href=", shown)
    pages.BLIND.write_text("photo\nx\n")
    with pytest.raises(ValueError, match=r"blind_sample\.csv is no blind sample"):
        pages.render(findings())


def test_it_says_what_is_left_out(workspace: Workspace) -> None:
    plant(workspace.data)
    policies = ("on_unreadable", "on_leak", "on_conflict", "on_duplicate")
    workspace.set(**{f"split_check.{policy}": "drop" for policy in policies})
    workspace.must("split_check")
    section = PAGE.read_text().split('<section id="excluded"')[1].split("</section>")[0]
    with Path("artifacts/exclusions.csv").open(newline="") as file:
        gone = list(csv.DictReader(file))
    assert f'href="#excluded">{len(gone)} photos are left out</a>' in PAGE.read_text()
    assert "val/dirty/broken.jpg" in {row["path"] for row in gone} and section.count("<li>") == len(gone)
    assert all(escape(row["path"]) in section and escape(row["reason"]) in section for row in gone)


def test_it_needs_no_other_file(workspace: Workspace) -> None:
    workspace.must("split_check")
    html = PAGE.read_text()
    assert "No photo stands in two splits" in html and "make audit" in html
    assert not re.findall(r'(?:src|href)="(?!data:|#|\.\./data_cars/)', html)


def test_the_same_findings_give_the_same_page(workspace: Workspace) -> None:
    plant(workspace.data)
    workspace.run("split_check")
    before = PAGE.read_bytes()
    pages.write_page()
    assert PAGE.read_bytes() == before


def test_it_stays_small_whatever_is_found(workspace: Workspace) -> None:
    """Each kind of finding at its cap in artifacts/findings.json, a group of 5,000 photos, and many suspects."""
    names = tuple(f"{split}/clean/{n:03}.jpg" for split in ("train", "val", "test") for n in range(16))
    groups = [Group(KINDS[n % 4], "near", names[n % 40 : n % 40 + 3]) for n in range(1000)]
    groups.append(Group("within", "near", tuple(f"train/clean/{n}.jpg" for n in range(5000))))
    totals = findings().totals | {"conflict": 250, "leak": 250, "within": 251, "scene": 250, "odd": 500}
    audit(*(names * 200))
    odd = tuple(Note(names[n % 48], "extreme aspect: 9 x 1") for n in range(500))
    html = pages.render(findings(groups=tuple(groups), totals=totals, odd=odd))
    assert "The first 100 of 9600 are shown." in html and "The first 40 of 251 are shown." in html
    photos = html.count("<figure")
    assert photos == 4 * 40 * 3 + 100 + 40
    assert len(html) < photos * 6000 + 50_000


def test_a_group_shows_its_splits_first() -> None:
    names = (*(f"train/clean/{n}.jpg" for n in range(20)), "val/clean/1.jpg")
    (shown,) = pages.show_groups([Group("leak", "near", names)], "leak")
    assert [card.path for card in shown.cards][:2] == ["train/clean/0.jpg", "val/clean/1.jpg"]
    assert shown.more == 21 - len(shown.cards)


def test_photos_in_full_are_linked_from_where_the_page_lies(workspace: Workspace) -> None:
    name = "train/clean/a b#1?%.jpg"
    (workspace.data / name).write_bytes((workspace.data / "train/clean/000.jpg").read_bytes())
    html = pages.render(findings(odd=(Note(name, "odd"),), totals=findings().totals | {"odd": 1}))
    assert 'href="../data_cars/train/clean/a%20b%231%3F%25.jpg"' in html


def test_a_damaged_audit_is_refused_by_name_and_stops_no_check(workspace: Workspace) -> None:
    pages.AUDIT.parent.mkdir()
    pages.AUDIT.write_text("path\nx\n")
    done = workspace.run("split_check")
    assert done.returncode == 0, done.stderr
    assert f"WARNING: {PAGE} was not written" in done.stdout and "label_audit.csv" in done.stdout
    assert Path("reports/split_check.json").exists() and Path("artifacts/exclusions.csv").exists()
    with pytest.raises(ValueError, match=r"label_audit\.csv is no list of suspected labels"):
        pages.render(findings())


# In a real browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with planted defects, their page and an audit."""
    folder = tmp_path_factory.mktemp("site")
    write_photos(folder / "data_cars")
    plant(folder / "data_cars")
    with contextlib.chdir(folder):
        audit("val/clean/002.jpg", "val/dirty/000.jpg", "test/clean/copy.jpg")
        pages.BLIND.write_text("path\nval/dirty/001.jpg\ntest/clean/001.jpg\n")
        InProcess(folder).run("split_check")
    return folder


@pytest.fixture
def tab(browser: Browser, site: Path) -> Iterator[Any]:
    """The page, open as a local file; it must ask nobody for anything, nor throw."""
    context = browser.new_context(viewport={"width": 375, "height": 800}, accept_downloads=True)
    tab = context.new_page()
    faults: list[str] = []
    tab.on("request", lambda r: None if r.url.startswith(("file:", "blob:", "data:")) else faults.append(r.url))
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("dialog", lambda dialog: faults.append(dialog.message))
    tab.on("console", lambda message: faults.append(message.text))
    tab.goto((site / PAGE).as_uri())
    yield tab
    context.close()
    assert not faults


def card(tab: Any, section: str, path: str) -> Any:
    """A photo's card in a section."""
    return tab.locator(f"#{section} .card", has=tab.locator(".path", has_text=re.compile(f"^{re.escape(path)}$"))).first


def exported(tab: Any) -> bytes:
    with tab.expect_download() as download:
        tab.click("#export")
    assert download.value.suggested_filename == "corrections.csv"
    return Path(download.value.path()).read_bytes()


def test_choices_are_exported_and_can_be_applied(tab: Any, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tab.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    card(tab, "suspects", "val/clean/002.jpg").get_by_role("radio", name="dirty").check()
    card(tab, "conflict", f"train/dirty/{NASTY}").get_by_role("radio", name="exclude").check()
    card(tab, "leak", "test/clean/copy.jpg").get_by_role("radio", name="exclude").check()
    card(tab, "suspects", "val/dirty/000.jpg").get_by_role("radio", name="clean").check()
    card(tab, "suspects", "val/dirty/000.jpg").get_by_role("radio", name="keep").check()
    assert card(tab, "suspects", "test/clean/copy.jpg").get_attribute("data-choice") == "exclude"  # the same photo
    assert tab.inner_text("#bar p[role=status]") == "3 answers"
    content = exported(tab)
    assert list(csv.reader(io.StringIO(content.decode()))) == [
        ["path", "action"],
        ["test/clean/copy.jpg", "exclude"],
        [f"train/dirty/{NASTY}", "exclude"],
        ["val/clean/002.jpg", "dirty"],
    ]
    (site / "corrections.csv").write_bytes(content)
    (site / "data_cars/val/dirty/002.jpg").unlink()  # it would be in the way
    monkeypatch.chdir(site)
    assert relabel(site / "corrections.csv", site / "data_cars", go=True)
    assert (site / "data_cars/val/dirty/002.jpg").exists() and (site / "removed_photos/train/dirty" / NASTY).exists()


def test_the_blind_sample_tells_how_many_labels_are_wrong_once_all_are_judged(tab: Any) -> None:
    blind = tab.locator("#blind .card")
    blind.nth(0).get_by_role("radio", name="clean").check()
    assert tab.inner_text("#agreement") == "" and tab.inner_text("#bar p[role=status]") == "1 answer"
    blind.nth(1).get_by_role("radio", name="clean").check()
    assert tab.inner_text("#agreement") == "1 of 2 labels are not what you see."
    assert exported(tab) == b"path,action\ntest/clean/001.jpg,clean\nval/dirty/001.jpg,clean\n"
    tab.click("#clear")


def test_it_works_by_keyboard_and_every_tab_and_a_reload_have_the_choices(tab: Any) -> None:
    card(tab, "suspects", "val/dirty/000.jpg").locator("input").first.focus()
    tab.keyboard.press("ArrowRight")
    other = tab.context.new_page()
    other.goto(tab.url)
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowLeft")
    for page in (other, tab):
        expect(card(page, "suspects", "val/dirty/000.jpg")).to_have_attribute("data-choice", "clean")
    tab.reload()
    expect(card(tab, "suspects", "val/dirty/000.jpg")).to_have_attribute("data-choice", "clean")
    assert exported(tab) == b"path,action\nval/dirty/000.jpg,clean\n"
    tab.click("#clear")
    assert not tab.is_visible("#bar")
