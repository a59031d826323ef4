"""Where training says how it goes: DVCLive, TensorBoard, a progress bar; on the first process only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dvclive import Live
from tqdm import tqdm

from stages.common.base.errors import StageError
from stages.common.base.paths import REPORTS

LIVE_DIR, TENSORBOARD_DIR = REPORTS / "train", Path("runs")


class SilentLog:
    """What the other processes log to: nowhere."""

    def __enter__(self) -> SilentLog:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to close."""

    def images(self, count: int) -> None:
        """`count` images were trained on."""

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """An epoch is over."""


class Log(SilentLog):
    """A progress bar with ETA and images/s, DVCLive's files under reports/train, event files under runs/ if wanted.

    Images/s go to the terminal only: a file with a clock in it would differ from run to run.
    """

    def __init__(self, images: int, done: int, *, tensorboard: bool) -> None:
        """`images`: how many will be trained on in all; `done`: how many were, by a run that this one goes on from.

        Raises StageError when TensorBoard is wanted but missing.
        """
        self.writer: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise StageError("runtime.tensorboard is on: `.venv/bin/pip install tensorboard` first") from error
            self.writer = SummaryWriter(TENSORBOARD_DIR)
        self.live = Live(str(LIVE_DIR), report=None, save_dvc_exp=False, dvcyaml=None)
        self.bar = tqdm(total=images, initial=done, desc="train", unit="img", smoothing=0.1, disable=None)

    def __exit__(self, *error: object) -> None:
        self.bar.close()
        self.live.end()
        if self.writer is not None:
            self.writer.close()

    def images(self, count: int) -> None:
        self.bar.update(count)

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self.live.log_metric(name, round(value, 6))
            if self.writer is not None:
                self.writer.add_scalar(name, value, epoch)
        self.live.next_step()
        self.bar.write(f"epoch {epoch + 1}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
