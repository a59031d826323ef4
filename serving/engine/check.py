"""`python -m serving.engine.check FOLDER`: can this copy of a model be served here and under these settings?"""

from __future__ import annotations

import sys
from pathlib import Path

from serving.engine.deployment import load
from serving.inference.verdict.errors import UserError
from serving.process.reload import CAN_BE_SERVED, files
from serving.settings import Settings


def main() -> int:
    """Says CAN_BE_SERVED of best.onnx, with the threshold.json beside it if any, else why not, in the last line."""
    folder = Path(sys.argv[1])
    try:
        load(Settings.from_env(), *files(folder))
    except UserError as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        return 1
    print(CAN_BE_SERVED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
