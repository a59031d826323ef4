"""The gate: what it stops, what it says, what it writes."""

import csv
import io
import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance, ImageFilter

from samples.draw import draw_photo
from stages.common.base.errors import StageError
from stages.common.base.photos import DIRTY_LABEL, list_photos, read_origins, train_photos, usable_photos
from stages.split_check.report import Findings
from tests.support.workspace import ROOT, Workspace

REPORT = "reports/split_check.json"


def test_good_photos_pass(workspace: Workspace) -> None:
    Workspace(workspace.folder).must("split_check")
    assert report()["photos"]["train"] == {"clean": 16, "dirty": 8} and report()["unreadable"] == 0


def test_the_data_version_follows_the_content(workspace: Workspace) -> None:
    workspace.must("split_check")
    before = report()["data_version"]
    photo = workspace.data / "val/clean/000.jpg"
    photo.write_bytes(photo.read_bytes() + b"\0")
    workspace.must("split_check")
    assert report()["data_version"] != before


@pytest.mark.parametrize(("content", "word"), [(b"", "empty"), (None, "damaged or cut short")])
def test_an_unreadable_file_stops_the_pipeline(workspace: Workspace, content: bytes | None, word: str) -> None:
    photo = workspace.data / "train/dirty/003.jpg"
    photo.write_bytes(photo.read_bytes()[:400] if content is None else content)
    workspace.refuses("split_check", "train/dirty/003.jpg", word, "replace or remove", "dvc add")
    assert not Path(REPORT).exists()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("val/clean/copy.jpg", ("train/clean/000.jpg", "val/clean/copy.jpg")),
        ("train/dirty/copy.jpg", ("both labels", "train/clean/000.jpg", "train/dirty/copy.jpg")),
        ("val/dirty/copy.jpg", ("both labels", "train/clean/000.jpg", "val/dirty/copy.jpg")),
    ],
)
def test_a_duplicate_stops_the_pipeline(workspace: Workspace, target: str, words: tuple[str, ...]) -> None:
    shutil.copy(workspace.data / "train/clean/000.jpg", workspace.data / target)
    workspace.refuses("split_check", *words)


@pytest.mark.parametrize("policy", [None, "warn"])
def test_a_duplicate_in_one_folder_is_left_out_or_passes_and_no_other(workspace: Workspace, policy: str | None) -> None:
    if policy:
        workspace.set(**{"split_check.on_duplicate": policy})
    shutil.copy(workspace.data / "train/clean/000.jpg", workspace.data / "train/clean/copy.jpg")
    done = workspace.run("split_check")
    assert done.returncode == 0
    assert "WARNING" in done.stdout and "copy.jpg" in done.stdout
    assert report()["duplicates"]["exact"]["within"] == 1
    excluded = Path("artifacts/exclusions.csv").read_text()
    assert ("copy.jpg" in excluded) == (policy is None)
    shutil.copy(workspace.data / "train/clean/001.jpg", workspace.data / "val/clean/copy.jpg")
    workspace.refuses("split_check", "several splits")


def test_an_empty_class_and_a_missing_split_are_named(workspace: Workspace) -> None:
    shutil.rmtree(workspace.data / "val/dirty")
    (workspace.data / "val/dirty").mkdir()
    workspace.refuses("split_check", "val/dirty holds no photos", "layout")
    shutil.rmtree(workspace.data / "val")
    workspace.refuses("split_check", "val/dirty", "No such file")


@pytest.mark.parametrize("defect", ["few", "unreadable", "one car"])
def test_too_few_cars_for_a_later_stage_stop_the_first(mended: Workspace, defect: str) -> None:
    if defect == "few":
        for photo in list(mended.data.glob("train/dirty/*.jpg"))[1:]:
            photo.unlink()
    for photo in list(mended.data.glob("val/*/*.jpg")):
        if defect == "one car":
            photo.rename(photo.with_name(f"car1_view{photo.stem}.jpg"))
        elif defect == "unreadable" and photo.parent.name == "clean":
            photo.write_bytes(b"")
    words = {"few": "train/dirty: 1 cars", "unreadable": "val/clean: 0 cars", "one car": "val: 1 cars"}
    mended.refuses("split_check", words[defect])
    assert not Path(REPORT).exists()


