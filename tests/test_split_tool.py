"""make split: whole groups, the shares asked for, nothing copied unless asked and then all or nothing."""

import csv
import io
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.common.base.errors import StageError
from stages.common.base.photos import SPLITS
from tests.support.workspace import Workspace, jpeg
from tools.split import copying
from tools.split.__main__ import main
from tools.split.shares import assign

PLAN = Path("artifacts/split_plan.csv")


@pytest.fixture
def photos(workspace: Workspace) -> Path:
    """photos/{clean,dirty}: 20 and 12 photos, and copies of the first clean one: mirrored, shrunk, byte by byte."""
    rng, source = np.random.default_rng(1), workspace.folder / "photos"
    for label, count in (("clean", 20), ("dirty", 12)):
        for number in range(count):
            path = source / label / f"car{number // 2}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(rng))
    shutil.copy(source / "clean/car0/0.jpg", source / "clean/copy.jpg")
    first = Image.open(source / "clean/car0/0.jpg")
    first.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(source / "clean/mirrored.jpg", quality=80)
    first.resize((150, 100)).save(source / "clean/small.png")
    return source


def picture(rng: np.random.Generator) -> bytes:
    """A picture that looks like no other, in large and in small."""
    small = Image.fromarray(rng.integers(0, 255, (8, 12, 3), np.uint8))
    buffer = io.BytesIO()
    small.resize((240, 160), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def refuses(*arguments: str, words: str) -> None:
    with pytest.raises(StageError, match=words):
        main(list(arguments))


def plan() -> dict[str, str]:
    with PLAN.open(newline="") as file:
        return {row["path"]: row["split"] for row in csv.DictReader(file)}


def test_it_plans_without_copying_and_keeps_copies_and_cars_together(
    photos: Path, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.set(**{"data.car_regex": r"(clean/car\d+|dirty/car\d+)/"})
    main(["photos", "--to", "new"])
    said = capsys.readouterr().out
    assert "Nothing was copied" in said and not Path("new").exists()
    assert re.search(r"val has \d+ dirty cars: .*; 5%: 59 \(too many for 6 in all\)", said)
    split_of = plan()
    assert len(split_of) == 35 and set(split_of.values()) == set(SPLITS)
    together = ("copy.jpg", "mirrored.jpg", "small.png", "car0/0.jpg", "car0/1.jpg")
    assert len({split_of[f"clean/{name}"] for name in together}) == 1
    for name in split_of:
        if "/car" in name:
            number = int(Path(name).stem)
            assert split_of[name] == split_of[f"{Path(name).parent}/{number ^ 1}.jpg"]


def test_a_pattern_that_fits_no_path_here_is_named(photos: Path, workspace: Workspace) -> None:
    workspace.set(**{"data.car_regex": r"^[^/]+/[^/]+/(car\d+)/\d"})  # for paths with a split
    refuses(str(photos), words=r"data\.car_regex.* matches no path; here they begin with the class: clean/car0")


def test_a_pattern_that_fits_no_name_changes_nothing_and_is_told(
    photos: Path, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the default does, which is for names like those of the sample."""
    plans = []
    for regex in (None, r"\bcar([0-9]+)_view[0-9]"):
        workspace.set(**{"data.car_regex": regex})
        main(["photos"])
        plans.append(PLAN.read_bytes())
    assert plans[0] == plans[1]
    assert "data.car_regex tells the car of 0 of 35 photos" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_plan(photos: Path) -> None:
    main(["photos"])
    first = PLAN.read_bytes()
    main(["photos"])
    assert PLAN.read_bytes() == first
    main(["photos", "--seed", "1"])
    assert PLAN.read_bytes() != first


def test_what_it_copies_passes_split_check(photos: Path, workspace: Workspace) -> None:
    main(["photos", "--to", "new", "--copy", "--shares", "50/25/25"])
    for name, split in plan().items():
        assert (Path("new") / split / name).read_bytes() == (photos / name).read_bytes()
    assert sum(path.is_file() for path in Path("new").rglob("*")) == 35
    assert [path.name for path in Path().iterdir() if path.name.startswith(".new")] == []
    workspace.set(**{"data.root": "new", "split_check.on_duplicate": "warn"})
    workspace.must("split_check")


def test_wrong_input_is_named(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refuses("nowhere", words="nowhere is no folder")
    refuses("data_cars", words="is split already")
    for shares in ("70/30", "70/x/0", "70/0/30", "70/-1/30", "70/nan/30", "inf/1/1", ""):
        with pytest.raises(SystemExit):
            main(["photos", "--shares", shares])
        assert "is not three positive numbers" in capsys.readouterr().err
    refuses("photos", "--copy", words="data_cars exists and is not an empty folder")
    refuses("photos", "--copy", "--to", "photos/new", words="lie in each other")
    refuses("photos", "--shares", "1000/1/1", words="val gets no clean photo")
    shutil.rmtree(photos / "dirty")
    refuses("photos", words="photos/dirty is missing")
    (photos / "dirty").mkdir()
    refuses("photos", words="photos/dirty holds no photos")


def test_unreadable_files_are_refused_by_name_or_left_out(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "clean/broken.jpg").write_bytes(b"\xff\xd8\xffbroken")
    refuses("photos", words="clean/broken.jpg: ")
    main(["photos", "--skip-unreadable"])
    assert "clean/broken.jpg" in capsys.readouterr().out
    assert "clean/broken.jpg" not in plan()


def test_a_photo_under_both_labels_is_told_and_stays_together(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(photos / "clean/car3/6.jpg", photos / "dirty/same.jpg")
    main(["photos"])
    said = capsys.readouterr().out
    assert "1 photos stand under both labels" in said and "clean/car3/6.jpg = dirty/same.jpg" in said
    assert plan()["dirty/same.jpg"] == plan()["clean/car3/6.jpg"]


def test_of_a_long_list_the_rest_is_counted(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.split_check.policy.MAX_LINES", 2)
    for car in 3, 4, 5:
        shutil.copy(photos / f"clean/car{car}/{2 * car}.jpg", photos / f"dirty/same{car}.jpg")
        (photos / f"clean/{car}.jpg").write_text("broken")
    main(["photos", "--skip-unreadable"])
    assert capsys.readouterr().out.count("\n  and 1 more\n") == 2


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "from/clean").mkdir(parents=True)
    (tmp_path / "from/clean/a.jpg").write_bytes(jpeg(np.random.default_rng(0), dirty=False))
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
        copying.copy(tmp_path / "from", tmp_path / "to", {"clean/a.jpg": "val", "clean/gone.jpg": "val"})
    assert [path.name for path in tmp_path.iterdir()] == ["from"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=60), st.integers(0, 3))
def test_every_photo_goes_somewhere_and_no_group_is_torn(sizes: list[tuple[int, bool]], seed: int) -> None:
    groups = [tuple(f"{index}-{n}" for n in range(size)) for index, (size, _) in enumerate(sizes)]
    labels = {name: str(sizes[index][1]) for index, group in enumerate(groups) for name in group}
    split_of = assign(groups, labels, (0.7, 0.15, 0.15), seed)
    assert set(split_of) == set(labels)
    assert all(len({split_of[name] for name in group}) == 1 for group in groups)


def test_the_shares_are_met_as_closely_as_the_groups_allow() -> None:
    """71,000 photos, 3 % dirty, mostly alone, some in groups of up to 40: each class within half a percent."""
    rng = np.random.default_rng(0)
    sizes = np.concatenate([np.ones(50_000, int), rng.integers(2, 41, 1000)])
    groups = [tuple(f"{index}-{n}" for n in range(size)) for index, size in enumerate(sizes.tolist())]
    labels = {name: "dirty" if rng.random() < 0.03 else "clean" for group in groups for name in group}
    split_of = assign(groups, labels, (0.7, 0.15, 0.15), 0)
    count = Counter((split, labels[name]) for name, split in split_of.items())
    for label in ("clean", "dirty"):
        total = sum(count[split, label] for split in SPLITS)
        for split, share in zip(SPLITS, (0.7, 0.15, 0.15), strict=True):
            assert count[split, label] / total == pytest.approx(share, abs=0.005)


def test_every_split_gets_cars_of_every_size() -> None:
    """One to 40 photos a car: large cars are as common in val and test as in train, and none is bound for train."""
    sizes = np.random.default_rng(0).integers(1, 41, 2000).tolist()
    groups = [tuple(f"{index}-{n}" for n in range(size)) for index, size in enumerate(sizes)]
    labels = {name: "dirty" if group[0].endswith("7-0") else "clean" for group in groups for name in group}
    split_of = assign(groups, labels, (0.7, 0.15, 0.15), 0)
    for label, wrong in (("clean", 0.02), ("dirty", 0.08)):
        of = {split: [len(g) for g in groups if split_of[g[0]] == split and labels[g[0]] == label] for split in SPLITS}
        for split, share in zip(SPLITS, (0.7, 0.15, 0.15), strict=True):
            assert sum(of[split]) / sum(map(sum, of.values())) == pytest.approx(share, abs=0.005)
            large = [size for size in of[split] if size > 20]
            assert len(large) / len(of[split]) == pytest.approx(0.5, abs=wrong + 0.04)
    largest = max(groups, key=len)
    assert {assign(groups, labels, (0.7, 0.15, 0.15), seed)[largest[0]] for seed in range(20)} == set(SPLITS)


def test_a_few_cars_reach_every_split() -> None:
    groups = [(f"{index}-0", f"{index}-1") for index in range(6)]
    labels = {name: "dirty" for group in groups for name in group}
    for seed in range(200):
        assert set(assign(groups, labels, (0.7, 0.15, 0.15), seed).values()) == set(SPLITS)
