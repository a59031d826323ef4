"""The same network in several precisions: how well each ranks held-out photos beside the checkpoint, and its speed.

Scores are logits, `[N]`.
"""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.stats import norm, rankdata, spearmanr

from serving.inference.model.predictor import Network

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CONFIDENCE = 0.95
ROUNDS = 5  # of the stopwatch


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Ranking:
    """A candidate against the checkpoint on the same photos."""

    roc_auc: float
    auc_loss: Interval
    rank_correlation: float  # Spearman's, of the scores
    max_logit_difference: float
    dirty_photos_needed: int | None  # for an interval of no more than the limit to either side; None: no telling


def compare(is_clean: Bools, checkpoint: Floats, candidate: Floats, max_auc_loss: float) -> Ranking:
    """Compare two sets of finite scores of the same photos, both classes among them.

    The interval of the difference of two AUCs on the same photos is that of DeLong et al. (1988). Its variance is zero
    where both scores separate the classes: such photos cannot tell.
    """
    clean_before, dirty_before = placements(is_clean, checkpoint)
    clean_after, dirty_after = placements(is_clean, candidate)
    lost = [clean_before - clean_after, dirty_before - dirty_after]
    loss = float(lost[0].mean())
    error = float(np.sqrt(sum(part.var(ddof=1) / len(part) if len(part) > 1 else 0.25 for part in lost)))
    spread = float(norm.ppf((1 + CONFIDENCE) / 2)) * error
    needed = int(np.ceil(len(lost[1]) * (spread / max_auc_loss) ** 2)) if max_auc_loss else None
    return Ranking(
        roc_auc=float(clean_after.mean()),
        auc_loss=Interval(loss, loss - spread, loss + spread),
        rank_correlation=float(spearmanr(checkpoint, candidate).statistic) if np.ptp(candidate) else 0.0,
        max_logit_difference=float(np.abs(candidate - checkpoint).max()),
        dirty_photos_needed=needed if spread else None,
    )


def placements(is_clean: Bools, score: Floats) -> tuple[Floats, Floats]:
    """For each clean photo the share of dirty ones below it, for each dirty one the share of clean ones above it; ties
    count half. The mean of either is the AUC. By ranks, as in Sun & Xu (2014)."""
    clean, dirty = score[is_clean], score[~is_clean]
    ranks = rankdata(score)
    below = (ranks[is_clean] - rankdata(clean)) / len(dirty)
    above = 1 - (ranks[~is_clean] - rankdata(dirty)) / len(clean)
    return below, above


@dataclass(frozen=True)
class Judged:
    """A candidate on the held-out photos; without a ranking where its answers are no numbers."""

    passed: bool
    why: str
    ranking: Ranking | None


@dataclass(frozen=True)
class Candidate:
    """A network in one precision: its graph, its logit loaded as the service would load it, and how that was judged."""

    graph: onnx.ModelProto
    network: Network
    judged: Judged

    def row(self) -> dict[str, Any]:
        """For the report."""
        ranking = asdict(self.judged.ranking) if self.judged.ranking else {}
        return {"passed": self.judged.passed, "why": self.judged.why, **ranking, "size_bytes": self.graph.ByteSize()}


def load(content: bytes) -> Network:
    """Raises ModelError where ONNX Runtime cannot."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "candidate.onnx")
        path.write_bytes(content)
        return Network(path)


def judge(is_clean: Bools, checkpoint: Floats, candidate: Floats, max_auc_loss: float) -> Judged:
    """Whether a candidate's logits `[N]` rank the held-out photos as the checkpoint's do.

    A loss must be shown to refuse one: the whole interval lies above the limit. A handful of photos puts any estimate
    above it by chance, and what they cannot show is said. The promise does not hang on it: T_clean is certified on the
    scores of the very network that passed, so a loss that went unseen costs recall.
    """
    if wrong := int((~np.isfinite(candidate)).sum()):
        return Judged(False, f"NaN or infinity for {wrong} of {len(candidate)} held-out photos", None)
    found = compare(is_clean, checkpoint, candidate, max_auc_loss)
    loss = found.auc_loss
    said = f"AUC {found.roc_auc:.4f}, {loss.value:.4f} lost (95 % interval {loss.low:.4f} to {loss.high:.4f})"
    if loss.low > max_auc_loss:
        return Judged(False, f"{said}, more than convert.max_auc_loss {max_auc_loss:g}", found)
    if loss.low == loss.high:
        said += "; no photo moved past one of the other class, so the AUC tells little"
    elif loss.high > max_auc_loss:
        dirty, needed = int((~is_clean).sum()), found.dirty_photos_needed
        said += f"; {dirty} dirty held-out photos cannot tell whether more than {max_auc_loss:g} is lost"
        said += f", about {needed} can" if needed and needed > dirty else ""
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