def test_a_folder_where_no_photo_can_be_read_is_named(mended: Workspace) -> None:
    for photo in mended.data.rglob("*.jpg"):
        photo.write_bytes(b"")
    mended.refuses("split_check", "train/clean: 0 cars", "test/dirty: 0 cars")


def test_a_name_that_no_list_can_hold_and_a_linked_folder_are_named(workspace: Workspace) -> None:
    source = workspace.data / "val/clean/000.jpg"
    odd = Path(os.fsdecode(os.fsencode(source.parent) + b"/T\xfcr.jpg"))
    shutil.copy(source, odd)
    workspace.refuses("split_check", r"b'val/clean/T\xfcr.jpg' is not UTF-8; rename the file")
    odd.unlink()
    icon = source.with_name("Icon\r")
    icon.touch()
    workspace.refuses("split_check", r"'val/clean/Icon\r' holds a carriage return; rename or remove the file")
    icon.unlink()
    (workspace.data / "val/clean/nas").symlink_to(workspace.data / "train/clean")
    workspace.refuses("split_check", "val/clean/nas is a link to a folder")


def test_a_folder_that_cannot_be_listed_is_named(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may read everything, so the refusal is made at the system call.
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("val/clean"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(StageError, match=r"cannot read the folder .*val/clean: Permission denied"):
        list_photos(workspace.data, "val")


def test_what_lies_beside_the_folders_of_the_layout_is_named(workspace: Workspace) -> None:
    (workspace.data / "val/unsure").mkdir()
    said = workspace.run("split_check").stdout
    assert said.count("no stage reads") == 1 and "no stage reads data_cars/val/unsure, whose name" in said


def test_hidden_files_are_no_photos_and_subfolders_are_searched(workspace: Workspace) -> None:
    (workspace.data / "train/clean/.DS_Store").write_bytes(b"x")
    (workspace.data / "train/clean/yard").mkdir()
    (workspace.data / "train/clean/000.jpg").rename(workspace.data / "train/clean/yard/000.jpg")
    workspace.must("split_check")
    assert report()["photos"]["train"]["clean"] == 16


def report() -> dict:
    return json.loads(Path(REPORT).read_text())


def listed(path: str) -> list[tuple[str, str]]:
    """The rows of a CSV of two columns below its header."""
    with Path(path).open(newline="") as file:
        return [(first, second) for first, second in list(csv.reader(file))[1:]]


def groups() -> dict[str, str]:
    """The group of each photo."""
    with Path("artifacts/groups.csv").open(newline="") as file:
        return {row["path"]: row["group"] for row in csv.DictReader(file)}


def car(index: int, size: tuple[int, int] | None = None, quality: int = 90) -> bytes:
    """A photo of a car, with more to be recognised by than the little pictures of the workspace."""
    buffer = io.BytesIO()
    photo = Image.open(io.BytesIO(draw_photo(5, index, "clean")))
    (photo.resize(size) if size else photo).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@pytest.fixture
def mended(workspace: Workspace) -> Workspace:
    """A workspace where every defect leads to photos being left out."""
    workspace.set(**{f"split_check.on_{defect}": "drop" for defect in ("unreadable", "leak", "conflict", "duplicate")})
    return workspace


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("train/clean/a.jpg", "test/clean/b.jpg", ("several splits", "near-duplicates")),
        ("train/clean/a.jpg", "train/dirty/b.jpg", ("both labels", "near-duplicates")),
    ],
)
def test_a_near_copy_stops_the_pipeline(workspace: Workspace, first: str, second: str, words: tuple[str, ...]) -> None:
    (workspace.data / first).write_bytes(car(0))
    (workspace.data / second).write_bytes(car(0, (200, 140), 60))
    said = workspace.refuses("split_check", *words, f"{first} = {second}" if first < second else f"{second} = {first}")
    assert "findings.json" in said
    kinds = {(group.kind, group.names) for group in Findings.read(Path("artifacts/findings.json")).groups}
    assert ("leak" if "test" in second else "conflict", tuple(sorted((first, second)))) in kinds


