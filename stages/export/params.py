"""What the export stage reads of params.yaml."""

from __future__ import annotations

from stages.common.base.params import Data, strict


@strict
class Params:
    """What this stage reads of params.yaml."""

    data: Data
