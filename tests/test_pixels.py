"""Photos decoded once: the same pixels to the bit from everywhere, kept within bounds, whoever dies."""

import json
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from stages.common.base.errors import StageError
from stages.common.base.params import Data
from stages.common.base.photos import Photo, list_photos
from stages.common.pixels import cache
from stages.common.pixels import photo_set as module
from stages.common.pixels.cache import PixelCache
from stages.common.pixels.digests import DigestCache
from stages.common.pixels.photo_set import PhotoSet, read_pixels
from stages.common.pixels.scratch import VARIABLE, locked, scratch
from tests.support.repository import do, environment
from tests.support.workspace import Workspace, full_disk

ROOT = Path("data_cars")
SIZE = 32
ROW = 3 * SIZE**2


def photos() -> list[Photo]:
    return list_photos(ROOT, "train")


def open_set(cache: str = "disk", cache_gb: float = 1.0, size: int = SIZE) -> PhotoSet:
    return PhotoSet(Data("data_cars", cache, cache_gb, None), photos(), size)  # type: ignore[arg-type]


def whole(photo_set: PhotoSet) -> np.ndarray:
    return photo_set.pixels(range(len(photo_set)))


def decoded(size: int = SIZE) -> np.ndarray:
    return np.stack([read_pixels(ROOT, photo, size) for photo in photos()])


@pytest.fixture
def no_decoding(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is in the pack, and decoding anything again fails."""
    open_set()

    def fail(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(module, "decode", fail)
    monkeypatch.setattr(module, "read_pixels", fail)


@pytest.mark.parametrize("cache", ["disk", "ram", "none"])
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_kept_pixels_are_the_decoders_to_the_bit(
    workspace: Workspace, cache: str, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    expected = decoded()
    for _ in range(2):  # built, then found
        photo_set = open_set(cache, cache_gb=share * len(expected) * ROW / 1e9)
        assert (whole(photo_set) == expected).all()
        order = [5, 0, 17, 5]
        batch, labels = photo_set.__getitems__(order)
        assert (batch == expected[order]).all() and batch.dtype == np.uint8
        assert labels.tolist() == [photos()[index].label for index in order]
        assert (np.concatenate(list(photo_set.batches(7))) == expected).all()
    assert ("do not fit" in caplog.text) == (share < 1 and cache != "none")


def test_a_second_run_decodes_nothing(no_decoding: None) -> None:
    assert whole(open_set()).any()


def test_a_renamed_or_touched_photo_is_the_same_photo(no_decoding: None) -> None:
    first = ROOT / photos()[0].name
    first.rename(first.with_name("another.jpg"))
    os.utime(ROOT / photos()[3].name)
    shutil.copytree(ROOT, "copy")
    shutil.rmtree(ROOT)
    Path("copy").rename(ROOT)
    assert whole(open_set()).any()


def test_a_changed_photo_is_decoded_anew(workspace: Workspace) -> None:
    open_set()
    changed, other = (ROOT / photos()[index].name for index in (2, 9))
    stat = changed.stat()
    content = other.read_bytes()
    changed.write_bytes(content)
    os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # what copying tools do
    assert (whole(open_set()) == decoded()).all()


def test_every_size_has_its_own_pack(workspace: Workspace) -> None:
    open_set()
    assert (whole(open_set(size=48)) == decoded(48)).all()
    assert (whole(open_set()) == decoded()).all()


def test_an_unreadable_photo_is_named_and_the_others_are_kept(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    broken = ROOT / photos()[10].name
    good = broken.read_bytes()
    broken.write_bytes(good[:200])
    for where in ("disk", "ram"):
        with pytest.raises(StageError, match=str(broken)):
            open_set(where)
    assert len(PixelCache(scratch("pixels"), SIZE).rows) == 8
    broken.write_bytes(good)
    assert (whole(open_set()) == decoded()).all()


def test_what_a_dying_run_leaves_is_not_believed(workspace: Workspace) -> None:
    open_set()
    folder = next(scratch("pixels").glob("*-32"))
    names, pixels = folder / "rows.txt", folder / "pixels.bin"
    for torn_names, torn_pixels in (
        (names.read_text()[:-30], None),
        (None, ROW // 2),
        (names.read_text() + "ab", None),
    ):
        if torn_names is not None:
            names.write_text(torn_names)
        if torn_pixels is not None:
            os.truncate(pixels, pixels.stat().st_size - torn_pixels)
        assert (whole(open_set()) == decoded()).all()
    (scratch("pixels") / next(scratch("pixels").glob("digests-*")).name).write_text("{")
    assert (whole(open_set()) == decoded()).all()


def build_slowly(_: int) -> int:
    return int(whole(open_set()).astype(np.int64).sum())


def test_runs_that_build_at_once_agree(workspace: Workspace) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        sums = set(pool.map(build_slowly, range(4)))
    assert sums == {int(decoded().astype(np.int64).sum())}
    assert len(PixelCache(scratch("pixels"), SIZE).rows) == len(photos())


def test_the_bound_holds_over_all_sizes_and_the_longest_unused_goes(workspace: Workspace) -> None:
    room = 1.5 * len(photos()) * (ROW + 65) / 1e9
    first = open_set(cache_gb=room)
    open_set(cache_gb=room, size=31)
    assert [folder.name.rsplit("-")[-1] for folder in packs()] == ["31"]
    assert (whole(first) == decoded()).all(), "a run keeps what it has opened"


def test_a_full_pack_keeps_its_rows_whatever_else_is_asked_for(workspace: Workspace) -> None:
    room = len(photos()) * ROW / 1e9
    open_set(cache_gb=room)
    rows = PixelCache(scratch("pixels"), SIZE).rows
    other = PhotoSet(Data("data_cars", "disk", room, None), list_photos(ROOT, "val"), SIZE)
    expected = [read_pixels(ROOT, photo, SIZE) for photo in other.photos]
    assert (whole(other) == np.stack(expected)).all()
    assert PixelCache(scratch("pixels"), SIZE).rows == rows


def test_copies_of_photos_are_found_in_a_full_pack(no_decoding: None) -> None:
    shutil.copytree(ROOT, "copies")
    room = len(photos()) * ROW / 1e9
    assert whole(PhotoSet(Data("copies", "disk", room, None), photos(), SIZE)).any()


def test_another_decoder_has_its_own_pack_and_the_useless_one_goes_first(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 3.5 * len(photos()) * (ROW + 65) / 1e9
    open_set(cache_gb=room)
    monkeypatch.setattr(cache, "DECODER", "another")
    open_set(cache_gb=room, size=31)
    open_set(cache_gb=room)
    assert len(packs()) == 3
    os.utime(next(folder for folder in packs() if cache.DECODER not in folder.name), (2e9, 2e9))
    open_set(cache_gb=room, size=30)
    assert sorted(folder.name.split("-", 3)[-1] for folder in packs()) == ["another-30", "another-31", "another-32"]


def packs() -> list[Path]:
    return [file.parent for file in scratch("pixels").glob("*/pixels.bin")]


def test_a_full_disk_makes_it_slower_and_no_more(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    scratch("pixels")
    with full_disk():
        photo_set = open_set()
        assert (whole(photo_set) == decoded()).all()
    assert "cannot be kept" in caplog.text
    assert (whole(open_set()) == decoded()).all()


def test_copies_that_dvc_makes_for_experiments_share_the_checkouts_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "one"
    copy.mkdir(parents=True)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(copy)
    assert scratch("pixels") == tmp_path / ".scratch" / "pixels"
    monkeypatch.setenv(VARIABLE, str(tmp_path / "elsewhere"))
    assert scratch("pixels") == tmp_path / "elsewhere" / "pixels"
    monkeypatch.setenv(VARIABLE, "/proc/nothing")
    with pytest.raises(StageError, match=VARIABLE):
        scratch("pixels")


def experiment(name: str, monkeypatch: pytest.MonkeyPatch, *, links: bool) -> None:
    """Go into a copy of the workspace as `dvc exp run --temp` makes it, photos being links or copies."""
    here = Path.cwd()
    copy = here / ".dvc/tmp/exps" / name
    shutil.copytree(here / ROOT, copy / ROOT, copy_function=os.symlink if links else shutil.copyfile)
    monkeypatch.chdir(copy)


def test_an_experiment_reads_no_linked_photo_again(no_decoding: None, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment("one", monkeypatch, links=True)
    monkeypatch.setattr(DigestCache, "read", lambda *_: pytest.fail("read again"))
    assert whole(open_set()).any()


def test_experiments_on_copied_photos_leave_one_list_in_all(no_decoding: None, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = Path.cwd()
    for name in ("one", "two", "three"):
        monkeypatch.chdir(checkout)
        experiment(name, monkeypatch, links=False)
        assert whole(open_set()).any()
        with monkeypatch.context() as patch:  # stages after the first one read nothing
            patch.setattr(DigestCache, "read", lambda *_: pytest.fail("read again"))
            open_set()
    assert len(list(scratch("pixels").glob("digests-*"))) == 2
    assert not (Path.cwd() / ".scratch").exists()
    monkeypatch.chdir(checkout)
    monkeypatch.setattr(DigestCache, "read", lambda *_: pytest.fail("the checkout's own list was written over"))
    open_set()


COUNT = """
import sys
from pathlib import Path
from stages.common.base.params import Data
from stages.common.base.photos import list_photos
from stages.common.pixels.digests import DigestCache
from stages.common.pixels.photo_set import PhotoSet

reads, read = [], DigestCache.read
DigestCache.read = lambda self, name: reads.append(name) or read(self, name)
photos = list_photos(Path("data_cars"), "train")
PhotoSet(Data("data_cars", "disk", 1.0, None), photos, 32)
with Path(sys.argv[1]).open("a") as file:
    print(len(reads), file=file)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("cache_type", "reads"), [("symlink", 0), ("hardlink", 0), ("copy", 24)])