def test_near_copies_within_a_split_are_reported_and_joined(workspace: Workspace) -> None:
    (workspace.data / "val/clean/a.jpg").write_bytes(car(0))
    (workspace.data / "val/clean/b.jpg").write_bytes(car(0, (200, 140), 60))
    done = workspace.run("split_check")
    assert done.returncode == 0 and "groups of near-duplicates within a split: 1;" in done.stdout
    assert report()["duplicates"]["near"]["within"] == 1
    group = groups()
    assert group["val/clean/a.jpg"] == group["val/clean/b.jpg"] == "val/clean/a.jpg"
    assert group["val/clean/000.jpg"] == "val/clean/000.jpg"


def test_one_id_in_two_splits_is_a_leak_and_joins_groups(workspace: Workspace) -> None:
    for place in ("train/clean/car_7_front.jpg", "val/clean/car_7_back.jpg"):
        (workspace.data / place).write_bytes(car(len(place)))
    workspace.must("split_check")
    workspace.set(**{"data.car_regex": "car_([0-9]+)"})
    workspace.refuses("split_check", "val/clean/car_7_back.jpg", "train/clean/car_7_front.jpg", "one id")
    workspace.set(**{"split_check.on_leak": "drop"})
    workspace.must("split_check")
    assert report()["ids_in_several_splits"] == 1
    assert [path for path, _ in listed("artifacts/exclusions.csv")] == ["train/clean/car_7_front.jpg"]
    group = groups()
    assert group["train/clean/car_7_front.jpg"] == group["val/clean/car_7_back.jpg"]


def test_one_id_under_both_labels_is_no_conflict(workspace: Workspace) -> None:
    (workspace.data / "train/clean/car_7.jpg").write_bytes(car(1))
    (workspace.data / "train/dirty/car_7.jpg").write_bytes(car(2))
    workspace.set(**{"data.car_regex": "car_(?P<group>[0-9]+)"})
    workspace.must("split_check")
    assert report()["duplicates"]["exact"] == report()["duplicates"]["near"] == {"conflict": 0, "leak": 0, "within": 0}
    assert report()["cars_under_both_labels"] == 1
    assert listed("artifacts/exclusions.csv") == []
    (workspace.data / "train/dirty/car_7_copy.jpg").write_bytes(car(1))  # but one photo under both labels is
    workspace.refuses("split_check", "both labels", "train/clean/car_7.jpg", "train/dirty/car_7_copy.jpg")


@pytest.mark.parametrize("regex", ["car_[0-9]+", "car_([0-9]+"])
def test_a_regex_without_a_group_is_named(workspace: Workspace, regex: str) -> None:
    workspace.set(**{"data.car_regex": regex})
    workspace.refuses("split_check", "data.car_regex", regex)


@pytest.mark.parametrize(
    ("copies", "gone"),
    [
        (("train/clean", "test/clean"), {"train/clean/copy.jpg"}),
        (("val/clean", "test/clean"), {"val/clean/copy.jpg"}),
        (("train/clean", "val/clean"), {"train/clean/copy.jpg"}),
        (("train/clean", "val/clean", "test/clean"), {"train/clean/copy.jpg", "val/clean/copy.jpg"}),
        (("train/clean", "train/dirty"), {"train/clean/copy.jpg", "train/dirty/copy.jpg"}),
        (("train/clean", "test/dirty"), {"train/clean/copy.jpg"}),
        (("test/clean", "test/dirty"), set()),
    ],
)
def test_what_is_dropped_is_never_in_test(mended: Workspace, copies: tuple[str, ...], gone: set[str]) -> None:
    for folder in copies:
        (mended.data / folder / "copy.jpg").write_bytes(car(0))
    before = {path: path.read_bytes() for path in mended.data.rglob("*.jpg")}
    done = mended.run("split_check")
    assert done.returncode == 0, done.stderr
    assert {path for path, _ in listed("artifacts/exclusions.csv")} == gone
    assert before == {path: path.read_bytes() for path in mended.data.rglob("*.jpg")}
    kept = sum(folder.startswith("test") for folder in copies)
    if "dirty" in "".join(copies):
        assert report()["kept_in_test"]["conflict"] == kept
        assert not kept or f"{kept} stay, since they are in test" in done.stdout


