"""Jobs: shards written once, whatever ends a run and however many run at once."""

import json
import os
import re
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from serving.batch import __main__ as batch
from serving.batch import cluster, job, manifest
from serving.batch.folder import Folder
from serving.batch.scorer import Reader
from serving.inference.verdict.errors import UserError
from serving.stores import Photo, ReadError
from tests.support.jobs import each_once, score
from tests.support.live import photo
from tests.support.onnx_models import write_pair
from tests.support.workspace import full_disk

PHOTOS = 30


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODEL_PATH", str(write_pair(tmp_path / "artifacts", t_clean=0.75, max_distance=2).model))
    monkeypatch.setattr(job, "PAUSE", 0.01)
    monkeypatch.setattr(job, "WAIT", 0.01)
    source = tmp_path / "photos"
    source.mkdir()
    for number in range(PHOTOS):
        (source / f"{number:02}.jpg").write_bytes(photo(number * 8))
    return source


@pytest.fixture
def out(source: Path, tmp_path: Path) -> Path:
    return tmp_path / "out"


class Killed(BaseException):
    """Ends a run wherever it is."""


@pytest.mark.parametrize("writes", range(11))
def test_a_killed_job_goes_on(source: Path, out: Path, writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It dies before its n-th file: the claim, four segments, the totals of the listing, four parts, the success."""
    real, left, lock = Folder.write, [writes], threading.Lock()

    def write(self: Folder, name: str, content: bytes) -> bool:
        with lock:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
        return real(self, name, content)

    with monkeypatch.context() as context:
        context.setattr(Folder, "write", write)
        context.setattr(threading, "excepthook", lambda _: None)
        with pytest.raises(Killed):
            score(source, out, "--shard-size", "8")
    assert not (out / job.SUCCESS).exists()
    assert score(source, out, "--shard-size", "8") == 0
    assert each_once(out, source)
    assert json.loads((out / job.SUCCESS).read_bytes())["photos"] == PHOTOS
    assert not list(out.rglob("*.tmp"))


def test_runs_at_once_share_the_work(source: Path, out: Path) -> None:
    """The same command twice, and a run for each of three shares."""
    options = [["--shard-of", "3", "--shard", str(index)] for index in (2, 1, 0)] * 2
    codes: list[int] = []
    runs = [
        threading.Thread(target=lambda o=o: codes.append(score(source, out, "--shard-size", "4", *o))) for o in options
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert codes == [0] * len(options)
    assert each_once(out, source)
    assert (out / job.SUCCESS).exists()


@pytest.mark.parametrize(
    "setting, options, named",
    [
        ({"THRESH": "0.6"}, [], "decision"),
        ({"REFUSE": "off"}, [], "limits"),
        ({}, ["--limit", "5"], "limit"),
        ({}, ["--shard-size", "9"], "shard_size"),
        ({"MODEL_PATH": "other/best.onnx"}, [], "model"),
    ],
)
def test_another_job_is_refused(
    source: Path, out: Path, tmp_path: Path, setting: dict[str, str], options: list[str], named: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert score(source, out) == 0
    write_pair(tmp_path / "other", work=1, t_clean=0.75)
    monkeypatch.chdir(tmp_path)
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    assert score(source, out, *options) == 2
    assert f"{named} was" in capsys.readouterr().err


def test_a_source_that_changed_while_it_was_listed_is_refused(
    source: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(source, out, "--shard-size", "8") == 0
    (out / manifest.TOTALS).unlink()  # as if the listing had not ended
    (source / "00.jpg").unlink()
    assert score(source, out, "--shard-size", "8") == 2
    assert "changed" in capsys.readouterr().err


def test_a_shard_that_fails_thrice_is_reported_and_the_rest_finished(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, asked = Reader.__call__, []

    def busy(self: Reader, photo: Photo) -> bytes:
        if photo.path == "09.jpg":
            asked.append(photo)
            raise ReadError("unavailable", "503 SlowDown")
        return real(self, photo)

    with monkeypatch.context() as context:
        context.setattr(Reader, "__call__", busy)
        assert score(source, out, "--shard-size", "8") == 1
    assert f"{PHOTOS - 8} photos" in capsys.readouterr().err
    assert len(asked) == job.TRIES and len(list(out.glob("part-*"))) == 3 and not (out / job.SUCCESS).exists()
    assert score(source, out, "--shard-size", "8") == 0
    assert each_once(out, source)


def test_a_full_disk_is_named_and_the_same_command_goes_on(
    source: Path, out: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for left, named in (100, job.JOB), (2000, "manifest"):
        with full_disk(left):
            assert score(source, out) in (1, 2)
        assert re.search(f"cannot write {out}/{named}.*: File too large", capsys.readouterr().err + caplog.text)
    assert score(source, out) == 0 and each_once(out, source)


def test_a_file_system_without_links_will_do(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    for shard_size, code in ("8", 0), ("8", 0), ("9", 2):
        assert score(source, out, "--shard-size", shard_size) == code
    assert each_once(out, source) and not list(out.rglob(".*"))


def test_a_folder_that_cannot_be_written_is_named(source: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out.write_text("a file")
    assert score(source, out) == 2 and str(out) in capsys.readouterr().err
    with pytest.raises(UserError):
        Folder(str(out)).files()


@pytest.mark.parametrize("name", ["_job.json", "_manifest.json", "manifest/000000.parquet", "part-000000.parquet"])
def test_a_damaged_file_of_a_job_is_named(
    source: Path, out: Path, name: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert score(source, out, "--shard-size", "8") == 0
    (out / name).write_bytes(b"")
    if name.startswith("manifest"):
        (out / "part-000000.parquet").unlink()
    assert score(source, out, "--shard-size", "8") in (1, 2)
    assert f"{out / name} is damaged" in capsys.readouterr().err + caplog.text


def test_a_source_that_does_not_exist_claims_no_folder(source: Path, out: Path) -> None:
    assert score(source.with_name("typo"), out) == 2 and not out.exists()
    empty = source.with_name("empty")
    empty.mkdir()
    assert score(empty, out) == 0 and json.loads((out / job.SUCCESS).read_bytes())["photos"] == 0


def test_errors_are_rows_and_the_job_itself_is_no_photo(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / "notes.txt").write_text("no photo")
    (source / "gone.jpg").symlink_to("nowhere")
    out = source / "out"
    for _ in range(2):
        assert score(source, out, "--shard-size", "8") == 0
    rows = [row for path in sorted(out.glob("part-*")) for row in pq.read_table(path).to_pylist()]
    assert {row["path"]: row["error"].partition(":")[0] for row in rows if row["error"]} == {
        "notes.txt": "unreadable",
        "gone.jpg": "missing",
    }
    assert len(rows) == PHOTOS + 2 and [row["id"] for row in rows] == list(range(PHOTOS + 2))
    capsys.readouterr()
    assert batch.main(["--status", "--out", str(out)]) == 0
    assert f"{PHOTOS + 2} of {PHOTOS + 2} photos" in capsys.readouterr().out


def test_a_job_has_a_folder_of_its_own(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(source.parent.rglob("*"))
    for out in source, source.parent, f"file://{source}/":
        assert score(source, out) == 2 and "choose another" in capsys.readouterr().err
    assert sorted(source.parent.rglob("*")) == before
    for name in "first", "second":  # and is no photo of another one
        assert score(source, source / name) == 0
        assert json.loads((source / name / job.SUCCESS).read_bytes())["photos"] == PHOTOS


@pytest.mark.parametrize("options", [[], ["--sample", "20", "--limit", "9"]])
def test_what_is_listed_is_not_listed_again(source: Path, out: Path, options: list[str]) -> None:
    assert score(source, out, "--shard-size", "8", *options) == 0
    (out / job.part(0)).unlink()
    for path in source.iterdir():
        path.rename(source.parent / path.name)
    source.rmdir()
    source.symlink_to(source.parent)  # the photos lie where they lay, among others
    assert score(source, out, "--shard-size", "8", *options) == 0
    assert json.loads((out / job.SUCCESS).read_bytes())["photos"] == (9 if options else PHOTOS)


def test_what_others_put_into_a_job_does_no_harm(source: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(source, out, "--shard-size", "8") == 0
    for name in ".DS_Store", "manifest/.DS_Store", "manifest/README", "part-x.parquet", "part-000000.parquet.bak":
        (out / name).touch()
    (out / manifest.TOTALS).unlink()
    (out / job.part(1)).unlink()
    assert score(source, out, "--shard-size", "8") == 0
    (out / job.part(9)).mkdir()
    assert batch.main(["--status", "--out", str(out)]) == 2 and job.part(9) in capsys.readouterr().err


def test_names_that_are_not_utf8_are_read_again(source: Path, out: Path) -> None:
    (source / "00.jpg").rename(source / os.fsdecode(b"latin-\xe9.jpg"))
    assert score(source, out) == 0
    assert "latin-\\xe9.jpg" in pq.read_table(out / job.part(0))["path"].to_pylist()


@pytest.mark.parametrize(
    "arguments", [["--status"], ["--status", "--out", "x.csv"], ["x", "--out", "x", "--shard", "1"]]
)
def test_options_that_cannot_be_met_are_refused(source: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        batch.main(arguments)


@pytest.mark.parametrize(
    ("target", "nodes", "expected"),
    [
        ("cpu", [{"CPU": 16.0}, {"CPU": 8.0, "GPU": 1.0}], (1, 0)),
        ("gpu", [{"CPU": 16.0}], (1, 0)),
        ("gpu", [{"CPU": 16.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 32.0, "GPU": 8.0}], (4, 1)),
        ("gpu", [{"CPU": 2.0, "GPU": 4.0}], (1, 1)),
    ],
)
def test_a_task_on_ray_fits_its_nodes(target: str, nodes: list[dict[str, float]], expected: tuple[int, int]) -> None:
    """Not the whole cluster, whose mean node there may not be."""
    alive = [{"Alive": True, "Resources": resources} for resources in nodes]
    assert cluster.place([*alive, {"Alive": False, "Resources": {"CPU": 1.0, "GPU": 1.0}}], target) == expected
