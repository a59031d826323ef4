"""Weights fitted to a network by name and shape."""

from dataclasses import dataclass

from timm.models._efficientnet_blocks import SqueezeExcite
from torch import nn

from stages.backbone.sources import Weights
from stages.common.base.errors import StageError
from stages.common.network.model import classifier_prefixes

OPEN = 4.0  # logit of a gate of 0.98


def without_head(weights: Weights, model: nn.Module, name: str) -> Weights:
    """The weights but for the classifier, whose outputs are ours. Raises StageError when they do not fit the model."""
    own = body_of(dict(model.state_dict()), model)
    body = body_of(weights, model)
    wrong = sorted((set(own) ^ set(body)) | {key for key in own.keys() & body if own[key].shape != body[key].shape})
    if wrong:
        raise StageError(f"the weights do not fit {name}: {len(wrong)} entries differ, first {', '.join(wrong[:3])}")
    return body


def body_of(weights: Weights, model: nn.Module) -> Weights:
    """The weights but for the model's classifier."""
    heads = classifier_prefixes(model)
    return {key: value.contiguous() for key, value in weights.items() if not key.startswith(heads)}


@dataclass(frozen=True)
class Partial:
    """A network's weights, of which those that fit come from a relative; counted without the classifier."""

    weights: Weights
    tensors: int  # that fit
    of_tensors: int
    parameter_share: float  # that fit, of all parameters


def fit_partially(donated: Weights, model: nn.Module) -> Partial:
    """The weights of `model`, replaced by those of a relative that have the same name and shape."""
    open_gates(model)
    own, donated = body_of(dict(model.state_dict()), model), body_of(donated, model)
    fitting = {key: donated[key] for key in own.keys() & donated if donated[key].shape == own[key].shape}
    parameters = {key: value.numel() for key, value in model.named_parameters() if key in own}
    share = sum(count for key, count in parameters.items() if key in fitting) / sum(parameters.values())
    return Partial(own | fitting, len(fitting), len(own), share)


def open_gates(model: nn.Module) -> None:
    """Start squeeze-excite as if it were absent, as in a relative that has none: random gates scale every block's
    output by about a half, which neither the relative's filters nor its batch norms were trained for."""
    for module in model.modules():
        if isinstance(module, SqueezeExcite):
            weight, bias = module.conv_expand.parameters()
            nn.init.zeros_(weight)
            nn.init.constant_(bias, OPEN)
