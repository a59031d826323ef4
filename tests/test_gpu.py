"""The whole pipeline and the service on an NVIDIA card; skipped without one."""

import csv
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from serving.inference.model.predictor import gpu_count
from tests.support.live import Live, running, wait_until
from tests.support.onnx_models import Pair
from tests.support.workspace import Workspace, write_photos

pytestmark = pytest.mark.skipif(gpu_count() == 0, reason="no NVIDIA card here")

CHECKPOINT, HOLDOUT = "artifacts/best.pt", "artifacts/holdout.csv"


class OnCard(Workspace):
    """Its stages see the first card."""

    cards = "0"

    def outputs(self) -> list[bytes]:
        """What training made."""
        return [(self.folder / name).read_bytes() for name in (CHECKPOINT, HOLDOUT)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> OnCard:
    """A workspace with a checkpoint of repeatable training."""
    folder = tmp_path_factory.mktemp("gpu")
    write_photos(folder / "data_cars", clean=40, dirty=20)
    workspace = OnCard(folder)
    workspace.set(**{"convert.target": "gpu", "convert.car_check": True, "train.deterministic": True})
    workspace.must("split_check", "backbone")
    done = workspace.run("train")
    assert done.returncode == 0 and "1 process on NVIDIA" in done.stderr, done.stderr
    assert "float32" not in done.stderr, "amp: auto is mixed precision on a card"
    return workspace


@pytest.fixture
def copy(trained: OnCard, tmp_path: Path) -> OnCard:
    """A copy of `trained` that may be changed."""
    shutil.copytree(trained.folder, tmp_path / "copy")
    copy = OnCard(tmp_path / "copy")
    copy.params = trained.params
    return copy


@pytest.fixture(scope="module")
def exported(trained: OnCard) -> OnCard:
    trained.must("convert", "eval", "threshold", "export", "benchmark")
    return trained


@pytest.fixture(scope="module")
def live(exported: OnCard) -> Iterator[Live]:
    """The service on the card."""
    pair = Pair(exported.folder / "artifacts/best.onnx", exported.folder / "artifacts/threshold.json")
    with running(pair, exported.folder, REQUIRE_GPU="1", REQUIRE_CERTIFIED="0", REFUSE="off") as service:
        yield service


def test_training_that_was_killed_ends_with_the_same_bytes(trained: OnCard, copy: OnCard) -> None:
    copy.set(**{"runtime.save_every": 0.0})
    (copy.folder / CHECKPOINT).unlink()
    with copy.start("train") as process:
        wait_until(lambda: len(list(copy.folder.glob(".scratch/train/*/[0-9]*.pt"))) == 2)
        process.kill()
    assert not (copy.folder / CHECKPOINT).exists()
    done = copy.run("train")
    assert done.returncode == 0 and "goes on from step" in done.stderr, done.stderr
    assert copy.outputs() == trained.outputs()


def test_more_processes_than_cards_are_refused(copy: OnCard) -> None:
    copy.set(**{"train.devices": 2})
    copy.refuses("train", "train.devices: 2 asked for, 1 GPUs are visible")


def test_the_service_answers_in_16_bits_as_was_certified(live: Live, exported: OnCard) -> None:
    model = requests.get(live.url + "/model", timeout=10).json()
    assert (model["provider"], model["precision"]) == ("CUDAExecutionProvider", "fp16")
    with (exported.folder / "artifacts/predictions/test.csv").open() as table:
        for row in csv.DictReader(table):
            answer = live.send((exported.folder / "data_cars" / row["path"]).read_bytes()).json()
            assert answer["p_clean"] == pytest.approx(float(row["p_clean"]), abs=1e-3)


def test_many_at_once_share_the_card(live: Live, exported: OnCard) -> None:
    photos = [path.read_bytes() for path in (exported.folder / "data_cars/test").rglob("*.jpg")]
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(live.status, photos * 4)) == {"200"}


def test_the_benchmark_measures_card_and_processor(exported: OnCard) -> None:
    speed = json.loads((exported.folder / "reports/benchmark.json").read_text())["speed"]
    assert set(speed) == {"CUDAExecutionProvider", "CPUExecutionProvider"}
