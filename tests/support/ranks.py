"""What a training process does in tests; its own module, since a new process imports it."""

import torch

from stages.train.distributed import process_group


def fail_in_one_process() -> None:
    """For `launch`: one process fails in the group while the other waits for it."""
    with process_group() as ranks:
        mean = float(ranks.all_reduce_mean(torch.tensor(float(ranks.rank))))
        if not ranks.first:
            raise ValueError(f"the second process fails; mean of the ranks {mean}")
        ranks.wait()
