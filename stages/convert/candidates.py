"""The same network in several precisions: made, run on held-out photos as it would be served, and judged."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.model.predictor import Network
from stages.convert.ranking import Bools, Floats, Ranking, compare

ROUNDS = 5  # of the stopwatch


@dataclass(frozen=True)
class Judged:
    """A candidate on the held-out photos; without a ranking where its answers are no numbers."""

    passed: bool
    why: str
    ranking: Ranking | None


@dataclass(frozen=True)
class Candidate:
    """A network in one precision: the file, loaded as the service would load it, and how it was judged."""

    content: bytes
    network: Network
    judged: Judged

    def row(self) -> dict[str, Any]:
        """For the report."""
        ranking = asdict(self.judged.ranking) if self.judged.ranking else {}
        return {"passed": self.judged.passed, "why": self.judged.why, **ranking, "size_bytes": len(self.content)}


def load(content: bytes) -> Network:
    """Raises ModelError where ONNX Runtime cannot."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "candidate.onnx")
        path.write_bytes(content)
        return Network(path)


def judge(is_clean: Bools, checkpoint: Floats, candidate: Floats, max_auc_loss: float) -> Judged:
    """Whether a candidate's logits `[N]` rank the held-out photos as the checkpoint's do.

    The estimate decides, not its interval: a handful of held-out photos would refuse everything. What the photos
    cannot show is said.
    """
    if wrong := int((~np.isfinite(candidate)).sum()):
        return Judged(False, f"NaN or infinity for {wrong} of {len(candidate)} held-out photos", None)
    found = compare(is_clean, checkpoint, candidate, max_auc_loss)
    loss = found.auc_loss
    said = f"AUC {found.roc_auc:.4f}, {loss.value:.4f} lost (95 % interval {loss.low:.4f} to {loss.high:.4f})"
    if loss.value > max_auc_loss:
        return Judged(False, f"{said}, more than convert.max_auc_loss {max_auc_loss:g}", found)
    if loss.low == loss.high:
        said += "; no photo moved past one of the other class, so the AUC tells little"
    elif loss.high > max_auc_loss:
        said += f"; {(~is_clean).sum()} dirty held-out photos cannot show that no more than {max_auc_loss:g} is lost"
        said += f", about {found.dirty_photos_needed} would" if found.dirty_photos_needed else ""
    return Judged(True, said, found)


def photos_per_second(networks: Mapping[str, Network], images: NDArray[np.uint8]) -> dict[str, float]:
    """Model calls alone, on every core: the candidates in turn, the best round of each."""
    best = dict.fromkeys(networks, float("inf"))
    for _ in range(ROUNDS):
        for name, network in networks.items():
            start = time.perf_counter()
            network.run(images)
            best[name] = min(best[name], time.perf_counter() - start)
    return {name: len(images) / seconds for name, seconds in best.items()}
