"""Jobs from and to a real S3 server, and on a Ray cluster whose parts are killed. Needs tests/requirements.txt."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import psutil
import pyarrow.parquet as pq
import pytest

from serving.batch import job, photos
from serving.batch.folder import Folder
from tests.support import store
from tests.support.jobs import assert_each_once, score
from tests.support.live import ROOT, photo, wait_until
from tests.support.onnx_models import write_pair

pytestmark = pytest.mark.slow
needs_store = pytest.mark.skipif(bool(store.MISSING), reason=store.MISSING)
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install -r tests/requirements.txt"
)
PHOTOS = 31


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODEL_PATH", str(write_pair(tmp_path / "artifacts", t_clean=0.75).model))
    (tmp_path / "photos").mkdir()
    for number in range(PHOTOS):
        (tmp_path / "photos" / f"{number:02}.jpg").write_bytes(photo(number * 8))
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with store.running(tmp_path_factory.mktemp("store")) as port:
        yield port


@pytest.fixture
def bucket(source: Path, port: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix of its own with the photos."""
    use(monkeypatch, store.environment(port))
    prefix = f"s3://{store.BUCKET}/{request.node.name.replace('[', '-').replace(']', '')}"
    for path in source.iterdir():
        obstore.put(*photos.split(f"{prefix}/in/{path.name}"), path)
    return prefix


def use(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    photos.store.cache_clear()


def fetched(url: str, into: Path) -> Path:
    """The parts of a job, on the disk."""
    into.mkdir()
    for file in Folder(url).files():
        if file.name.startswith("part-"):
            (into / file.name).write_bytes(Folder(url).read(file.name) or b"")
    return into


@needs_store
@pytest.mark.parametrize("ray", [False, pytest.param(True, marks=needs_ray)])
def test_a_job_from_and_to_s3(source: Path, bucket: str, tmp_path: Path, ray: bool) -> None:
    command = [f"{bucket}/in", f"{bucket}/out", "--shard-size", "4", *["--ray"] * ray]
    assert score(*command) == 0
    assert_each_once(fetched(f"{bucket}/out", tmp_path / "parts"), source)
    assert Folder(f"{bucket}/out").read(job.SUCCESS)
    assert score(*command) == 0
    assert job.status(Folder(f"{bucket}/out")).counts.total() == PHOTOS


@needs_store
def test_a_busy_store_is_asked_again(
    source: Path, bucket: str, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.Busy(port, refusals=2) as busy:
        use(monkeypatch, store.environment(busy.server_port))
        assert score(f"{bucket}/in", f"{bucket}/out", "--shard-size", "4") == 0
        assert {busy.asked[path] for path in busy.asked if path.endswith(".jpg")} == {3}
        busy.shutdown()
    use(monkeypatch, store.environment(port))
    assert_each_once(fetched(f"{bucket}/out", tmp_path / "parts"), source)


@needs_store
def test_missing_and_forbidden_objects_are_rows(
    bucket: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(f"{bucket}/in/00.jpg\n{bucket}/in/none.jpg\n{source}/01.jpg\n")

    def errors() -> list[str | None]:
        assert score(listed, tmp_path / "out.parquet") == 1
        return [(row or "").partition(":")[0] for row in pq.read_table(tmp_path / "out.parquet")["error"].to_pylist()]

    assert errors() == ["", "missing", ""]
    use(monkeypatch, {"AWS_SECRET_ACCESS_KEY": "wrongwrong"})
    assert errors() == ["forbidden", "forbidden", ""]
    assert score(f"{bucket}/in", tmp_path / "out.csv") == 2 and "forbidden" in capsys.readouterr().err
    assert score(listed, f"{bucket}/out") == 2 and "forbidden" in capsys.readouterr().err


@needs_store
def test_archives_lists_and_patterns_in_a_store(bucket: str, source: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "-cf", tmp_path / "a.tar", "-C", source, "."], check=True)
    listed = tmp_path / "list.csv"
    listed.write_text(
        "bucket,key\n" + "".join(f"{store.BUCKET},{bucket.rpartition('/')[2]}/in/{n:02}.jpg\n" for n in (1, 2))
    )
    for path in (tmp_path / "a.tar", listed):
        obstore.put(*photos.split(f"{bucket}/{path.name}"), path)
    for name, count in {"a.tar": PHOTOS, "list.csv": 2, "in/*5.jpg": 3, "in/07.jpg": 1, "*.tar": PHOTOS}.items():
        assert score(f"{bucket}/{name}", tmp_path / "out.parquet") == 0
        assert pq.read_metadata(tmp_path / "out.parquet").num_rows == count, name


@needs_ray
@pytest.mark.parametrize("victim", ["worker", "raylet", "driver"])
def test_whatever_is_killed_every_photo_has_one_row(
    source: Path, tmp_path: Path, victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MODEL_PATH", str(write_pair(tmp_path / "slow", t_clean=0.75, work=15).model))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 * 2**20})
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20) for _ in range(2)]
    out = tmp_path / "out"
    command = [sys.executable, "-m", "serving.batch", str(source), "--out", str(out), "--shard-size", "2"]
    command += ["--ray", cluster.address]
    try:
        driver = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        wait_until(lambda: len(list(out.glob("part-*"))) >= 2, 90)
        kill(victim, driver, cluster, nodes[0])
        code = driver.wait(120)
        if victim == "driver":
            assert code == -signal.SIGKILL and not (out / job.SUCCESS).exists()
            code = subprocess.run(command, cwd=ROOT, check=False, timeout=120).returncode
        assert code == 0
        assert_each_once(out, source)
    finally:
        ray.shutdown()
        cluster.shutdown()


def kill(victim: str, driver: subprocess.Popen[bytes], cluster: Any, node: Any) -> None:
    """kill -9 of the driver, of a node's raylet with all it runs, or of a process that scores."""
    if victim == "driver":
        driver.kill()
    elif victim == "raylet":
        cluster.remove_node(node, allow_graceful=False)
    else:
        workers = [p for p in psutil.Process().children(recursive=True) if "ray::" in " ".join(p.cmdline())]
        os.kill(next(p.pid for p in workers if "_score" in " ".join(p.cmdline())), signal.SIGKILL)
