"""`python -m stages.train`."""

import os
from contextlib import nullcontext
from pathlib import Path

from stages.common.base.errors import StageError, run_stage
from stages.common.base.params import load
from stages.common.pixels.scratch import locked
from stages.train.devices import choose_device, limit_kernels
from stages.train.params import Params


def main() -> None:
    """Train on every device asked for; one run at a time in a folder, whose reports two would mix up."""
    params = load(Params)
    limit_kernels(params.train)
    from stages.train.distributed import launch, process_count  # with torch, hence only now
    from stages.train.loop import run

    choose_device(params.train.device)
    first = int(os.environ.get("RANK", 0)) == 0  # torchrun starts this in every process
    with locked(Path(), wait=False) if first else nullcontext(True) as free:
        if not free:
            raise StageError("training runs in this folder already; `dvc exp run --temp` trains beside it")
        launch(run, process_count(params.train.devices))


if __name__ == "__main__":
    run_stage("train", main)
