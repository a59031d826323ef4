"""Near copies: the hash, the search for all pairs within a radius, and what counts as a copy."""

import io
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from samples.camera import take
from samples.draw import draw_photo, render
from stages.common.base.params import load
from stages.common.base.photos import CLEAN_LABEL, DIRTY_LABEL, Photo
from stages.split_check.check import check, find_links
from stages.split_check.near import search
from stages.split_check.near.hashing import BITS, SYMMETRIES, hashes, neighbour_counts, pairs_within, turn
from stages.split_check.near.search import candidates, near_links
from stages.split_check.params import Params
from stages.split_check.report import Findings
from stages.split_check.scan import THUMBNAIL_SIDE, ScannedPhoto, scan
from tests.support.edits import EDITS, save
from tests.support.wash_gate import GATE, shoot
from tests.support.workspace import ROOT

PARAMS = load(Params, ROOT / "params.yaml").split_check
RADIUS, SIMILARITY = PARAMS.hash_radius, PARAMS.similarity
CARS = 6


@cache
def cars() -> list[Image.Image]:
    """Photos of different cars."""
    return [Image.open(io.BytesIO(draw_photo(5, index, "clean"))).convert("RGB") for index in range(CARS)]


def near(folder: Path) -> dict[tuple[str, str], str]:
    """Which of the photos in a folder are linked, and how."""
    names = [Photo(path.name, CLEAN_LABEL) for path in sorted(folder.iterdir())]
    found = near_links(scan(folder, names), RADIUS, SIMILARITY).links
    return {(link.first, link.second): link.how for link in found}


def with_a_sticker(photo: Image.Image) -> Image.Image:
    """Half black and half white, so that it shows on any ground."""
    photo = photo.copy()
    width, height = photo.size
    for shade, left in ((0, 0.3), (255, 0.36)):
        box = round(left * width), round(0.3 * height), round((left + 0.06) * width), round(0.4 * height)
        photo.paste((shade, shade, shade), box)
    return photo


