"""A Ray cluster of three raylets on this host, and what is killed in it while a job runs."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from serving.batch import job
from tests.support.jobs import each_once
from tests.support.live import ROOT, photo, wait_until
from tests.support.onnx_models import write_pair

VICTIMS = ("worker", "raylet", "driver")
PHOTOS = 31
_STORE = 100 * 2**20  # bytes


def write_photos(folder: Path) -> Path:
    """Photos, each as bright as its name says in eighths."""
    folder.mkdir()
    for number in range(PHOTOS):
        (folder / f"{number:02}.jpg").write_bytes(photo(number * 8))
    return folder


def disturbed(folder: Path, victim: str) -> bool:
    """A job of which a part is killed while it runs; whether every photo has exactly one right row in the end."""
    import ray
    from ray.cluster_utils import Cluster

    source, out = write_photos(folder / "photos"), folder / "out"
    model = write_pair(folder / "slow", t_clean=0.75, work=15).model
    with mock.patch.dict(os.environ, {"PYTHONPATH": str(ROOT), "MODEL_PATH": str(model)}):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": _STORE})
        try:
            nodes = [cluster.add_node(num_cpus=1, object_store_memory=_STORE) for _ in range(2)]
            command = [sys.executable, "-m", "serving.batch", str(source), "--out", str(out), "--shard-size", "2"]
            command += ["--ray", cluster.address]
            driver = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
            wait_until(lambda: len(list(out.glob("part-*"))) >= 2)
            _kill(victim, driver, cluster, nodes[0])
            code = driver.wait(180)
            if victim == "driver":
                assert code == -signal.SIGKILL and not (out / job.SUCCESS).exists()
                code = subprocess.run(command, cwd=ROOT, check=False, timeout=180, stderr=subprocess.DEVNULL).returncode
            return code == 0 and each_once(out, source)
        finally:
            ray.shutdown()
            cluster.shutdown()


def _kill(victim: str, driver: subprocess.Popen[bytes], cluster: Any, node: Any) -> None:
    """kill -9 of the driver, of a node's raylet with all it runs, or of a process that scores."""
    if victim == "driver":
        driver.kill()
    elif victim == "raylet":
        cluster.remove_node(node, allow_graceful=False)
    else:
        commands = {p.pid: " ".join(p.cmdline()) for p in psutil.Process().children(recursive=True)}
        os.kill(next(pid for pid, command in commands.items() if "ray::_score" in command), signal.SIGKILL)
