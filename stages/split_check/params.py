"""What the split_check stage reads of params.yaml."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from stages.common.base.params import Data, OpenShare, Share, strict

Policy = Literal["fail", "drop", "warn"]


def _with_group(pattern: str) -> str:
    """Raises ValueError for a regular expression that is broken or has no group to read an id from."""
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from error
    if not groups:
        raise ValueError("needs a group in brackets around the id, as in 'car_([0-9]+)'")
    return pattern


IdRegex = Annotated[str, AfterValidator(_with_group)]


@strict
class SplitCheckParams:
    """The section `split_check`."""

    on_unreadable: Policy
    on_leak: Policy
    on_conflict: Policy
    on_duplicate: Policy
    hash_radius: Annotated[int, Field(ge=0, le=15)]
    similarity: OpenShare
    group_regex: IdRegex | None
    source_regex: IdRegex | None
    shortcut_auc_warn: Annotated[float, Field(ge=0.5, le=1)]
    dark_below: Share
    contrast_below: Share
    sharpness_below: Annotated[float, Field(ge=0)]


@strict
class Params:
    """What this stage reads of params.yaml."""

    data: Data
    split_check: SplitCheckParams
