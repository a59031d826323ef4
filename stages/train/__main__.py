"""`python -m stages.train`."""

from stages.common.errors import run_stage
from stages.common.params import load
from stages.train.distributed import launch, process_count
from stages.train.loop import run
from stages.train.params import Params


def main() -> None:
    """Train on every device asked for."""
    launch(run, process_count(load(Params).train.devices))


if __name__ == "__main__":
    run_stage("train", main)
