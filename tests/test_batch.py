"""Scoring a folder: order, bad files, resuming."""

import base64
import csv
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.exceptions import GenericError
from PIL import ExifTags, Image

from serving.batch import __main__ as batch
from serving.batch import lists, load, predict, predict_many, results, scorer, sheet, sources
from serving.inference.model import golden
from serving.inference.model.predictor import Predictor
from serving.stores import Photo
from tests.support.jobs import score
from tests.support.live import ROOT, environment, photo, wait_until
from tests.support.onnx_models import Pair, write_pair
from tests.support.workspace import full_disk


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    pair = write_pair(tmp_path / "artifacts", t_clean=0.75, t_low=0.5)
    monkeypatch.setenv("MODEL_PATH", str(pair.model))
    return pair


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """30 photos in three folders, each as bright as its name says."""
    folder = tmp_path / "photos"
    for number in range(30):
        path = folder / f"{number % 3}" / f"{number:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(number * 8, size=(64 + 40 * (number % 7), 48)))
    return folder


@pytest.fixture
def out(pair: Pair, tmp_path: Path) -> Path:
    return tmp_path / "out.csv"


def rows(out: Path) -> list[list[str]]:
    with out.open(newline="", errors="surrogateescape") as file:
        return list(csv.reader(file))


def assert_right(body: list[list[str]]) -> None:
    assert [row[0] for row in body] == sorted(row[0] for row in body) and len(body) == 30
    for path, label, p_clean, threshold, error in body:
        assert float(p_clean) == pytest.approx(int(Path(path).stem) * 8 / 255, abs=0.01)
        assert threshold == "0.750000" and not error
        assert label == ("clean" if float(p_clean) >= 0.75 else "uncertain" if float(p_clean) >= 0.5 else "dirty")


def test_every_photo_has_a_row_in_order(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("THRESHOLD", "0.9")  # no setting of ours
    assert score(folder, out) == 0
    header, *body = rows(out)
    assert header == ["path", "label", "p_clean", "threshold", "error"]
    assert_right(body)
    assert any("THRESHOLD" in line and "THRESH meant" in line for line in caplog.messages)


def test_bad_files_are_recorded_and_the_rest_finished(pair: Pair, folder: Path) -> None:
    (folder / "notes.txt").write_text("hello")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.png").write_bytes(photo(size=(900, 900), kind="PNG")[:200])
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / ".hidden").write_text("left out")
    (folder / 'odd "name",\nwith a line.jpg').write_bytes(photo(255))
    (folder / os.fsdecode(b"latin-\xe9.jpg")).write_bytes(photo(255))
    out = folder / "out.csv"
    assert score(folder, out) == 1
    with out.open(newline="", errors="surrogateescape") as file:
        body = {row["path"]: row for row in csv.DictReader(file)}
    assert len(body) == 30 + 6
    assert {path for path, row in body.items() if row["error"]} == {"notes.txt", "empty.jpg", "cut.png", "gone.jpg"}
    assert body['odd "name",\nwith a line.jpg']["label"] == "clean"
    assert score(folder, out) == 1  # the CSV itself is no photo
    assert len(rows(out)) == 1 + 36


