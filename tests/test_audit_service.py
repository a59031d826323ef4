"""Photos drawn for people to judge: how many, what is kept of them, and that no disk harms a verdict."""

import errno
import io
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from serving import batch
from serving.app import create_app
from serving.audit import auditor as auditing
from serving.audit import bucket
from serving.audit.auditor import Auditor
from serving.audit.kept import Kept, KeptFolder, parse
from serving.settings import Settings, SettingsError
from serving.stores import ReadError
from serving.web import state
from tests.support.live import photo
from tests.support.onnx_models import Pair, write_pair

CLEAN, DIRTY = photo(255), photo(10)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pair"))


def make(pair: Pair, **environ: str) -> Flask:
    return create_app(Settings.from_env({"MODEL_PATH": str(pair.model), **environ}))


def send(app: Flask, *photos: bytes) -> list[dict[str, Any]]:
    parts = [(io.BytesIO(data), "private-name.jpg") for data in photos]
    answers = app.test_client().post("/predict/files", data={"file": parts})
    auditor = state.of(app).engine.auditor
    if auditor is not None:
        auditor.flush()
    return list(answers.json)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_off_by_default(pair: Pair) -> None:
    app = make(pair)
    assert "audit" not in send(app, CLEAN)[0]
    assert "are not kept" in app.test_client().get("/").text


def test_only_photos_called_clean_are_drawn_and_nothing_else_is_kept(pair: Pair, tmp_path: Path) -> None:
    app = make(pair, AUDIT_SHARE="1", AUDIT_DIR=str(tmp_path))
    answers = send(app, CLEAN, DIRTY, b"no photo", CLEAN)
    assert [answer.get("audit") for answer in answers] == [True, False, None, True]
    kept = files(tmp_path)
    assert [path.read_bytes() for path in kept] == [CLEAN, CLEAN]
    names = [str(path.relative_to(tmp_path)) for path in kept]
    facts = [parse(name) for name in names]
    assert sorted(KeptFolder(tmp_path).names()) == names == [fact.name for fact in facts if fact]
    assert facts[0] and (facts[0].p_clean, facts[0].share, facts[0].model) == (1.0, 1.0, answers[0]["model"])
    page = app.test_client().get("/").text
    assert "are not kept" not in page and 'id="kept" hidden' not in page and "90 days" in page


def test_another_threshold_is_another_promise(pair: Pair, tmp_path: Path) -> None:
    send(make(pair, AUDIT_SHARE="1", AUDIT_DIR=str(tmp_path)), CLEAN)
    answer = send(make(pair, AUDIT_SHARE="1", AUDIT_DIR=str(tmp_path), THRESH="0.3"), CLEAN)[0]
    models = [fact.model for fact in map(parse, KeptFolder(tmp_path).names()) if fact]
    assert models == [answer["model"], answer["model"] + "-T0.300000"]


