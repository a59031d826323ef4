"""One training process per device, started by torchrun's own launcher."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributed.run import config_from_args, parse_args

from serving.inference.photo.cores import usable_cores
from serving.inference.verdict.errors import UserError
from stages.common.base.errors import StageError
from stages.common.network.scoring import keep_freed_memory

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process's place among the training processes."""

    rank: int
    world: int
    device: torch.device
    local: int = 0  # its rank on its own node

    @property
    def first(self) -> bool:
        """Whether this process is the one that reports, chooses and writes."""
        return self.rank == 0

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier()

    def broadcast(self, value: T, source: int = 0) -> T:
        """The value of the process with rank `source`."""
        values = [value]
        if self.world > 1:
            dist.broadcast_object_list(values, source, device=self.device)
        return values[0]

    def all_gather(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        values = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return values

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes, in its place and still on the device."""
        if self.world > 1:
            dist.all_reduce(value)
            value /= self.world
        return value

    def broadcast_weights(self, module: nn.Module) -> None:
        """Give a module the first process's weights; the running statistics of batch norms are each process's own."""
        if self.world > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)


def describe(ranks: Ranks, precision: torch.dtype) -> str:
    """The device and precision of a run, for its first line."""
    gpu = ranks.device.type == "cuda"
    name = torch.cuda.get_device_name(ranks.device) if gpu else f"CPU, {torch.get_num_threads()} threads each"
    return f"{ranks.world} process{'es' if ranks.world > 1 else ''} on {name}, {str(precision).removeprefix('torch.')}"


def process_count(devices: str | int) -> int:
    """How many processes to start: one per visible GPU, or on a CPU one, or as many as asked for.

    Raises StageError when there are GPUs, but fewer than asked for.
    """
    gpus = torch.cuda.device_count()
    if devices == "auto":
        return max(1, gpus)
    if gpus and int(devices) > gpus:
        raise StageError(f"params.yaml: train.devices: {devices} asked for, {gpus} GPUs are visible")
    return int(devices)


def launch(worker: Callable[[], None], processes: int, check: Callable[[int], object] = lambda _: None) -> None:
    """Run `worker` in `processes` processes, or here when one is enough or torchrun has already started us.

    With PET_NNODES, which torchrun reads too, they join those of other nodes; other PET_ variables say where to meet.
    `check` is asked first whether so many processes together can train, for every number there may be. It is asked
    before they meet: processes that fail after that may leave those of torchrun's next attempt waiting for ever.

    Raises StageError when a process fails and KeyboardInterrupt when a signal ends the run; the launcher stops the
    others.
    """
    if "RANK" in os.environ:
        check(int(os.environ["WORLD_SIZE"]))
        _speak_up(worker)
        return
    several = os.environ.get("PET_NNODES", "1") != "1"
    if processes == 1 and not several:
        worker()
        return
    if several:
        os.environ.setdefault("PET_NPROC_PER_NODE", str(processes))
        # Else agents keep the address of the first round's store, which may have died with its node.
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
        config = config_from_args(parse_args(["-m", "stages.train"]))[0]
    else:
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=processes, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
            local_addr="127.0.0.1",  # by default the host name, which may not resolve
            start_method="spawn", monitor_interval=0.5, max_restarts=0,
        )  # fmt: skip
    for nodes in range(config.min_nodes, config.max_nodes + 1):
        check(nodes * config.nproc_per_node)
    try:
        elastic_launch(config, _speak_up)(worker)
    except ChildFailedError as error:
        raise StageError("a training process failed and the others were stopped; what it said stands above") from error
    except (RendezvousError, dist.DistError) as error:
        raise StageError(f"the other nodes, or PET_RDZV_ENDPOINT, are out of reach: {error}") from error
    except SignalException as error:
        raise KeyboardInterrupt from error


def _speak_up(worker: Callable[[], None]) -> None:
    """Run `worker` in a child; say what went wrong there. Of several failures the launcher may pick the wrong one: a
    process that only lost its connection to the one that failed.

    A process that failed ends at once: NCCL's clean-up would wait for the others, which wait for it.
    """
    try:
        worker()
    except (UserError, OSError) as error:  # as in `run_stage`
        print(f"train: {error}", file=sys.stderr)
    except Exception:  # a defect, whatever it is: all of it is shown here, as the launcher tells of one failure only
        traceback.print_exc()
    else:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


@contextmanager
def process_group(threads: int | None = None) -> Iterator[Ranks]:
    """Join the other processes (NCCL on GPUs, gloo on CPUs) for the length of a `with` block, and share the
    cores, or on CPUs `threads`, whatever cores there are."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local, local_world = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", local) if gpu else torch.device("cpu")
    torch.set_num_threads(max(1, (usable_cores() if gpu or threads is None else threads) // local_world))
    if gpu:
        torch.cuda.set_device(device)
    else:
        keep_freed_memory()
    if world > 1:
        # Some wait long for others, as for the one that decodes the photos.
        dist.init_process_group(
            "nccl" if gpu else "gloo", timeout=timedelta(hours=1), device_id=device if gpu else None
        )
    yield Ranks(rank, world, device, local)
    if world > 1:  # only on success: after a failure NCCL would wait for processes that no longer answer
        dist.destroy_process_group()
