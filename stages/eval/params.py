"""What the eval stage reads of params.yaml."""

from typing import Annotated

from pydantic import Field

from stages.common.base.params import Data, NonNegative, strict


@strict
class EvalParams:
    bootstrap: Annotated[int, Field(ge=20)]
    bins: Annotated[int, Field(ge=2)]
    seed: NonNegative


@strict
class Params:
    data: Data
    eval: EvalParams
