"""What the export stage reads of params.yaml."""

from stages.common.base.params import Data, strict


@strict
class ExportParams:
    """The section `export`: what no stage can measure, for the model card."""

    intended_use: str
    out_of_scope: str
    contact: str


@strict
class Params:
    data: Data
    export: ExportParams
