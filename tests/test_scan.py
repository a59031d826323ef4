"""What is kept of a photo, and how photos are joined to groups."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from samples.draw import draw_photo
from serving.image import decode
from stages.common.data import CLEAN, DIRTY, Photo, list_photos
from stages.split_check.check import check
from stages.split_check.findings import MAX_GROUPS, Findings
from stages.split_check.groups import Link, components, group_table, id_of
from stages.split_check.params import SplitCheckParams
from stages.split_check.scan import Look, Scanned, look_at, scan

PARAMS = SplitCheckParams(
    on_unreadable="fail", on_leak="fail", on_conflict="fail", on_duplicate="fail", hash_radius=7, similarity=0.9975,
    group_regex=None, source_regex=None, shortcut_auc_warn=0.75, dark_below=0.1, contrast_below=0.05,
    sharpness_below=0.08,
)  # fmt: skip


def photo() -> Image.Image:
    return Image.open(io.BytesIO(draw_photo(5, 0, "clean"))).convert("RGB")


def look(folder: Path, name: str = "photo.jpg") -> Look:
    found = look_at(folder, Photo(name, CLEAN)).look
    assert found is not None
    return found


@pytest.mark.parametrize("quality", [30, 50, 75, 90, 95])
def test_jpeg_quality_is_read_from_the_tables(tmp_path: Path, quality: int) -> None:
    photo().save(tmp_path / "photo.jpg", quality=quality)
    estimate = look(tmp_path).quality
    assert estimate is not None and abs(estimate - quality) <= 1


def test_size_is_that_of_the_upright_photo_and_pixels_outlive_metadata(tmp_path: Path) -> None:
    large = photo().resize((1200, 800))
    exif = Image.Exif()
    exif[0x0112] = 6
    large.save(tmp_path / "plain.jpg")
    large.save(tmp_path / "turned.jpg", exif=exif)
    exif[0x0112] = 1
    large.save(tmp_path / "commented.jpg", exif=exif)
    plain, turned, commented = (look(tmp_path, f"{name}.jpg") for name in ("plain", "turned", "commented"))
    assert (plain.width, plain.height, plain.exif) == (1200, 800, False)
    assert (turned.width, turned.height, turned.exif) == (800, 1200, True)
    assert plain.pixels_sha256 == commented.pixels_sha256 != turned.pixels_sha256


def test_colours_of_the_border_and_of_the_whole(tmp_path: Path) -> None:
    framed = Image.new("RGB", (200, 200), (200, 0, 0))
    framed.paste((0, 0, 200), (20, 20, 180, 180))
    framed.save(tmp_path / "photo.png")
    found = look(tmp_path, "photo.png")
    assert found.border_colour == pytest.approx((200, 0, 0))
    assert found.mean_colour == pytest.approx((0.36 * 200, 0, 0.64 * 200))
    assert found.quality is None


def test_an_unsplit_folder_is_scanned_in_the_order_asked(tmp_path: Path) -> None:
    for label in ("clean", "dirty"):
        (tmp_path / label).mkdir()
        for number in range(20):
            photo().resize((64 + number, 64)).save(tmp_path / label / f"{number:02}.jpg")
    photos = list_photos(tmp_path, "")[::-1]
    found = scan(tmp_path, photos)
    assert [one.photo for one in found] == photos
    assert {one.split for one in found} == {""}
    assert [one.look.width for one in found if one.look] == [64 + int(one.name[-6:-4]) for one in photos]


@pytest.mark.parametrize("content", [b"", b"no photo", b"\xff\xd8\xff" + bytes(99), None])
def test_what_decode_refuses_is_a_problem_in_the_same_words(tmp_path: Path, content: bytes | None) -> None:
    content = draw_photo(5, 0, "clean")[:3000] if content is None else content
    (tmp_path / "photo.jpg").write_bytes(content)
    with pytest.raises(Exception) as refused:
        decode(content, 64)
    found = look_at(tmp_path, Photo("photo.jpg", CLEAN))
    assert found.look is None and found.problem is not None
    assert found.problem.split(":")[0] == str(refused.value).split(":")[0]


def test_a_file_that_is_gone_is_a_problem(tmp_path: Path) -> None:
    assert look_at(tmp_path, Photo("gone.jpg", CLEAN)).problem == "No such file or directory"


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), max_size=20))
def test_groups_are_what_can_be_reached(pairs: list[tuple[int, int]]) -> None:
    names = [f"{number:02}" for number in range(16)]
    links = [Link(names[a], names[b], "near") for a, b in pairs]
    reach = np.eye(16, dtype=bool)
    for _ in range(16):
        for a, b in pairs:
            reach[a] = reach[b] = reach[a] | reach[b]
    reach = (reach.astype(int) @ reach.T.astype(int)) > 0
    for a, group in group_table(names, links):
        assert group == min(b for b in names if reach[int(a), int(b)])
    assert sorted(name for members in components(names, links) for name in members) == names


def test_an_id_is_the_named_group_or_the_first() -> None:
    assert id_of("train/clean/car_7_a.jpg", "car_([0-9]+)_([a-z])") == "7"
    assert id_of("train/clean/car_7_a.jpg", "car_([0-9]+)_(?P<group>[a-z])") == "a"
    assert id_of("train/clean/van.jpg", "car_([0-9]+)") is None


def copies(pairs: int) -> list[Scanned]:
    """Photos of which each has a copy in another split, and as many broken files with one content."""
    names = [(f"{split}/clean/{number}.jpg", number) for number in range(pairs) for split in ("train", "test")]
    whole = [Scanned(Photo(x, CLEAN), x.split("/")[0], 1, f"{n}", None, (), None) for x, n in names]
    broken = (Photo(f"{x.split('/')[0]}/dirty/{n}.jpg", DIRTY) for x, n in names)
    return whole + [Scanned(photo, photo.name.split("/")[0], 0, "same", "broken", (), None) for photo in broken]


def test_findings_are_bounded_counted_and_read_back(tmp_path: Path) -> None:
    findings = Findings.of(check(copies(MAX_GROUPS + 5), PARAMS), "data_cars")
    assert len(findings.groups) == MAX_GROUPS
    assert (findings.totals["leak"], findings.totals["conflict"]) == (MAX_GROUPS + 5, 0)
    assert len(findings.unreadable) < findings.totals["unreadable"] == 2 * (MAX_GROUPS + 5)
    findings.write(tmp_path / "findings.json")
    assert Findings.read(tmp_path / "findings.json") == findings
