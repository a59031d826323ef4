"""Corrections: checked in full before anything moves, undone by `dvc checkout`."""

import os
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from stages.common.base.errors import StageError
from tests.support.workspace import Workspace
from tools.relabel import main, relabel

CORRECTIONS = "path,action\ntrain/dirty/000.jpg,clean\ntest/clean/003.jpg,exclude\nval/clean/001.jpg,clean\n"
MOVED = {"data_cars/train/clean/000.jpg", "removed_photos/test/clean/003.jpg"}


@pytest.fixture
def root(workspace: Workspace) -> Path:
    """Photos whose names are their own in every split, as relabel needs them."""
    for path in workspace.data.rglob("dirty/*.jpg"):
        path.rename(path.with_name("d" + path.name))
    (workspace.data / "train/dirty/d000.jpg").rename(workspace.data / "train/dirty/000.jpg")
    (workspace.data / "train/clean/000.jpg").unlink()
    return workspace.data


def corrections(text: str = CORRECTIONS) -> Path:
    Path("corrections.csv").write_text(text)
    return Path("corrections.csv")


def tree(*tops: str) -> dict[str, bytes]:
    """Every photo and its content."""
    found = (path for top in tops or ("data_cars", "removed_photos") for path in Path(top).rglob("*"))
    return {str(path): path.read_bytes() for path in found if path.is_file()}


def test_the_plan_changes_nothing_and_says_what_would_be_done(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree()
    assert not relabel(corrections(), root, go=False)
    said = capsys.readouterr().out
    assert tree() == before
    assert "train/dirty/000.jpg -> data_cars/train/clean/000.jpg" in said and "1 test: clean to exclude" in said
    assert "val/clean/001.jpg" not in said  # it is clean already


def test_dvc_checkout_undoes_it_and_it_can_be_done_again(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Repo.init(no_scm=True) as repo:
        repo.add("data_cars")
        before = tree()
        for _ in range(2):  # the second time, removed_photos/ holds the photo already
            main(["--file", str(corrections()), "--apply"])
            assert "dvc checkout data_cars.dvc" in capsys.readouterr().out
            after = tree()
            assert after["data_cars/train/clean/000.jpg"] == before["data_cars/train/dirty/000.jpg"]
            assert after["removed_photos/test/clean/003.jpg"] == before["data_cars/test/clean/003.jpg"]
            assert len(after) == len(before)
            repo.checkout("data_cars.dvc")
            assert tree("data_cars") == before


def test_an_interrupted_run_is_completed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def crash(source: Path, target: Path) -> None:
        if source.name == "000.jpg":  # the second
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            relabel(corrections(), root, go=True)
    assert set(tree()) & MOVED == {"removed_photos/test/clean/003.jpg"}
    assert relabel(corrections(), root, go=True) and set(tree()) >= MOVED
    after = tree()
    assert not relabel(corrections(), root, go=True) and tree() == after


def test_every_problem_is_listed_and_nothing_is_done(root: Path) -> None:
    (root / "val/dirty/001.jpg").write_bytes(b"another")
    before = tree()
    wrong = {
        "train/clean/nowhere.jpg": "dirty", "val/clean/001.jpg": "dirty", "test/clean/001.jpg": "wash",
        "../secret": "exclude", "/etc/passwd": "exclude", "train/clean": "exclude",
        "train/clean/../clean/004.jpg": "dirty", "test/clean/002.jpg": "exclude",
    }  # fmt: skip
    rows = [*wrong.items(), ("test/clean/002.jpg", "dirty"), ("train/clean/005.jpg", "dirty")]
    text = "path,action\n" + "".join(f"{path},{action}\n" for path, action in rows)
    with pytest.raises(StageError, match=r"^8 problems") as error:
        relabel(corrections(text), root, go=True)
    assert all(path in str(error.value) for path in wrong) and "005.jpg" not in str(error.value)
    assert tree() == before


@pytest.mark.parametrize(
    "content",
    [
        b"path;action\nx;clean\n",
        b"photo,what\n",
        b"",
        b"path,action\n\xff\xfe,clean\n",
        b'path,action\n"train/clean/001.jpg,clean\n',
        b"path,action\ntrain/clean/001.jpg\n",
    ],
)
def test_a_csv_that_is_none_is_refused(root: Path, content: bytes) -> None:
    file = corrections()
    file.write_bytes(content)
    with pytest.raises(StageError, match=r"corrections\.csv|action ''"):
        relabel(file, root, go=True)


def test_a_spreadsheet_may_have_saved_it_and_subfolders_are_kept(root: Path) -> None:
    deep = root / "train/dirty/yard 7/cam,1"
    deep.mkdir(parents=True)
    (deep / 'ü "b".jpg').write_bytes(b"photo")
    file = corrections()
    rows = '\ufeffrank,path,action\r\n1,"train/dirty/yard 7/cam,1/ü ""b"".jpg",clean\r\n,,\r\n'
    file.write_bytes(rows.encode())
    assert relabel(file, root, go=True)
    assert (root / 'train/clean/yard 7/cam,1/ü "b".jpg').read_bytes() == b"photo"


def test_links_into_a_cache_are_moved_as_links(root: Path, tmp_path: Path) -> None:
    cached, photo = tmp_path / "cached", root / "train/dirty/000.jpg"
    photo.rename(cached)
    cached.chmod(0o444)
    photo.symlink_to(cached)
    relabel(corrections(), root, go=True)
    assert os.readlink(root / "train/clean/000.jpg") == str(cached)
    assert cached.stat().st_mode & 0o777 == 0o444


def test_ones_own_photos_do_not_keep_the_sample_remote(root: Path) -> None:
    """README: `rm data_cars.dvc` before `dvc add data_cars`, which would keep its `remote:`."""

    def remote() -> str | None:
        return yaml.safe_load(pointer.read_text())["outs"][0].get("remote")

    pointer = Path("data_cars.dvc")
    with Repo.init(no_scm=True) as repo:
        repo.add("data_cars")
        pointer.write_text(pointer.read_text() + "  remote: samples\n")
        (root / "train/clean/new.jpg").write_bytes(b"one's own")
        repo.add("data_cars")
        assert remote() == "samples"
        pointer.unlink()
        repo.add("data_cars")
        assert remote() is None
