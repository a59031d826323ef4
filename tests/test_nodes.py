"""Training on several nodes: two agents of torchrun on this host, in a folder each, with gloo."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.support.live import free_port, wait_until
from tests.support.workspace import ROOT, Workspace

pytestmark = pytest.mark.slow
# A node that was killed is given up after HEARTBEATS seconds.
CONFIGURATION = "last_call_timeout=1,keep_alive_interval=2,keep_alive_max_attempt=3"
HEARTBEATS = 7
OUTPUTS = ("artifacts/best.pt", "artifacts/holdout.csv", "reports/train.json")


class Node:
    """A folder with a share of the training processes, which meet as `environment` says."""

    process: subprocess.Popen[bytes] | None = None

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.log = folder, folder / "log"
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self._environment = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", **environment}

    def start(self, *command: str) -> None:
        """`python -m COMMAND`."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=self.folder, env=self._environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """kill -9 of the agent and its training processes."""
        agent = psutil.Process(self.process.pid)
        for process in (agent, *agent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def states(self) -> list[Path]:
        """Of unfinished training."""
        return list(self.folder.glob(".scratch/train/*/0*.pt"))


@contextmanager
def nodes(workspace: Workspace, number: str = "2") -> Iterator[tuple[Node, Node]]:
    """The workspace and a copy of it, each with an agent, unless the first is enough; none is left running."""
    port, copy = free_port(), workspace.folder.with_name("other")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(workspace.folder, copy)
    meet = {"RDZV_BACKEND": "c10d", "RDZV_ENDPOINT": f"127.0.0.1:{port}", "RDZV_ID": "test", "NNODES": number}
    meet |= {"LOCAL_ADDR": "127.0.0.1", "MAX_RESTARTS": "3", "RDZV_CONF": CONFIGURATION}
    environment = {f"PET_{name}": value for name, value in meet.items()}
    pair = Node(workspace.folder, environment), Node(copy, environment)
    pair[0].start("stages.train")
    wait_until(lambda: _listens(port))  # it hosts the rendezvous
    if number == "2":
        pair[1].start("stages.train")
    try:
        yield pair
    finally:
        for node in pair:
            if node.process is not None and node.process.poll() is None:
                node.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def outputs(pair: tuple[Node, Node]) -> list[bytes]:
    """What the run wrote, on the one node that had the first process."""
    wrote = [node for node in pair if (node.folder / OUTPUTS[0]).exists()]
    assert len(wrote) == 1, [node.log.read_text() for node in pair]
    return [(wrote[0].folder / name).read_bytes() for name in OUTPUTS]


def test_a_node_that_is_killed_joins_again_and_the_bits_are_the_same(trainable: Workspace) -> None:
    trainable.set(**{"runtime.save_every": 0.0, "train.epochs": 12})
    found = []
    for disturbed in False, True:
        with nodes(trainable) as pair:
            if disturbed:
                wait_until(lambda: pair[0].states() or pair[1].states())
                pair[1].kill()
                time.sleep(HEARTBEATS)
                pair[1].start("stages.train")
            codes = [node.process.wait(240) for node in pair]
            assert codes == [0, 0], [node.log.read_text() for node in pair]
            found.append(outputs(pair))
            said = "".join(node.log.read_text() for node in pair)
            assert ("goes on from" in said) == disturbed and "not the bits" not in said
        for name in OUTPUTS:
            (trainable.folder / name).unlink(missing_ok=True)
    assert found[0] == found[1]


def test_a_node_may_join_later(trainable: Workspace) -> None:
    """The other one stands still meanwhile."""
    trainable.set(**{"runtime.save_every": 0.0, "train.epochs": 12, "train.batch_size": 10})
    with nodes(trainable, "1:2") as pair:
        wait_until(pair[0].states)
        for process in psutil.Process(pair[0].process.pid).children():
            process.suspend()
        pair[1].start("stages.train")
        codes = [node.process.wait(240) for node in pair]
        said = [node.log.read_text() for node in pair]
        assert codes == [0, 0], said
        assert outputs(pair) and "it was 1: not the bits" in "".join(said)


@pytest.mark.parametrize("environment", [{"PET_NNODES": "1:2"}, {"RANK": "0", "WORLD_SIZE": "2"}])
def test_a_batch_that_cannot_be_shared_out_stops_before_any_meeting(
    trainable: Workspace, environment: dict[str, str]
) -> None:
    trainable.set(**{"train.batch_size": 9})
    node = Node(trainable.folder, environment)
    node.start("stages.train")
    assert node.process.wait(60) == 1 and "batch_size: 9 cannot be shared out among 2" in node.log.read_text()