def test_edited_copies_are_found_and_no_other_pair(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number, photo in enumerate(cars()):
        photo.save(tmp_path / f"{number}.jpg", quality=90)
        for place, edit in enumerate(EDITS):
            save(edit, photo, tmp_path / f"{number}{'abcdefghi'[place]}.jpg", rng)
    found = near(tmp_path)
    missed = [edit for place, edit in enumerate(EDITS) for n in range(CARS)
              if (f"{n}.jpg", f"{n}{'abcdefghi'[place]}.jpg") not in found]  # fmt: skip
    assert len(missed) <= 0.05 * CARS * len(EDITS), missed
    assert all(first[0] == second[0] for first, second in found)


def test_the_same_shot_before_and_after_the_wash_is_no_copy_under_both_labels(tmp_path: Path) -> None:
    """Same place, same camera, same car: all that differs is the dirt that the model is to see."""
    for index in range(6):
        for severity in (0.0, 0.9):
            shot = render(5, index, severity)
            photo = take(np.random.default_rng([index, int(severity > 0)]), shot.image, shot.size)
            (tmp_path / f"{index}{'ab'[severity > 0]}.jpg").write_bytes(photo)
    photos = [Photo(path.name, CLEAN_LABEL if "a" in path.name else DIRTY_LABEL) for path in sorted(tmp_path.iterdir())]
    hows = [link.how for link in near_links(scan(tmp_path, photos), RADIUS, SIMILARITY).links]
    assert hows and set(hows) <= {"edited", "scene"}


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> list[ScannedPhoto]:
    """Cars behind the fixed camera of a wash gate, in two splits: much alike, and none of them a copy."""
    folder = tmp_path_factory.mktemp("gate")
    for split in ("train/clean", "test/clean"):
        (folder / split).mkdir(parents=True)
    for number, car in enumerate((4, 7, 9, 11, 19)):
        shoot(folder / ("train/clean", "test/clean")[number % 2], car, GATE)
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.jpg")))
    return scan(folder, [Photo(name, CLEAN_LABEL) for name in names])


def test_cars_behind_a_fixed_camera_are_told_and_neither_joined_nor_left_out(gate: list[ScannedPhoto]) -> None:
    checked = check(gate, PARAMS)
    assert not checked.rulings and all(name == group for name, group in checked.group_of.items())
    assert [len(group.names) >= 4 for group in checked.groups if group.kind == "scene"] == [True]
    assert "before one camera: 1;" in Findings.of(checked, "data_cars").warnings[0]
    assert not find_links(gate, PARAMS)  # what `make split` keeps together


def test_of_a_crowd_no_pair_is_formed_and_it_is_told(gate: list[ScannedPhoto], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MAX_NEIGHBOURS", 0)
    checked = check(gate, PARAMS)
    assert len(checked.hubs) > 2 and not any(set(group.names) & set(checked.hubs) for group in checked.groups)
    assert f"{len(checked.hubs)} photos, such as {checked.hubs[0]}" in Findings.of(checked, "x").warnings[0]


def test_a_car_of_another_colour_is_no_copy(tmp_path: Path) -> None:
    photo = cars()[0]
    grey = photo.convert("L")
    rust = Image.merge("RGB", [grey.point(lambda level, gain=gain: level * gain) for gain in (1.12, 0.92, 0.9)])
    photo.save(tmp_path / "0.jpg", quality=90)
    rust.save(tmp_path / "1.jpg", quality=90)
    assert near(tmp_path) == {("0.jpg", "1.jpg"): "scene"}


def test_a_copy_that_is_whole_is_told_from_an_edited_one(tmp_path: Path) -> None:
    whole, rng = ("JPEG 30 to 95", "mirrored", "turned by 90, 180 or 270 degrees"), np.random.default_rng(0)
    for number, photo in enumerate(cars()):
        photo.save(tmp_path / f"{number}.jpg", quality=90)
        with_a_sticker(photo).save(tmp_path / f"{number}edited.jpg", quality=90)
        for edit in whole:
            save(edit, photo, tmp_path / f"{number}{edit[0]}.jpg", rng)
    found = near(tmp_path)
    for number in range(CARS):
        assert found[f"{number}.jpg", f"{number}edited.jpg"] == "edited"
        assert all(found[tuple(sorted((f"{number}.jpg", f"{number}{edit[0]}.jpg")))] == "near" for edit in whole)


def test_photos_without_structure_are_no_copies_of_each_other(tmp_path: Path) -> None:
    for level in (10, 12, 200):
        Image.new("RGB", (64, 48), (level, level, level)).save(tmp_path / f"{level}.jpg")
    assert not near(tmp_path)


@pytest.mark.parametrize("symmetry", range(len(SYMMETRIES)))
def test_the_hash_of_a_turned_photo_needs_no_turning(symmetry: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)
    assert (hashes(turn(images, symmetry))[0] == hashes(images)[symmetry]).all()


def test_candidates_name_the_symmetry_that_undoes_the_turn() -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)
    for symmetry in range(len(SYMMETRIES)):
        found = candidates(np.concatenate([image, turn(image, symmetry)]), 0)
        assert (found.first.tolist(), found.symmetry.tolist(), found.second.tolist()) == ([0], [symmetry], [1])


def with_bits_changed(value: int, bits: set[int]) -> int:
    for bit in bits:
        value ^= 1 << bit
    return value


CENTRES = st.sampled_from([0, 2**64 - 1, 0x0123456789ABCDEF])
near_each_other = st.builds(with_bits_changed, CENTRES, st.sets(st.integers(0, BITS - 1), max_size=20))
some = st.lists(near_each_other, min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(some, some, st.integers(0, 13))
def test_every_pair_within_the_radius_is_found_and_no_other(left: list[int], right: list[int], radius: int) -> None:
    queries, targets = np.array(left, np.uint64), np.array(right, np.uint64)
    distance = np.bitwise_count(queries[:, None] ^ targets)
    assert np.stack(pairs_within(queries, targets, radius), 1).tolist() == np.argwhere(distance <= radius).tolist()


def test_many_equal_hashes_are_all_paired() -> None:
    """A batch of comparisons is smaller than what one crowded chunk brings."""
    same = np.full(900, 42, np.uint64)
    assert len(pairs_within(same, same, 0)[0]) == 900 * 900


@settings(max_examples=30, deadline=None)
@given(some, st.integers(0, 13))
def test_partners_are_counted_as_if_all_were_compared(values: list[int], radius: int) -> None:
    codes = np.array(values, np.uint64)
    expected = (np.bitwise_count(codes[:, None] ^ codes) <= radius).sum(1) - 1
    assert neighbour_counts(codes, radius).tolist() == expected.tolist()