def test_of_copies_in_a_folder_the_first_stays_and_in_test_all(mended: Workspace) -> None:
    for name in ("train/clean/a.jpg", "train/clean/b.jpg", "train/clean/c.jpg"):
        (mended.data / name).write_bytes(car(0))
    for name in ("test/clean/a.jpg", "test/clean/b.jpg"):
        (mended.data / name).write_bytes(car(1))
    mended.must("split_check")
    reasons = dict(listed("artifacts/exclusions.csv"))
    assert reasons == {f"train/clean/{x}.jpg": "duplicate: copy of train/clean/a.jpg" for x in "bc"}
    assert report()["kept_in_test"]["duplicate"] == 1


def test_an_unreadable_photo_is_dropped_wherever_it_is(mended: Workspace) -> None:
    mended.must("split_check")
    before = report()["data_version"]
    for name in ("train/dirty/003.jpg", "test/clean/001.jpg"):
        (mended.data / name).write_bytes(b"")
    mended.must("split_check")
    assert dict(listed("artifacts/exclusions.csv")) == {
        "test/clean/001.jpg": "unreadable: the file is empty",
        "train/dirty/003.jpg": "unreadable: the file is empty",
    }
    assert report()["duplicates"]["exact"] == {"conflict": 0, "leak": 0, "within": 0}
    assert report()["excluded"] == {"test: unreadable": 1, "train: unreadable": 1}
    assert report()["data_version"] != before
    assert len(usable_photos(mended.data, "test")) == len(list_photos(mended.data, "test")) - 1


@pytest.mark.slow
def test_the_stages_use_what_is_not_dropped(mended: Workspace) -> None:
    """Leaks gone from train and val; the predictions, which the threshold is chosen from, lack them too."""
    for place, index in (("train/clean", 0), ("val/clean", 0), ("val/dirty", 1), ("test/clean", 0), ("test/dirty", 1)):
        (mended.data / place / "copy.jpg").write_bytes(car(index))
    mended.must("split_check", "backbone", "train", "convert", "eval", "threshold")
    trained = json.loads(Path("reports/train.json").read_text())
    assert sum(trained["fit"].values()) + sum(trained["held_out"].values()) == 16 + 8
    for split, copies in (("val", 0), ("test", 2)):
        with Path(f"artifacts/predictions/{split}.csv").open(newline="") as file:
            rows = [row["path"] for row in csv.DictReader(file)]
        assert (len(rows), sum("copy" in row for row in rows)) == (24 + copies, copies)


def test_no_stage_but_this_one_lists_photos_that_may_be_left_out() -> None:
    users = [path for path in (ROOT / "stages").rglob("*.py") if "list_photos(" in path.read_text()]
    assert {path.relative_to(ROOT).as_posix() for path in users} <= {
        "stages/common/base/photos.py",
        "stages/split_check/__main__.py",
    }


@pytest.mark.parametrize("content", [None, "", "path\n", "path,reason\na,b,c\n"])
def test_without_the_exclusion_list_no_stage_goes_on(workspace: Workspace, content: str | None) -> None:
    Path("artifacts").mkdir()
    if content is not None:
        Path("artifacts/exclusions.csv").write_text(content)
    if content == "path\n":
        assert usable_photos(workspace.data, "val") == list_photos(workspace.data, "val")
        return
    with pytest.raises(StageError, match=r"artifacts/exclusions\.csv.*dvc repro"):
        usable_photos(workspace.data, "val")


