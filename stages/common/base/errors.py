"""Errors a user can mend, and how a stage says them: one message, exit code 1, no traceback."""

import logging
import sys
from collections.abc import Callable

from serving.inference.verdict.errors import UserError


class StageError(UserError):
    """Something the user can mend; the message names the file, folder or key and says what to do."""


def run_stage(name: str, main: Callable[[], None]) -> None:
    """Run a stage's `main`, say what it logs, and turn an expected error into one clear message and exit code 1.

    OSError is expected too (no permission, disk full): its message names the file. Anything else is a defect of ours
    and keeps its traceback.
    """
    logging.basicConfig(level=logging.WARNING, format=f"{name}: %(levelname)s: %(message)s", stream=sys.stderr)
    try:
        main()
    except (UserError, OSError) as error:
        print(f"\n{name}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted", file=sys.stderr)
        sys.exit(130)  # what shells expect
