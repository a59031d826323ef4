"""Jobs from and to a real S3 server, and on a Ray cluster whose parts are killed. Needs tests/requirements.txt."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import obstore
import pyarrow.parquet as pq
import pytest

from serving import stores
from serving.batch import job, status
from serving.batch.folder import Folder
from tests.support import ray_cluster, store
from tests.support.jobs import each_once, score
from tests.support.live import ROOT, free_port, wait_until
from tests.support.onnx_models import write_pair

pytestmark = pytest.mark.slow
needs_store = pytest.mark.skipif(bool(store.MISSING), reason=store.MISSING)
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install -r tests/requirements.txt"
)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODEL_PATH", str(write_pair(tmp_path / "artifacts", t_clean=0.75).model))
    return ray_cluster.write_photos(tmp_path / "photos")


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
        obstore.put(*stores.split(f"{prefix}/in/{path.name}"), path)
    return prefix


def use(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stores.store.cache_clear()


def fetched(url: str, into: Path) -> Path:
    """The parts of a job, on the disk."""
    into.mkdir()
    for name in Folder(url).files():
        if name.startswith("part-"):
            (into / name).write_bytes(Folder(url).read(name) or b"")
    return into


@needs_store
@pytest.mark.parametrize("ray", [False, pytest.param(True, marks=needs_ray)])
def test_a_job_from_and_to_s3(source: Path, bucket: str, tmp_path: Path, ray: bool) -> None:
    command = [f"{bucket}/in", f"{bucket}/out", "--shard-size", "4", *["--ray"] * ray]
    assert score(*command) == 0
    assert each_once(fetched(f"{bucket}/out", tmp_path / "parts"), source)
    assert Folder(f"{bucket}/out").read(job.SUCCESS)
    assert score(*command) == 0
    assert status.read(Folder(f"{bucket}/out")).counts.total() == ray_cluster.PHOTOS


@needs_store
def test_a_job_on_s3_that_is_killed_goes_on(
    source: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_PATH", str(write_pair(tmp_path / "slow", t_clean=0.75, work=15).model))
    out, options = Folder(f"{bucket}/out"), ["--shard-size", "2"]
    command = [sys.executable, "-m", "serving.batch", f"{bucket}/in", "--out", out.url, *options]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: sum(name.startswith("part-") for name in out.files()) >= 2)
        process.kill()
    assert out.read(job.SUCCESS) is None
    assert score(f"{bucket}/in", out.url, *options) == 0
    assert each_once(fetched(out.url, tmp_path / "parts"), source)


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
    assert each_once(fetched(f"{bucket}/out", tmp_path / "parts"), source)


@needs_store
def test_a_job_on_s3_has_a_prefix_of_its_own(bucket: str) -> None:
    """Neither the source nor one of other objects; its parts are no photos of the next run."""
    assert score(f"{bucket}/in", f"{bucket}/in") == score(f"{bucket}/in/00.jpg", f"{bucket}/in") == 2
    assert len(Folder(f"{bucket}/in").files()) == ray_cluster.PHOTOS
    for _ in range(2):
        assert score(f"{bucket}/in/", f"{bucket}/in/out/") == 0


@needs_store
def test_missing_and_forbidden_objects_are_rows(
    bucket: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(f"{bucket}/in/00.jpg\n{bucket}/in/none.jpg\n{source}/01.jpg\n")

    def errors(source: Path | str = listed) -> list[str | None]:
        assert score(source, tmp_path / "out.parquet") == 1
        return [(row or "").partition(":")[0] for row in pq.read_table(tmp_path / "out.parquet")["error"].to_pylist()]

    assert errors() == ["", "missing", ""]
    for name in "in/none.jpg", "none.tar", "none.mp4":
        assert errors(f"{bucket}/{name}") == ["missing"]
    assert score(f"{bucket}/none.csv", tmp_path / "out.csv") == score(f"{bucket}/none", tmp_path / "out.csv") == 2
    use(monkeypatch, {"AWS_SECRET_ACCESS_KEY": "wrongwrong"})
    assert errors() == ["forbidden", "forbidden", ""]
    assert errors(f"{bucket}/in/00.jpg") == errors(f"{bucket}/none.tar") == ["forbidden"]
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
        obstore.put(*stores.split(f"{bucket}/{path.name}"), path)
    every = ray_cluster.PHOTOS
    for name, count in {"a.tar": every, "list.csv": 2, "in/*5.jpg": 3, "in/07.jpg": 1, "*.tar": every}.items():
        assert score(f"{bucket}/{name}", tmp_path / "out.parquet") == 0
        assert pq.read_metadata(tmp_path / "out.parquet").num_rows == count, name


@needs_store
def test_photos_go_to_a_dvc_remote_and_come_back(
    source: Path, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, store.environment(port))
    monkeypatch.chdir(tmp_path)
    paths = [path.read_bytes() for path in sorted(source.iterdir())]

    def dvc(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "dvc", *arguments, "--quiet"], check=True, timeout=120)

    dvc("init", "--no-scm")
    dvc("remote", "add", "-d", "team", f"s3://{store.BUCKET}/dirtycar")
    dvc("remote", "modify", "team", "endpointurl", f"http://127.0.0.1:{port}")
    dvc("add", source.name)
    dvc("push")
    for gone in source, tmp_path / ".dvc" / "cache":
        shutil.rmtree(gone)
    dvc("pull")
    assert [path.read_bytes() for path in sorted(source.iterdir())] == paths


@needs_ray
def test_ray_writes_a_file_that_is_no_photo(source: Path) -> None:
    out = source / "out.parquet"
    for _ in range(2):
        assert score(source, out, "--ray", "--sheet", str(source / "page.html")) == 0
        assert pq.read_metadata(out).num_rows == ray_cluster.PHOTOS
    assert not list(source.glob(".*"))


@needs_ray
def test_an_address_without_ray_is_named(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address = f"127.0.0.1:{free_port()}"
    assert score(source, tmp_path / "out", "--ray", address) == 2 and address in capsys.readouterr().err


@needs_ray
@pytest.mark.parametrize("victim", ray_cluster.VICTIMS)
def test_whatever_is_killed_every_photo_has_one_row(tmp_path: Path, victim: str) -> None:
    assert ray_cluster.disturbed(tmp_path, victim)