def test_a_class_that_is_left_out_whole_is_named(workspace: Workspace) -> None:
    Path("artifacts").mkdir()
    gone = [photo.name for photo in list_photos(workspace.data, "val") if photo.label == DIRTY_LABEL]
    Path("artifacts/exclusions.csv").write_text("path,reason\n" + "".join(f"{name},x\n" for name in gone))
    with pytest.raises(StageError, match="every photo of data_cars/val/dirty is left out"):
        usable_photos(Path("data_cars"), "val")


def test_strange_files_are_named_and_used(workspace: Workspace) -> None:
    folder = workspace.data / "train/clean"
    damaged = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"  # says it holds five entries and ends in the first
    Image.open(io.BytesIO(car(0))).save(folder / "metadata.jpg", exif=damaged)
    (folder / "wrong.png").write_bytes(car(1))
    Image.open(io.BytesIO(car(3))).resize((400, 100)).save(folder / "wide.jpg")
    done = workspace.run("split_check")
    assert done.returncode == 0, done.stderr
    odd = {(note.name, note.text.split(":")[0]) for note in Findings.read(Path("artifacts/findings.json")).odd}
    new = {
        ("train/clean/metadata.jpg", "decode warning"),
        ("train/clean/wrong.png", "wrong type for its name"),
        ("train/clean/wide.jpg", "extreme aspect"),
    }
    assert odd == new
    assert report()["odd"]["wrong type for its name"] == 1
    assert "1 decode warning" in done.stdout


def test_poor_photos_are_counted_and_the_worst_listed(workspace: Workspace) -> None:
    photo = Image.open(io.BytesIO(car(0)))
    folder = workspace.data / "val/clean"
    ImageEnhance.Brightness(photo).enhance(0.1).save(folder / "night.jpg")
    ImageEnhance.Contrast(Image.open(io.BytesIO(car(1)))).enhance(0.05).save(folder / "fog.jpg")
    Image.open(io.BytesIO(car(2))).filter(ImageFilter.GaussianBlur(6)).save(folder / "shaken.jpg")
    Image.open(io.BytesIO(car(3))).resize((60, 30)).save(folder / "stamp.jpg")
    workspace.must("split_check")
    poor = {(one.kind, one.name) for one in Findings.read(Path("artifacts/findings.json")).poor}
    for kind, name in (("dark", "night"), ("washed_out", "fog"), ("blurred", "shaken"), ("small", "stamp")):
        assert (kind, f"val/clean/{name}.jpg") in poor
        assert report()["poor_quality"][kind] >= 1


def test_a_shortcut_and_an_uneven_source_are_warned_of_by_name(workspace: Workspace) -> None:
    for path in list(workspace.data.glob("*/clean/*.jpg")):
        path.rename(path.with_name(f"yard{'A' if 'train' in path.parts else 'B'}_{path.name}"))
    for path in list(workspace.data.glob("*/dirty/*.jpg")):  # taken with another camera
        with Image.open(path) as photo:
            photo.load()
        photo.resize((96, 96)).save(path.with_name(f"yardB_{path.name}"), quality=60)
        path.unlink()
    workspace.set(**{"split_check.source_regex": "(yard[A-Z])"})
    done = workspace.run("split_check")
    assert done.returncode == 0, done.stderr
    for feature in ("resolution", "aspect", "JPEG quality", "all together"):
        assert report()["shortcut_auc"][feature] > 0.9
        assert f"{feature} tells clean from dirty" in done.stdout
    assert report()["shortcut_auc"]["EXIF"] == 0.5 and "EXIF tells" not in done.stdout
    assert report()["drift"]["source"]["photos"]["train"] == {"yardA": 16, "yardB": 8}
    assert "the distribution of source differs between the splits" in done.stdout
    assert {origin.source for origin in train_photos().values()} == {"yardA", "yardB"}
    assert {origin.source for origin in read_origins([p for p in groups() if p.startswith("val/")])} == {"yardB"}


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "data_cars").is_dir(), reason="no data_cars/: fetch it with `dvc pull`")
def test_the_sample_passes_clean(workspace: Workspace) -> None:
    shutil.rmtree(workspace.data)
    workspace.data.symlink_to(ROOT / "data_cars")
    done = workspace.run("split_check")
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout
    assert listed("artifacts/exclusions.csv") == []
