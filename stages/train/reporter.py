"""What is told of a run while it runs."""

from pathlib import Path
from typing import Any

from dvclive import Live
from tqdm import tqdm

from stages.common.base.errors import StageError
from stages.common.base.paths import REPORTS
from stages.train.distributed import Ranks

LIVE_DIR, TENSORBOARD_DIR = REPORTS / "train", Path("runs")


class Reporter:
    """On the first process a progress bar with ETA and images/s, DVCLive's files under reports/train, event files under
    runs/ if wanted; on the others nothing.

    Images/s go to the terminal only: a file with a clock in it would differ from run to run.
    """

    def __init__(self, ranks: Ranks, images: int, done: int, *, tensorboard: bool) -> None:
        """`images`: how many will be trained on in all; `done`: how many were, by a run that this one resumes.

        Raises StageError when TensorBoard is wanted but missing.
        """
        self.writer: Any = None
        if tensorboard and ranks.first:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise StageError("runtime.tensorboard is on: `.venv/bin/pip install tensorboard` first") from error
            self.writer = SummaryWriter(TENSORBOARD_DIR)
        disable = None if ranks.first else True
        self.bar = tqdm(total=images, initial=done, desc="train", unit="img", smoothing=0.1, disable=disable)
        self.live = Live(str(LIVE_DIR), report=None, save_dvc_exp=False, dvcyaml=None) if ranks.first else None

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        if self.live is None:
            return
        for name, value in metrics.items():
            self.live.log_metric(name, round(value, 6))
            if self.writer is not None:
                self.writer.add_scalar(name, value, epoch)
        self.live.next_step()
        self.bar.write(f"epoch {epoch + 1}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))

    def close(self) -> None:
        for part in (self.bar, self.writer):
            if part is not None:
                part.close()
        if self.live is not None:
            self.live.end()
