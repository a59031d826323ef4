"""Small repositories of git and DVC."""

import contextlib
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.cli import main as dvc

from tests.support.workspace import ROOT


@contextlib.contextmanager
def environment(folder: Path, **more: str) -> Iterator[None]:
    """What git, DVC and the stages they run need, DVC's own files being below `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        for role in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{role}_NAME", "a")
            patch.setenv(f"GIT_{role}_EMAIL", "a@b")
        patch.setenv("DVC_NO_ANALYTICS", "1")
        patch.setenv("CI", "1")  # no process that looks for a new version, and outlives the test
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
        patch.setenv("DVC_SITE_CACHE_DIR", str(folder / "site"))
        for name, value in more.items():
            patch.setenv(name, value)
        yield


def do(folder: Path, *commands: str) -> str:
    """Run commands of git, and of DVC in this process, which saves its start; what the last one printed."""
    out = ""
    for command in commands:
        name, *words = command.split()
        if name == "dvc":
            said = io.StringIO()
            with contextlib.chdir(folder), contextlib.redirect_stdout(said):
                assert dvc(words) == 0, command
            out = said.getvalue().strip()
        else:
            done = subprocess.run([name, *words], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, done.stderr
            out = done.stdout.strip()
    return out
