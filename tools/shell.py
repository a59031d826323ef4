"""Commands of git and DVC."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving.inference.verdict.errors import UserError

DVC = (sys.executable, "-m", "dvc")


class CommandError(UserError):
    """A command failed; the message holds what it complained of."""


def ask(command: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """What a command prints. Raises CommandError with what it complains of."""
    env = dict(os.environ if env is None else env)
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CommandError(f"`{' '.join(command[-3:])}` failed: {done.stderr.strip()}")
    return done.stdout.rstrip()
