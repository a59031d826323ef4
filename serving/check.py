"""`python -m serving.check FOLDER`: can this pair be served here and under these settings?"""

from __future__ import annotations

import sys
from pathlib import Path

from serving.expected import ExpectedError
from serving.pair import files
from serving.served import load
from serving.settings import Settings


def main() -> int:
    """0 when the pair of best.onnx and threshold.json in the folder can be served, else 1 with why in the last line."""
    folder = Path(sys.argv[1])
    try:
        load(Settings.from_env(), *files(folder))
    except ExpectedError as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
