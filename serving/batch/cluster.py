"""A job's shards on Ray: a task scores a shard, on a core or a GPU; the process that runs it keeps the model."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from serving.batch import job
from serving.batch.folder import Folder
from serving.batch.job import Tick
from serving.batch.scorer import Scorer
from serving.engine import deployment
from serving.inference.verdict.errors import UserError
from serving.settings import Settings
from serving.stores import extra

log = logging.getLogger(__name__)

EMBEDDED = "here"  # instead of an address: a Ray of our own, on this machine
IN_FLIGHT = 2  # tasks per place: the next shard waits where the last one ends
DEATHS = 5  # of processes and nodes that a shard survives
_OBJECT_STORE = 200 * 2**20  # bytes; only the model and counts go through it
_ROOT = Path(__file__).parents[2]


class Model(NamedTuple):
    """Everything a node needs, so that it needs no file of ours."""

    content: bytes
    threshold: bytes | None
    settings: Settings
    workers: int


@functools.lru_cache(1)
def _scorer(model: Model) -> Scorer:
    """Of this process. Whoever sent the model has held it against its signature."""
    with tempfile.TemporaryDirectory() as folder:
        path, threshold = Path(folder) / "best.onnx", Path(folder) / "threshold.json"
        path.write_bytes(model.content)
        threshold.write_bytes(model.threshold or b"")
        loaded = deployment.load(model.settings, path, threshold if model.threshold else None, verified=True)
    return Scorer(loaded, model.settings, model.workers)


def _score(model: Model, url: str, shard: int) -> int:
    """The task. Returns how many photos were scored."""
    counted: list[int] = []
    job.tried(Folder(url), _scorer(model), shard, counted.append)
    return sum(counted)


@contextmanager
def _connected(address: str, workers: int | None) -> Iterator[Any]:
    """Ray at an address, or one of our own. Raises UserError where it is not installed or not there."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = extra("ray", "ray")
    options: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    if address == EMBEDDED:
        os.environ.setdefault("RAY_worker_niceness", "0")  # else 15: beside other programs, slower than without Ray
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        options |= {
            "address": "local",
            "num_cpus": workers,
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE,
        }
    else:
        options |= {"address": address, "runtime_env": {"py_modules": [str(_ROOT / "serving")]}}
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():  # Ray itself asks a dead address for many minutes
            socket.create_connection((host.strip("[]"), int(port)), 10).close()
        ray.init(**options)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"--ray {address}: {error}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def place(nodes: Iterable[dict[str, Any]], target: str) -> tuple[int, int]:
    """CPUs and GPUs of a task: a core; for a model that is meant for a GPU, where a node has one, a GPU and the fewest
    cores for each that such a node has. The other nodes then have no task."""
    with_gpus = [node["Resources"] for node in nodes if node["Alive"] and node["Resources"].get("GPU")]
    if target != "gpu" or not with_gpus:
        return 1, 0
    return min(max(1, int(resources.get("CPU", 1) // resources["GPU"])) for resources in with_gpus), 1


def run(
    address: str, workers: int | None, folder: Folder, scorer: Scorer, shards: Iterable[int], tick: Tick
) -> list[int]:
    """Score shards on all nodes; Ray starts those of a dead process or node again. Returns those that failed."""
    failed: list[int] = []
    with _connected(address, workers) as ray:
        each, gpus = place(ray.nodes(), scorer.deployment.predictor.metadata.target)
        task = ray.remote(num_cpus=each, num_gpus=gpus, max_retries=DEATHS)(_score)
        settings = scorer.settings
        content = settings.model_path.read_bytes()
        if hashlib.sha256(content).hexdigest() != scorer.deployment.predictor.sha256:
            raise UserError(f"{settings.model_path} changed after it was loaded")
        threshold = settings.threshold_path.read_bytes() if settings.threshold_path else None
        model = ray.put(Model(content, threshold, settings, each))
        running: dict[Any, int] = {}

        def collect(most: int) -> None:
            while len(running) > most:
                for future in ray.wait(list(running))[0]:
                    shard = running.pop(future)
                    try:
                        tick(ray.get(future))
                    except ray.exceptions.RayError as error:
                        log.error("shard %d failed: %s", shard, getattr(error, "cause", None) or error)
                        failed.append(shard)

        for shard in shards:
            collect(IN_FLIGHT * max(1, int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1))) - 1)
            running[task.remote(model, folder.url, shard)] = shard
        collect(0)
    return failed
