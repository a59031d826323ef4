"""What is kept of a photo, and how photos are joined to groups."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from samples.draw import draw_photo
from stages.common.base.errors import StageError
from stages.common.base.params import load
from stages.common.base.photos import CLEAN_LABEL, DIRTY_LABEL, Photo, list_photos
from stages.split_check.check import check
from stages.split_check.drift import LARGEST, find_drift
from stages.split_check.groups import Group, Link, components, group_table, groups, id_of
from stages.split_check.params import Params
from stages.split_check.report import MAX_GROUPS, MAX_MEMBERS, Findings
from stages.split_check.scan import MAX_BYTES, SUFFIXES, PhotoStats, ScannedPhoto, scan, scan_photo
from stages.split_check.shortcuts import MAX_SOURCES, _features
from tests.support.photos_hostile import encode
from tests.support.workspace import ROOT

PARAMS = load(Params, ROOT / "params.yaml").split_check


def photo() -> Image.Image:
    return Image.open(io.BytesIO(draw_photo(5, 0, "clean"))).convert("RGB")


def look(folder: Path, name: str = "photo.jpg") -> PhotoStats:
    found = scan_photo(folder, Photo(name, CLEAN_LABEL)).stats
    assert found is not None
    return found


@pytest.mark.parametrize("quality", [30, 50, 75, 90, 95])
def test_jpeg_quality_is_read_from_the_tables(tmp_path: Path, quality: int) -> None:
    photo().save(tmp_path / "photo.jpg", quality=quality)
    estimate = look(tmp_path).jpeg_quality
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


def test_a_nearly_square_photo_on_its_side_is_not_taken_for_an_upright_one(tmp_path: Path) -> None:
    """Decoded small, 1201 x 1200 becomes a square, by which nobody can see that it was turned."""
    exif = Image.Exif()
    exif[0x0112] = 8
    photo().resize((1201, 1200)).save(tmp_path / "photo.jpg", exif=exif)
    assert (look(tmp_path).width, look(tmp_path).height) == (1200, 1201)


@pytest.mark.parametrize(("kind", "suffix"), [(kind, suffix) for kind in SUFFIXES for suffix in sorted(SUFFIXES[kind])])
def test_every_kind_of_photo_goes_by_its_names(tmp_path: Path, kind: str, suffix: str) -> None:
    (tmp_path / f"photo{suffix}").write_bytes(
        encode(photo(), kind, **({"save_all": True, "append_images": [photo()]} if kind == "MPO" else {}))
    )
    found = scan_photo(tmp_path, Photo(f"photo{suffix}", CLEAN_LABEL))
    assert found.problem is None and not found.oddities


@pytest.mark.parametrize(
    "where", ["pathlib.Path.read_bytes", "stages.split_check.scan.open_photo", "PIL.Image.Image.convert"]
)
def test_too_little_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    photo().convert("CMYK").save(tmp_path / "photo.jpg")

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(where, full)
    with pytest.raises(StageError, match=r"photo\.jpg: too little memory"):
        scan_photo(tmp_path, Photo("photo.jpg", CLEAN_LABEL))


def test_a_file_too_large_for_a_photo_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "photo.jpg").open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # takes no room on the disk
    assert "too many for a photo" in str(scan_photo(tmp_path, Photo("photo.jpg", CLEAN_LABEL)).problem)


def test_colours_of_the_border_and_of_the_whole(tmp_path: Path) -> None:
    framed = Image.new("RGB", (200, 200), (200, 0, 0))
    framed.paste((0, 0, 200), (20, 20, 180, 180))
    framed.save(tmp_path / "photo.png")
    found = look(tmp_path, "photo.png")
    assert found.border_colour == pytest.approx((200, 0, 0))
    assert found.mean_colour == pytest.approx((0.36 * 200, 0, 0.64 * 200))
    assert found.jpeg_quality is None


def test_an_unsplit_folder_is_scanned_in_the_order_asked(tmp_path: Path) -> None:
    car = photo()
    for label in ("clean", "dirty"):
        (tmp_path / label).mkdir()
        for number in range(20):
            car.resize((64 + number, 64)).save(tmp_path / label / f"{number:02}.jpg")
    photos = list_photos(tmp_path, "")[::-1]
    found = scan(tmp_path, photos)
    assert [one.photo for one in found] == photos
    assert {one.split for one in found} == {""}
    assert [one.stats.width for one in found if one.stats] == [64 + int(one.name[-6:-4]) for one in photos]


def test_a_file_that_is_gone_is_a_problem(tmp_path: Path) -> None:
    assert scan_photo(tmp_path, Photo("gone.jpg", CLEAN_LABEL)).problem == "No such file or directory"


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), max_size=20))
def test_groups_are_what_can_be_reached(pairs: list[tuple[int, int]]) -> None:
    names = [f"{number:02}" for number in range(16)]
    links = [Link(names[a], names[b], "near") for a, b in pairs]
    reach = np.eye(16, dtype=bool)
    for _ in range(16):
        for a, b in pairs:
            reach[a] = reach[b] = reach[a] | reach[b]
    reach = (reach.astype(int) @ reach.T.astype(int)) > 0
    for a, group in group_table(names, links).items():
        assert group == min(b for b in names if reach[int(a), int(b)])
    assert sorted(name for members in components(names, links) for name in members) == names


def test_an_id_is_the_named_group_or_the_first() -> None:
    assert id_of("train/clean/car_7_a.jpg", "car_([0-9]+)_([a-z])") == "7"
    assert id_of("train/clean/car_7_a.jpg", "car_([0-9]+)_(?P<group>[a-z])") == "a"
    assert id_of("train/clean/van.jpg", "car_([0-9]+)") is None


def copies(pairs: int) -> list[ScannedPhoto]:
    """Photos of which each has a copy in another split, and as many broken files with one content."""
    names = [(f"{split}/clean/{number}.jpg", number) for number in range(pairs) for split in ("train", "test")]
    whole = [ScannedPhoto(Photo(x, CLEAN_LABEL), x.split("/")[0], 1, f"{n}", None, (), None) for x, n in names]
    broken = (Photo(f"{x.split('/')[0]}/dirty/{n}.jpg", DIRTY_LABEL) for x, n in names)
    return whole + [ScannedPhoto(photo, photo.name.split("/")[0], 0, "same", "broken", (), None) for photo in broken]


def test_findings_are_bounded_counted_and_read_back(tmp_path: Path) -> None:
    findings = Findings.of(check(copies(MAX_GROUPS + 5), PARAMS), "data_cars")
    assert len(findings.groups) == MAX_GROUPS
    assert (findings.totals["leak"], findings.totals["conflict"]) == (MAX_GROUPS + 5, 0)
    assert len(findings.unreadable) < findings.totals["unreadable"] == 2 * (MAX_GROUPS + 5)
    findings.write(tmp_path / "findings.json")
    assert Findings.read(tmp_path / "findings.json") == findings


def plain(name: str, content: str) -> ScannedPhoto:
    """A photo that is known by its bytes alone."""
    return ScannedPhoto(
        Photo(name, DIRTY_LABEL if "/dirty/" in name else CLEAN_LABEL), name.split("/")[0], 1, content, None, (), None
    )


def test_a_flood_of_conflicts_hides_no_leak() -> None:
    conflicts = [plain(f"train/{label}/{n}.jpg", f"{n}") for n in range(MAX_GROUPS + 5) for label in ("clean", "dirty")]
    leak = [plain(f"{split}/clean/leak.jpg", "leak") for split in ("train", "test")]
    shown = Findings.of(check(conflicts + leak, PARAMS), "x").groups
    assert [group.kind for group in shown] == ["conflict"] * MAX_GROUPS + ["leak"]


def test_a_group_of_thousands_is_cut_and_says_so_and_still_shows_both_splits() -> None:
    many = [plain(f"test/clean/{n}.jpg", "same") for n in range(5000)] + [plain("train/clean/x.jpg", "same")]
    checked = check(many, PARAMS)
    (group,) = Findings.of(checked, "x").groups
    assert (len(group.names), group.more) == (MAX_MEMBERS, 5001 - MAX_MEMBERS) and "train/clean/x.jpg" in group.names
    for ruling in checked.rulings:
        assert "and 4951 more" in str(ruling) or "and 4950 more" in str(ruling)
        assert len(str(ruling)) < 3000


def test_a_group_names_the_weakest_link_that_it_needed() -> None:
    names = ("test/clean/car_1.jpg", "train/clean/car_1.jpg")
    both = [plain(name, "same") for name in names]
    links = [Link(*names, "bytes"), Link(*names, "id")]
    assert groups(both, links) == [Group("leak", "bytes", names)]
    third = plain("val/clean/car_1.jpg", "other")
    links.append(Link(names[0], third.name, "id"))
    assert groups([*both, third], links) == [Group("leak", "bytes", names), Group("leak", "id", (*names, third.name))]


def test_of_thousands_of_sources_the_largest_are_counted_and_the_rest_together() -> None:
    photos = [plain(f"{split}/clean/s{n}_{m}.jpg", "") for split in ("train", "val") for n in range(900) for m in "ab"]
    photos += [plain(f"train/clean/s7_{n}.jpg", "") for n in range(50)]
    _, source = find_drift(photos, "s([0-9]+)_")
    assert len(source.counts["train"]) == LARGEST + 1 and source.counts["train"]["7"] == 52
    assert {split: sum(of.values()) for split, of in source.counts.items()} == {"train": 1850, "val": 1800}


def test_only_sources_that_a_tree_can_tell_apart_become_columns(tmp_path: Path) -> None:
    photo().save(tmp_path / "photo.jpg")
    one = scan_photo(tmp_path, Photo("photo.jpg", CLEAN_LABEL))
    photos = [replace(one, photo=Photo(f"s{n}_", CLEAN_LABEL)) for n in range(3000)]
    photos += [replace(one, photo=Photo(f"yard{n % 2}_", CLEAN_LABEL)) for n in range(200)]
    assert _features(photos, "([a-z0-9]+)_")["source"].shape == (3200, 2)
    assert _features(photos[:300] * 5, "([a-z0-9]+)_")["source"].shape[1] <= MAX_SOURCES