def test_the_share_is_drawn_at_random(pair: Pair, tmp_path: Path) -> None:
    auditor = Auditor(0.25, KeptFolder(tmp_path), 90)
    marked = sum(auditor.mark(b"photo", 0.99, "m") for _ in range(2000))
    auditor.flush()
    assert marked == len(files(tmp_path)) and 400 < marked < 600  # 5 sigma


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_harms_no_verdict(
    code: int, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = make(pair, AUDIT_SHARE="1", AUDIT_DIR=str(tmp_path))

    def full(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    assert send(app, CLEAN)[0]["label"] == "clean"
    assert not files(tmp_path) and os.strerror(code) in caplog.text
    monkeypatch.undo()
    assert send(app, CLEAN)[0]["audit"] and len(files(tmp_path)) == 1  # the thread lives


def test_a_slow_disk_holds_a_bounded_amount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(auditing, "WAITING_BYTES", 1000)
    disk = threading.Event()
    monkeypatch.setattr(KeptFolder, "put", lambda *_: disk.wait(20))
    auditor = Auditor(1, KeptFolder(tmp_path), 90)
    started = time.monotonic()
    assert all(auditor.mark(b"x" * 400, 0.9, "m") for _ in range(100))
    assert time.monotonic() - started < 20 and auditor._queue.qsize() <= 2
    assert not auditor.flush(0.1) and "not all photos to judge are kept" in caplog.text
    disk.set()
    assert auditor.flush()


def test_a_batch_waits_in_vain_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "WAITING_BYTES", 1000)
    disk, waited = threading.Event(), []
    monkeypatch.setattr(KeptFolder, "put", lambda *_: disk.wait(20))
    monkeypatch.setattr(Auditor, "flush", lambda _: bool(waited.append(1)))
    auditor = Auditor(1, KeptFolder(tmp_path), 90, patient=True)
    assert all(auditor.mark(b"x" * 400, 0.9, "m") for _ in range(10)) and len(waited) == 1
    disk.set()


def test_an_object_store_that_is_down_harms_no_verdict(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    obstore = pytest.importorskip("obstore")
    down = {"endpoint": "http://127.0.0.1:9", "access_key_id": "a", "secret_access_key": "b", "region": "eu"}
    store = obstore.store.S3Store("yard", **down, client_options={"allow_http": True}, retry_config={"max_retries": 0})
    monkeypatch.setattr(bucket, "split", lambda url: (store, "audit/"))
    answer = send(make(pair, AUDIT_SHARE="1", AUDIT_DIR="s3://yard/audit"), CLEAN)[0]
    assert answer["label"] == "clean" and answer["audit"]
    kept = [record.getMessage() for record in caplog.records if "could not be kept" in record.getMessage()]
    assert len(kept) == 1 and "127.0.0.1:9" in kept[0] and len(kept[0]) < 400
    with pytest.raises(ReadError):
        list(bucket.KeptBucket("s3://yard/audit").names())


def test_photos_expire_and_other_files_do_not(tmp_path: Path) -> None:
    folder, now = KeptFolder(tmp_path), datetime.now(UTC)
    for age in (0, 29, 31, 400):
        at = (now - timedelta(days=age)).strftime("%Y%m%dT%H%M%S.%fZ")
        folder.put(Kept(at, "0" * 16, 0.99, 1e-05, "hub:a/b_c-1").name, b"photo")
    old = tmp_path / "2020-01-01"
    old.mkdir()
    (old / "notes.txt").write_text("not ours")
    assert folder.expire(30) == 2
    assert len(files(tmp_path)) == 3 and (old / "notes.txt").exists()
    assert [parse(name).model for name in folder.names()] == ["hub:a/b_c-1"] * 2  # type: ignore[union-attr]


def test_an_object_store_keeps_them_too(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    obstore = pytest.importorskip("obstore")
    memory = obstore.store.MemoryStore()
    monkeypatch.setattr(bucket, "split", lambda url: (memory, url.split("/", 3)[3]))
    app = make(pair, AUDIT_SHARE="1", AUDIT_DIR="s3://yard/audit")
    send(app, CLEAN, DIRTY)
    store = bucket.KeptBucket("s3://yard/audit")
    store.put(Kept("20200101T000000.000000Z", "0" * 16, 0.99, 0.1, "m").name, b"old")
    obstore.put(memory, "audit/notes.txt", b"not ours")
    old, name = store.names()
    assert old.startswith("2020") and store.get(name) == CLEAN
    assert store.expire(30) == 1 and list(store.names()) == [name]
    assert obstore.get(memory, "audit/notes.txt").bytes() == b"not ours"


def test_batch_draws_too(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, kept = tmp_path / "photos", tmp_path / "kept"
    photos.mkdir()
    kept.mkdir()
    for name, data in (("a.jpg", CLEAN), ("b.jpg", DIRTY), ("c.jpg", b"no photo")):
        (photos / name).write_bytes(data)
    for name, value in {"MODEL_PATH": str(pair.model), "AUDIT_SHARE": "1", "AUDIT_DIR": str(kept)}.items():
        monkeypatch.setenv(name, value)
    scorer = batch.load()
    assert [row.label for row in batch.predict_many(scorer, [photos])] == ["clean", "dirty", ""]
    assert scorer._auditor is not None and scorer._auditor.flush()
    assert [path.read_bytes() for path in files(kept)] == [CLEAN]


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"AUDIT_SHARE": "2"}, "AUDIT_SHARE"),
        ({"AUDIT_DIR": "x"}, "AUDIT_SHARE"),
        ({"AUDIT_SHARE": "nan"}, "AUDIT_SHARE"),
    ],
)
def test_settings_that_cannot_be(environ: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        Settings.from_env(environ)


def test_a_folder_that_is_not_there_stops_the_start(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="AUDIT_DIR"):
        make(pair, AUDIT_SHARE="0.1", AUDIT_DIR=str(tmp_path / "missing"))
