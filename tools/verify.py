"""`python -m tools.verify`: does the pipeline still make what dvc.lock says?

Clones HEAD into a temporary folder (below TMPDIR), runs every stage there with the Python that runs this, and compares
the md5 of every output with dvc.lock. Nothing here is changed: neither files nor git nor DVC's cache. Outputs that hold
times, which a stage lists in dvc.yaml under `meta: {timings: [...]}`, are made but not compared. Where bits differ from
a dvc.lock that was made on another processor, all runs once more, and the two runs here are compared instead.

Exit code:
  0  every output is the same to the bit
  1  outputs differ, or dvc.lock belongs to other code, params or photos
  2  it could not be verified: a stage failed, the photos cannot be had, this is no DVC repository
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from serving.inference.photo.cores import processor
from serving.inference.verdict.errors import UserError
from tools.shell import DVC, CommandError, ask

MEASURED = "reports/benchmark.json"  # names the processor that made dvc.lock

Lock = Mapping[str, Any]  # `stages` of a dvc.lock


class StaleError(UserError):
    """dvc.lock is not of HEAD's code, params and photos."""


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

    Raises UserError when one fails. Stopped, it stops them too.
    """
    command = [*DVC, "repro", "--force", "--no-run-cache", "--no-commit"]
    process = subprocess.Popen(command, cwd=target, env=env, start_new_session=True)
    try:
        if process.wait() != 0:
            raise UserError("`dvc repro` failed; its output is above")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return locked(target)


def locked(target: Path) -> Lock:
    lock: Lock = yaml.safe_load((target / "dvc.lock").read_text())["stages"]
    return lock


def digests(lock: Lock, kind: str) -> dict[str, str]:
    """Path -> md5 of the `deps` or `outs` of all stages."""
    return {entry["path"]: entry["md5"] for stage in lock.values() for entry in stage.get(kind, [])}


def same(before: Lock, after: Lock, timings: set[str]) -> bool:
    """Print which outputs differ between two runs; whether none does. Raises StaleError where the inputs differ."""
    was, now = digests(before, "outs"), digests(after, "outs")
    different = sorted(path for path in now if path not in timings and was.get(path) != now[path])
    print(f"\n{len(now.keys() - timings) - len(different)} outputs the same, {len(different)} DIFFERENT")
    print("".join(f"  {path}\n" for path in different), end="")
    old = digests(before, "deps")
    inputs = [path for path, md5 in digests(after, "deps").items() if path not in now and old.get(path) != md5]
    inputs += [
        f"{key} of {name}"
        for name, stage in after.items()
        for key in ("cmd", "params")
        if before.get(name, {}).get(key) != stage.get(key)
    ]
    if inputs:
        raise StaleError(
            f"dvc.lock was made from other inputs than HEAD's: {', '.join(sorted(inputs))}; `dvc repro`, then commit "
            "dvc.lock and reports/"
        )
    return not different


def verify(root: Path) -> int:
    """Verify the repository at `root`; the exit code. Raises UserError."""
    with tempfile.TemporaryDirectory(prefix="dirtycar-verify-") as name:
        folder = Path(name)
        env = environment(folder)
        if changes := ask(["git", "--no-optional-locks", "status", "--porcelain"], root, env):
            print(f"WARNING: HEAD is verified, without what is not committed:\n{changes}\n", file=sys.stderr)
        target = clone(root, folder, env)
        pipeline = yaml.safe_load((target / "dvc.yaml").read_text())["stages"]
        timings = {path for stage in pipeline.values() for path in stage.get("meta", {}).get("timings", [])}
        measured, here = target / MEASURED, processor()
        there = json.loads(measured.read_text()).get("processor") if measured.exists() else None
        before, once = locked(target), reproduce(target, env)
        if same(before, once, timings):
            print("every output is the same to the bit")
            return 0
        if there in (None, here):
            return 1
        print(f"dvc.lock was made elsewhere, on {there}; this is {here}. Do two runs here agree?", flush=True)
        return 0 if same(once, reproduce(target, env), timings) else 1


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that it cleans up
    try:
        return verify(Path.cwd())
    except (UserError, OSError) as error:
        print(f"verify: {error}", file=sys.stderr)
        return 1 if isinstance(error, StaleError) else 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