def test_what_an_experiment_of_dvc_reads_and_leaves(workspace: Workspace, cache_type: str, reads: int) -> None:
    folder, told = workspace.folder, workspace.folder / "told.txt"
    Path("count.py").write_text(COUNT)
    Path(".gitignore").write_text("/.scratch\n/site\n/told.txt\n")
    stage = {"cmd": f"{sys.executable} count.py {told}", "deps": ["data_cars", "count.py"]}
    Path("dvc.yaml").write_text(json.dumps({"stages": {"count": stage}}))
    with environment(folder):
        do(folder, "git init -q", "dvc init -q", f"dvc config cache.type {cache_type}", "dvc add -q data_cars")
        do(folder, "git add -A", "git commit -qm one", "dvc repro -q")
        before = set(Path(".scratch").rglob("*"))
        for number in (1, 2):
            with Path("count.py").open("a") as file:
                file.write(f"# {number}\n")
            do(folder, "dvc exp run -q --temp")
    assert told.read_text().split()[1:] == [str(reads)] * 2
    assert len(set(Path(".scratch").rglob("*")) - before) == (reads > 0)


def test_a_lock_is_for_one(tmp_path: Path) -> None:
    for path in (tmp_path / "lock", tmp_path):
        with locked(path) as had:
            assert had
            with locked(path, wait=False) as second:
                assert not second
            with locked(path, wait=False) as second:
                assert not second, "who had no lock lets go of none"
        with locked(path, wait=False) as third:
            assert third
