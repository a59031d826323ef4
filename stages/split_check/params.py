"""What the split_check stage reads of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from stages.common.base.params import Data, IdRegex, OpenShare, Share, strict

Policy = Literal["fail", "drop", "warn"]


@strict
class SplitCheckParams:
    on_unreadable: Literal["fail", "drop"]
    on_leak: Policy
    on_conflict: Policy
    on_duplicate: Policy
    hash_radius: Annotated[int, Field(ge=0, le=15)]
    similarity: OpenShare
    source_regex: IdRegex | None
    shortcut_auc_warn: Annotated[float, Field(ge=0.5, le=1)]
    small_below: Annotated[int, Field(ge=0)]
    dark_below: Share
    contrast_below: Share
    sharpness_below: Annotated[float, Field(ge=0)]


@strict
class Params:
    data: Data
    split_check: SplitCheckParams
