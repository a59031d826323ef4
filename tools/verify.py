"""`python -m tools.verify [--keep] [--tolerance 0.01]`: does the pipeline still make what dvc.lock says?

Clones HEAD into a temporary folder (below TMPDIR), runs every stage there with the Python that runs this, and compares
the md5 of every output with dvc.lock. Nothing here is changed: neither files nor git nor DVC's cache. Outputs that hold
times, which a stage lists in dvc.yaml under `meta: {timings: [...]}`, are made but not compared.

Exit code:
  0  every output is the same to the bit
  1  outputs differ, or dvc.lock belongs to other code, params or photos
  2  it could not be verified: a stage failed, the photos cannot be had, this is no DVC repository
  3  outputs differ in bits, and all metrics agree within the tolerance, as on a CPU of another family
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from serving.expected import ExpectedError
from tools.locks import FINE, Compared, compare, metrics_apart, table

TOLERANCE = 0.01
DVC = (sys.executable, "-m", "dvc")
_RUNS = re.compile(r"Running stage '(.+)':")


class VerifyError(ExpectedError):
    """It could not be verified; the message says what stands in the way."""


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


def ask(command: Sequence[str], cwd: Path, env: dict[str, str]) -> str:
    """What a command prints. Raises VerifyError with what it complains of."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise VerifyError(f"`{' '.join(command[-3:])}` failed: {done.stderr.strip()}")
    return done.stdout.strip()


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
        except VerifyError:  # not all of it is there; what is missing must not be fetched into somebody else's cache
            ask([*DVC, "config", "--local", "--unset", "cache.dir"], target, env)
            ask([*DVC, "pull", *tracked], target, env)
    return target


def reproduce(target: Path, env: dict[str, str]) -> set[str]:
    """Run every stage, without the run-cache and without a cache for the outputs; the names of those that ran.

    Raises VerifyError when one fails. Stopped, it stops them too.
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
    return ran


def metrics_of(pipeline: dict[str, Any], timings: set[str]) -> list[str]:
    """The metrics files that dvc.yaml declares, but for those that hold times."""
    entries = [entry for stage in pipeline.values() for entry in stage.get("metrics", [])]
    paths = [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]
    return [path for path in paths if path not in timings]


def verdict(target: Path, rows: list[Compared], metrics: list[str], tolerance: float, env: dict[str, str]) -> int:
    """Say how it turned out; the exit code."""
    wrong = [row for row in rows if row.verdict not in FINE]
    same = sum(row.verdict == "same" for row in rows)
    if not wrong:
        print(f"\n{same} outputs, every one the same to the bit")
        return 0
    print(f"\n{same} outputs the same, {sum(row.verdict == 'DIFFERENT' for row in wrong)} DIFFERENT")
    if any(row.verdict != "DIFFERENT" for row in wrong):
        print("dvc.lock was made from other inputs than HEAD's: `dvc repro`, commit dvc.lock and reports/")
        return 1
    apart = []
    for path in metrics:
        before = ask(["git", "show", f"HEAD:{path}"], target, env)
        apart += [f"  {path}: {line}" for line in metrics_apart(before, (target / path).read_text(), tolerance)]
    if apart:
        print("\n".join([f"metrics beyond the tolerance of {tolerance:g}:", *apart]))
        return 1
    print(f"all metrics agree within {tolerance:g}: another CPU, GPU or library may well differ in the last bits")
    return 3


def verify(root: Path, *, keep: bool, tolerance: float) -> int:
    """Verify the repository at `root`; the exit code. Raises VerifyError."""
    with scratch(keep) as folder:
        env = environment(folder)
        if changes := ask(["git", "--no-optional-locks", "status", "--porcelain"], root, env):
            print(f"WARNING: HEAD is verified, without what is not committed:\n{changes}\n", file=sys.stderr)
        target = clone(root, folder, env)
        pipeline = yaml.safe_load((target / "dvc.yaml").read_text())["stages"]
        before = yaml.safe_load((target / "dvc.lock").read_text())["stages"]
        ran = reproduce(target, env)
        after = yaml.safe_load((target / "dvc.lock").read_text())["stages"]
        if idle := set(after) - ran:
            raise VerifyError(f"{', '.join(sorted(idle))} did not run")
        timings = {path for stage in pipeline.values() for path in stage.get("meta", {}).get("timings", [])}
        rows = compare(before, after, timings)
        print(f"\n{table(rows)}")
        return verdict(target, rows, metrics_of(pipeline, timings), tolerance, env)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.verify", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--keep", action="store_true", help="keep the clone, to look into it")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="of metrics, where bits differ")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that it cleans up
    try:
        return verify(Path.cwd(), keep=arguments.keep, tolerance=arguments.tolerance)
    except (ExpectedError, OSError) as error:
        print(f"verify: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