@pytest.mark.parametrize("cut", [0, 200, 201, 230, 700])
def test_resume_gives_the_same_file_without_scoring_again(
    folder: Path, out: Path, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_BATCH", "4")
    score(folder, out)
    whole = out.read_bytes()
    kept = max(0, whole[:cut].count(b"\n") - 1)
    out.write_bytes(whole[:cut])
    scored = []
    original = Predictor.scores
    monkeypatch.setattr(Predictor, "scores", lambda self, x: scored.append(len(x)) or original(self, x))
    assert score(folder, out, "--resume") == 0
    assert out.read_bytes() == whole
    warm_up, checked = 1 + golden.COUNT, min(kept, results.CHECKED)
    assert sum(scored) - warm_up - checked == 30 - kept


def test_resume_between_two_rows_of_one_path(folder: Path, tmp_path: Path, out: Path) -> None:
    first, second = folder / "0" / "00.jpg", folder / "2" / "29.jpg"
    (tmp_path / "list.txt").write_text("\n".join(map(str, (first, second, first, second, first))))
    assert score(tmp_path / "list.txt", out) == 0
    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    for kept in range(len(lines) + 1):
        out.write_bytes(b"".join(lines[:kept]))
        assert score(tmp_path / "list.txt", out, "--resume") == 0
        assert out.read_bytes() == whole


def test_resume_after_something_else_is_refused(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another threshold, another T_low, another model, or a file that is none of ours; it stays as it is."""

    def refused(named: str) -> bool:
        before = out.read_bytes()
        assert score(folder, out, "--resume") == 2
        assert out.read_bytes() == before
        return named in capsys.readouterr().err

    score(folder, out)
    with monkeypatch.context() as context:
        context.setenv("THRESH", "0.6")
        assert refused("0.750000")
    with monkeypatch.context() as context:
        context.setenv("T_LOW", "0.1")
        assert refused("T_low")
    with monkeypatch.context() as context:
        original = Predictor.scores
        context.setattr(Predictor, "scores", lambda self, images: original(self, images) * 0.9)
        context.setattr(golden, "difference", lambda *_: None)
        assert refused("another model")
    whole = out.read_bytes()
    for foreign in (
        b"path,",
        b"name,price\nx,1\n",
        whole.replace(b",0.", b",x.", 1),
        b"\0" * 100,
        b'"' + b"x" * 200_000,
    ):
        out.write_bytes(foreign)
        assert refused("out.csv")


def test_links_to_folders_and_pipes(pair: Pair, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / "nas").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(folder / "pipe")
    (tmp_path / "linked").symlink_to(folder)
    out = folder / "out.csv"
    for _ in range(2):  # its own CSV is no photo, however the folder is named
        assert score(tmp_path / "linked", out) == 1
        assert [row[0] for row in rows(out)[1:] if row[4]] == ["nas"]


def test_a_full_disk_is_named_and_resume_goes_on(folder: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with full_disk(300):
        assert score(folder, out) == 2
    assert f"cannot write {out}" in capsys.readouterr().err
    assert 0 < len(rows(out)) < 31
    assert score(folder, out, "--resume") == 0
    assert_right(rows(out)[1:])


def test_what_cannot_be_done_at_all(pair: Pair, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(tmp_path / "no", out) == 2
    pair.model.unlink()
    assert score(tmp_path, out) == 2 and str(pair.model) in capsys.readouterr().err


def test_a_folder_that_cannot_be_listed_has_a_row(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir  # root may list everything, so the refusal is made here

    def scandir(path: str) -> object:
        if Path(path).name == "1":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert score(folder, out) == 1
    _, *body = rows(out)
    assert [row[0] for row in body if row[4]] == ["1"] and len(body) == 21


def test_a_folder_is_listed_in_the_order_of_paths_while_it_is_walked(tmp_path: Path) -> None:
    names = ["a/0.jpg", "a/b/1.jpg", "a-b.jpg", "a.jpg", "a0.jpg", "b/2.jpg"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = sources.find([str(tmp_path)])
    first = next(found).path
    (tmp_path / "b" / "3.jpg").touch()
    assert [first, *(photo.path for photo in found)] == sorted([*names, "b/3.jpg"])


@pytest.mark.parametrize("on_gpu", [False, True])
def test_order_and_calls_at_once_when_batches_take_different_times(
    folder: Path, out: Path, on_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer, "usable_cores", lambda: 3)
    monkeypatch.setattr(Predictor, "on_gpu", on_gpu)
    monkeypatch.setenv("MAX_BATCH", "2")
    running, most, lock, meeting = 0, 0, threading.Lock(), threading.Event()
    original, at_once = Predictor.scores, 1 if on_gpu else 3

    def slow(self: Predictor, images: np.ndarray) -> np.ndarray:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        if threading.current_thread() is not threading.main_thread():  # in which the model is checked before
            if most == at_once:
                meeting.set()
            meeting.wait(10)
        time.sleep(0.02 * float(np.random.default_rng(int(images.sum())).random()))
        with lock:
            running -= 1
        return original(self, images)

    monkeypatch.setattr(Predictor, "scores", slow)
    assert score(folder, out) == 0
    assert_right(rows(out)[1:])
    assert most == at_once


def test_ctrl_c_leaves_whole_rows_and_resume_adds_the_rest(folder: Path, tmp_path: Path) -> None:
    slow, out = write_pair(tmp_path / "slow", work=15), tmp_path / "out.csv"
    command = [sys.executable, "-m", "serving.batch", str(folder), "--out", str(out)]
    env = environment(slow, MAX_BATCH="1")
    with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: out.exists() and out.read_bytes().count(b"\n") >= 3)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "--resume" in errors and "Traceback" not in errors
    left = rows(out)
    assert 3 <= len(left) < 31 and all(len(row) == 5 and row[1] for row in left) and out.read_bytes().endswith(b"\n")
    assert subprocess.run([*command, "--resume"], cwd=ROOT, env=env, check=False, timeout=60).returncode == 0
    assert rows(out)[: len(left)] == left and len(rows(out)) == 31


@pytest.fixture
def elsewhere(folder: Path, tmp_path: Path) -> Path:
    """The photos of `folder` as lists, a tar archive and through a glob's folder."""
    paths = sorted(str(path) for path in folder.rglob("*.jpg"))
    (tmp_path / "list.txt").write_text("\n".join(paths) + "\n\n")
    (tmp_path / "list.csv").write_text("name,path\n" + "".join(f'"a, b",{path}\n' for path in paths))
    pq.write_table(pa.table({"location": [f"file://{path}" for path in paths]}), tmp_path / "list.parquet")
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for path in paths:
            archive.add(path, Path(path).name)
            archive.addfile(tarfile.TarInfo(Path(path).with_suffix(".json").name))
    return tmp_path


def test_links_and_empty_members_of_an_archive_have_rows(pair: Pair, tmp_path: Path, out: Path) -> None:
    kinds = {
        "empty.jpg": tarfile.REGTYPE,
        "soft.jpg": tarfile.SYMTYPE,
        "hard.jpg": tarfile.LNKTYPE,
        "pipe": tarfile.FIFOTYPE,
    }
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in kinds.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    assert score(tmp_path / "a.tar", out) == 1
    assert [Path(row[0]).name for row in rows(out)[1:] if "empty" in row[4]] == ["empty.jpg", "soft.jpg", "hard.jpg"]


@pytest.mark.parametrize("source", ["list.txt", "list.csv", "list.parquet", "shard.tar", "photos/*/*.jpg", "photos"])
@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_every_source_gives_the_same_rows_in_every_format(
    pair: Pair, elsewhere: Path, source: str, ending: str
) -> None:
    out = elsewhere / f"out{ending}"
    assert score(str(elsewhere / source), out) == 0
    read = {".csv": pd.read_csv, ".jsonl": partial(pd.read_json, lines=True), ".parquet": pd.read_parquet}[ending]
    found = read(out)
    p_clean = {int(Path(path).stem): p for path, p in zip(found["path"], found["p_clean"], strict=True)}
    assert p_clean == {number: pytest.approx(number * 8 / 255, abs=0.01) for number in range(30)}
    assert set(found["label"]) == {"clean", "dirty", "uncertain"} and set(found["threshold"]) == {0.75}
    if ending != ".csv":
        assert set(found["model"]) == {load().deployment.version}


@pytest.mark.parametrize(
    "name, content, named",
    [
        ("list.csv", b"name,price\n", "--column"),
        ("list.csv", b"", "--column"),
        ("list.csv", b"path,path\na,b\n", "--column"),
        ("list.csv", b'path\n"' + b"x" * 200_000, "list.csv"),
        ("list.parquet", b"", "list.parquet is damaged"),
    ],
)
def test_a_list_without_photos_is_refused(
    pair: Pair, tmp_path: Path, out: Path, name: str, content: bytes, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    assert score(tmp_path / name, out) == 2
    assert named in capsys.readouterr().err and not out.exists()


def test_lists_as_other_programs_write_them(pair: Pair, folder: Path, tmp_path: Path, out: Path) -> None:
    """Byte-order marks, CRLF, capitals, quoted names with lines, very many columns."""
    odd = folder / 'a,b "c"\nd.jpg'
    odd.write_bytes(photo(255))
    quoted = '"' + str(odd).replace('"', '""') + '"'
    (tmp_path / "LIST.CSV").write_text(f"\ufeffpath,x\r\n{folder}/0/00.jpg,1\r\n{quoted},2\r\n", newline="")
    (tmp_path / "wide.csv").write_text("x," * 5000 + "url\n" + "1," * 5000 + f"{folder}/0/00.jpg\n")
    (tmp_path / "list.txt").write_text(f"\ufeff{folder}/0/00.jpg\r\n\r\n", newline="")
    for name, paths in {"LIST.CSV": [f"{folder}/0/00.jpg", str(odd)], "wide.csv": 1, "list.txt": 1}.items():
        assert score(tmp_path / name, out) == 0
        assert [row[0] for row in rows(out)[1:]] == ([f"{folder}/0/00.jpg"] if paths == 1 else paths)


def test_what_a_list_names_in_vain_has_a_row(pair: Pair, folder: Path, tmp_path: Path, out: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # that nobody writes to
    urls = [
        str(tmp_path / "pipe"),
        "s3://",
        "s3:///key",
        "s3://a b/c",
        "http://",
        "https://[::1",
        "file://",
        f"file://{folder}/2/29.jpg",
    ]
    (tmp_path / "list.txt").write_text("\n".join(urls))
    assert score(tmp_path / "list.txt", out) == 1
    assert [bool(row[4]) for row in rows(out)[1:]] == [True] * 7 + [False]


def test_outputs_are_no_photos(pair: Pair, folder: Path) -> None:
    """In a folder and where a pattern finds them, from the second run on."""
    options = ["--sheet", str(folder / "page.html"), "--car-regex", "(.)/"]
    for source in folder, folder / "**" / "*.*":
        for _ in range(2):
            assert score(source, folder / "out.csv", *options) == 0
            assert len(rows(folder / "out.csv")) == 31


def test_a_source_is_not_overwritten(pair: Pair, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = folder / "list.csv"
    listed.write_text("path\n0/00.jpg\n")
    assert score(listed, listed) == score(listed, folder / "out.csv", "--sheet", str(listed)) == 2
    assert str(listed) in capsys.readouterr().err and listed.read_text() == "path\n0/00.jpg\n"


@pytest.mark.parametrize("name", ["shard.tar.gz", "SHARD.TGZ", "shard.zip"])
def test_a_compressed_archive_says_what_to_do(pair: Pair, elsewhere: Path, name: str, out: Path) -> None:
    shard = (elsewhere / "shard.tar").rename(elsewhere / name)
    assert score(shard, out) == 1
    assert ["unpack" in row[4] for row in rows(out)[1:]] == [True]


def test_an_entry_that_is_empty_has_a_row(pair: Pair, folder: Path, tmp_path: Path, out: Path) -> None:
    photo = str(folder / "0/00.jpg")
    pq.write_table(pa.table({"path": [photo.encode(), None, b"", photo.encode()]}), tmp_path / "list.parquet")
    (tmp_path / "list.csv").write_text(f"name,path\na,{photo}\nb\n\nc,\nd,{photo}\n")
    for name in "list.parquet", "list.csv":
        assert score(tmp_path / name, out) == 1
        assert [row[4].partition(":")[0] for row in rows(out)[1:]] == ["", "missing", "missing", ""]


@pytest.mark.parametrize("damage", [slice(0, 700), slice(1000, None), slice(0, 0)])
def test_a_broken_archive_has_a_row(pair: Pair, elsewhere: Path, out: Path, damage: slice) -> None:
    shard = elsewhere / "shard.tar"
    shard.write_bytes(shard.read_bytes()[damage])
    assert score(shard, out) == 1
    assert any(row[4] for row in rows(out)[1:])


def test_an_archive_that_ends_early_has_a_row_beside_its_photos(pair: Pair, elsewhere: Path, out: Path) -> None:
    """Cut between two members, within a header, or with a header that is none: tarfile takes each for the end."""
    shard = elsewhere / "shard.tar"
    whole = shard.read_bytes()
    with tarfile.open(shard) as archive:
        middle = archive.getmember("15.jpg").offset
    for content in whole[:middle], whole[: middle + 100], whole[:middle] + b"?" * 512 + whole[middle + 512 :]:
        shard.write_bytes(content)
        assert score(shard, out) == 1
        *scored, last = rows(out)[1:]
        assert len(scored) == 5 and not any(row[4] for row in scored)
        assert last[0] == str(shard) and "cut short" in last[4]


@pytest.mark.parametrize("size", [-1024, -512, 2**40, 2**62])
@pytest.mark.parametrize(
    "kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE], ids=repr
)
def test_sizes_that_no_member_has(pair: Pair, elsewhere: Path, out: Path, size: int, kind: bytes) -> None:
    hostile = tarfile.TarInfo("b.jpg")
    hostile.size, hostile.type = size, kind
    shard = elsewhere / "shard.tar"
    whole = shard.read_bytes()
    with tarfile.open(shard) as archive:
        second = archive.getmembers()[1].offset
    shard.write_bytes(whole[:second] + hostile.tobuf(tarfile.GNU_FORMAT) + whole[second:])
    assert score(shard, out) == 1
    assert rows(out)[1][0].endswith("00.jpg") and not rows(out)[1][4]
    assert rows(out)[-1][0] == str(shard) and "cut short" in rows(out)[-1][4]


def test_an_archive_whose_store_fails_is_not_taken_for_a_broken_one(
    pair: Pair, elsewhere: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 4096:
                raise GenericError("503 SlowDown")
            return super().read(size)

    shard = elsewhere / "shard.tar"
    monkeypatch.setattr(lists, "open_file", lambda name: Failing(Path(name).read_bytes()))
    assert score(shard, out) == 2
    assert f"{shard}: 503 SlowDown" in capsys.readouterr().err


def test_a_file_with_holes_in_an_archive_has_a_row(pair: Pair, tmp_path: Path, out: Path) -> None:
    """GNU tar stores the other bytes alone: read as they lie there they are another photo's."""
    with (tmp_path / "a.jpg").open("wb") as file:
        file.seek(10 * 2**20)
        file.write(photo(255))
    subprocess.run(["tar", "-cSf", "a.tar", "a.jpg"], cwd=tmp_path, check=True)
    assert score(tmp_path / "a.tar", out) == 1 and "empty" in rows(out)[1][4]


def test_each_error_has_its_kind(pair: Pair, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_BYTES", "1000")
    large = tmp_path / "large.jpg"
    large.write_bytes(photo(size=(2000, 2000)))
    kinds = {
        str(folder / "none.jpg"): "missing", str(folder): "unreadable", "a\0b": "missing", str(large): "unreadable",
        "http://127.0.0.1/a.jpg": "refused", "http://localhost.invalid/": "unfetchable", str(folder / "0/00.jpg"): "",
    }  # fmt: skip
    model = load()
    found = {path: predict(model, path).error.partition(":")[0] for path in kinds}
    assert found == kinds
    gone = Photo("gone.jpg", str(folder / "gone.jpg"), size=10)  # it was listed
    assert model.score([gone])[0].error.startswith("vanished")
    assert predict(model, (folder / "2/29.jpg").read_bytes()).label == "clean"
    assert [row.label for row in predict_many(model, [folder / "0", folder / "1/28.jpg"])].count("clean") == 3


def test_a_sample_is_drawn_again_by_its_seed(pair: Pair, folder: Path, out: Path) -> None:
    drawn = []
    for seed in "0", "0", "1":
        assert score(folder, out, "--sample", "10", "--limit", "5", "--seed", seed) == 0
        drawn.append([row[0] for row in rows(out)[1:]])
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 5 and drawn[0] == sorted(drawn[0])


def test_one_photo_is_told_in_words(pair: Pair, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert batch.main([str(folder / "2/29.jpg")]) == 0
    assert "clean" in capsys.readouterr().out
    (folder / os.fsdecode(b"latin-\xe9.jpg")).write_bytes(photo(255))
    assert batch.main([str(folder)]) == 0 and len(capsys.readouterr().out.splitlines()) == 31


@pytest.mark.parametrize(
    "options",
    [
        ["--out", "x.jsonl", "--resume"], ["--limit", "0"], ["--limit", "9" * 20], ["--status"], ["--out", ""],
        ["--out", "https://x/y"], ["--out", "x.CSV"], ["--out", "x.csv", "--sheet", "x.csv"],
        ["--out", "x.csv", "--sheet", "none/page.html"],
    ],
)  # fmt: skip
def test_options_that_cannot_be_met_are_refused(pair: Pair, folder: Path, options: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        batch.main([str(folder), *options])


def test_the_sheet_shows_the_worst_first_and_needs_nothing_else(
    pair: Pair, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "<b>.jpg").write_text("no photo")
    monkeypatch.setattr(sheet, "SHOWN", 4)
    for out, code in (tmp_path / "out.csv", 1), (tmp_path / "job", 0):
        assert score(folder, out, "--sheet", str(tmp_path / "page.html")) == code
        page = (tmp_path / "page.html").read_text()
        shown = re.findall(r'figure class="(\w+)"', page)
        assert Counter(shown) == {"error": 1, "dirty": 4, "uncertain": 4, "clean": 4} and shown[:2] == [
            "error",
            "dirty",
        ]
        scores = [float(text) for text in re.findall(r'title="p_clean">([\d.]+)', page)]
        assert len(scores) == 12 and scores == sorted(scores) and page.count("data:image/jpeg") == 12
        assert "&lt;b&gt;" in page and "<b>.jpg" not in page and not re.search(r'(src|href)="(?!data:)', page)


def test_a_thumbnail_has_the_aspect_of_its_photo(pair: Pair, tmp_path: Path) -> None:
    exif, name = Image.Exif(), str(tmp_path / "turned.tif")
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (400, 200)).save(name, exif=exif)
    thumbnail = sheet._thumbnail(Photo(name, name), load(pair.model))
    assert thumbnail and Image.open(io.BytesIO(base64.b64decode(thumbnail))).size == (100, 200)
