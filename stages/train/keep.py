"""Which epoch's weights are kept."""

from collections import Counter
from dataclasses import dataclass, field

from torch import Tensor, nn

from serving.inference.verdict.rule import CLASSES
from stages.common.base.photos import Photo

ENOUGH = 200  # held-out photos of each class; with fewer, AUC ranks the epochs by noise


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


def by_class(photos: list[Photo]) -> Counter[str]:
    """How many photos of each class there are."""
    return Counter(CLASSES[photo.label] for photo in photos)


def can_rank_epochs(held: list[Photo]) -> bool:
    """Whether there are enough held-out photos for `train.keep: best`."""
    return min(by_class(held)[name] for name in CLASSES) >= ENOUGH
