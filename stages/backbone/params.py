"""What the backbone stage reads of params.yaml."""

from typing import Literal

from stages.common.base.params import ModelName, NonNegative, strict


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
