"""How far a training run is, and the epoch it keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from stages.common.base.errors import StageError


@dataclass
class Kept:
    """The epoch whose weights are kept, with its AUC on the held-out photos."""

    auc: float = -1.0
    epoch: int = -1
    weights: dict[str, Tensor] = field(default_factory=dict)

    def update(self, keep: str, auc: float, epoch: int, model: nn.Module) -> None:
        """Keep a copy of the model: for keep `last` always, for `best` where its AUC is at least the best so far."""
        if keep == "last" or auc >= self.auc:
            # Plain contiguous CPU tensors: the checkpoint does not depend on the device it was trained on.
            weights = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
            self.auc, self.epoch, self.weights = auc, epoch, weights


@dataclass
class Progress:
    """How far a run is: `step` steps into `epoch`, with the loss of each, and what became of the epochs before."""

    epoch: int = 0
    step: int = 0
    losses: list[Tensor] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    kept: Kept = field(default_factory=Kept)

    def mean_loss(self) -> float:
        """Of this epoch. Raises StageError when it is no number any more."""
        mean = float(torch.stack(self.losses).mean())
        if not math.isfinite(mean):
            raise StageError(f"the loss is {mean} in epoch {self.epoch + 1}; lower train.lr, or set train.amp: off")
        return mean

    @classmethod
    def from_state(cls, state: dict[str, Any], device: torch.device) -> Progress:
        """What `dataclasses.asdict` made of one, with its tensors on the device again."""
        losses = [loss.to(device) for loss in state["losses"]]
        return cls(**state | {"losses": losses, "kept": Kept(**state["kept"])})

    def next_epoch(self, metrics: dict[str, float]) -> None:
        """This epoch is over."""
        self.history.append(metrics)
        self.epoch, self.step, self.losses = self.epoch + 1, 0, []
