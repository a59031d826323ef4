"""`python -m stages.train`."""

from stages.common.base.errors import run_stage
from stages.common.base.params import load
from stages.train.devices import choose_device, limit_kernels
from stages.train.params import Params


def main() -> None:
    params = load(Params)
    limit_kernels(params.train)
    from stages.train.distributed import launch, process_count  # with torch, hence only now
    from stages.train.loop import run

    choose_device(params.train.device)
    launch(run, process_count(params.train.devices), params.train.local_batch_size)


if __name__ == "__main__":
    run_stage("train", main)
