"""`python -m tools.verify [--keep]`: does the pipeline still make what dvc.lock says?

Clones HEAD into a temporary folder (below TMPDIR), runs every stage there with the Python that runs this, and compares
the md5 of every output with dvc.lock. Nothing here is changed: neither files nor git nor DVC's cache. Outputs that hold
times, which a stage lists in dvc.yaml under `meta: {timings: [...]}`, are made but not compared. Where bits differ from
a dvc.lock that was made on another processor, all runs once more, and the two runs here are compared instead.

Exit code:
  0  every output is the same to the bit
  1  outputs differ, or dvc.lock belongs to other code, params or photos
  2  it could not be verified: a stage failed, the photos cannot be had, this is no DVC repository
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from serving.photo.cores import processor
from serving.verdict.errors import UserError
from tools.shell import DVC, CommandError, ask
from tools.verify.locks import FINE, Lock, compare, table

MEASURED = "reports/benchmark.json"  # names the processor that made dvc.lock; holds times, so it is not compared
_RUNS = re.compile(r"Running stage '(.+)':")


class VerifyError(UserError):
    """It could not be verified; the message says what stands in the way."""


class StaleError(UserError):
    """dvc.lock is not of HEAD's code, params and photos."""


@contextmanager
def scratch(keep: bool) -> Iterator[Path]:
    """A temporary folder, gone at the end whatever happens, unless it is to be kept."""
    folder = Path(tempfile.mkdtemp(prefix="dirtycar-verify-"))
    try:
        yield folder
    finally:
        if keep:
            print(f"the clone is kept in {folder}")
        else:
            shutil.rmtree(folder)


def environment(folder: Path) -> dict[str, str]:
    """This environment with this Python first, and nothing that leads git, DVC or Python back to another folder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "DVC_")) and k != "PYTHONPATH"}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return kept | {"PATH": path, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(folder / "site")}


def clone(root: Path, folder: Path, env: dict[str, str]) -> Path:
    """HEAD of a repository, cloned, with its photos: from the repository's own DVC cache, else from the remote."""
    target = folder / "clone"
    commit = ask(["git", "rev-parse", "HEAD"], root, env)
    ask(["git", "clone", "--quiet", "--no-checkout", str(root), str(target)], folder, env)
    ask(["git", "checkout", "--quiet", "--detach", commit], target, env)
    tracked = ask(["git", "ls-files", "*.dvc"], target, env).splitlines()
    if tracked:
        ask([*DVC, "config", "--local", "cache.dir", ask([*DVC, "cache", "dir"], root, env)], target, env)
        try:
            ask([*DVC, "checkout", *tracked], target, env)
        except CommandError:  # not all of it is there; what is missing must not be fetched into somebody else's cache
            ask([*DVC, "config", "--local", "--unset", "cache.dir"], target, env)
            ask([*DVC, "pull", *tracked], target, env)
    return target


def reproduce(target: Path, env: dict[str, str]) -> Lock:
    """Run every stage, without the run-cache and without a cache for the outputs; the stages of dvc.lock afterwards.

    Raises VerifyError when one fails or does not run. Stopped, it stops them too.
    """
    command = [*DVC, "repro", "--force", "--no-run-cache", "--no-commit"]
    ran = set()
    process = subprocess.Popen(command, cwd=target, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            ran |= set(_RUNS.findall(line))
        if process.wait() != 0:
            raise VerifyError("`dvc repro` failed; what it said stands above")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    lock: Lock = locked(target)
    if idle := set(lock) - ran:
        raise VerifyError(f"{', '.join(sorted(idle))} did not run")
    return lock


def locked(target: Path) -> Lock:
    """The stages of dvc.lock."""
    lock: Lock = yaml.safe_load((target / "dvc.lock").read_text())["stages"]
    return lock


def made_on(target: Path) -> str | None:
    """The processor that HEAD's reports name, or None where they do not."""
    path = target / MEASURED
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return report.get("processor")


def same(before: Lock, after: Lock, timings: set[str]) -> bool:
    """Show how two runs compare; whether every output is the same."""
    rows = compare(before, after, timings)
    wrong = [row for row in rows if row.verdict not in FINE]
    equal = sum(row.verdict == "same" for row in rows)
    print(f"\n{table(rows)}\n\n{equal} outputs the same, {sum(row.verdict == 'DIFFERENT' for row in wrong)} DIFFERENT")
    if any(row.verdict != "DIFFERENT" for row in wrong):
        raise StaleError("dvc.lock was made from other inputs than HEAD's: `dvc repro`, commit dvc.lock and reports/")
    return not wrong


def verify(root: Path, *, keep: bool) -> int:
    """Verify the repository at `root`; the exit code. Raises VerifyError, StaleError or CommandError."""
    with scratch(keep) as folder:
        env = environment(folder)
        if changes := ask(["git", "--no-optional-locks", "status", "--porcelain"], root, env):
            print(f"WARNING: HEAD is verified, without what is not committed:\n{changes}\n", file=sys.stderr)
        target = clone(root, folder, env)
        pipeline = yaml.safe_load((target / "dvc.yaml").read_text())["stages"]
        timings = {path for stage in pipeline.values() for path in stage.get("meta", {}).get("timings", [])}
        before, there, here = locked(target), made_on(target), processor()
        once = reproduce(target, env)
        if same(before, once, timings):
            print("every output is the same to the bit")
            return 0
        if there in (None, here):
            return 1
        print(f"dvc.lock was made elsewhere, on {there}; this is {here}. Do two runs here agree?")
        return 0 if same(once, reproduce(target, env), timings) else 1


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.verify", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--keep", action="store_true", help="keep the clone, to look into it")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that it cleans up
    try:
        return verify(Path.cwd(), keep=arguments.keep)
    except StaleError as error:
        print(f"verify: {error}", file=sys.stderr)
        return 1
    except (UserError, OSError) as error:
        print(f"verify: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
