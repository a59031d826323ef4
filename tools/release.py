"""`python -m tools.release VERSION`: publish the certified model of HEAD, for clones and for DVC's model registry.

`python -m tools.release VERSION --stage prod` assigns a stage to a released version. Both are annotated tags of the
convention that GTO and DVC's registry read: `dirty-car@v1.2.0` and `dirty-car#prod#1`. The files go to the remote that
dvc.yaml names for them. Where that is a folder of this repository they stay in its history: release what will be used.

`dvc artifacts get` reads the configuration inside a tag. There DVC 3.67 takes the root of the repository for that of
the local disk (`Config._load_paths`): `../samples/remote` becomes `/samples/remote`. So the artifact in dvc.yaml is a
copy of the model in git; samples/remote holds the same bytes, so that they are in the history once. With a remote that
has a URL, the artifact can be artifacts/best.onnx itself.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import dvc.api
import yaml
from gto import api as gto
from gto.exceptions import GTOException

from serving.inference.verdict.errors import UserError
from stages.common.base.files import write_bytes
from tools.shell import DVC, CommandError, ask

NAME = "dirty-car"  # under `artifacts:` in dvc.yaml
MODEL, THRESHOLD, REPORT = "artifacts/best.onnx", "artifacts/threshold.json", "reports/threshold.json"
STORE = Path("samples/remote/files/md5")  # the objects of the remote that is in this repository
_VERSION = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}")
_STAGE = re.compile(r"[a-z][a-z0-9-]*[a-z0-9]")


def tag_of(version: str) -> str:
    """The tag of a version. Raises UserError unless it is three numbers, as 1.2.0."""
    if not _VERSION.fullmatch(version):
        raise UserError(f"VERSION={version} is not three numbers, as in 1.2.0")
    return f"{NAME}@v{version}"


def check_certified(root: Path, revision: str) -> None:
    """Raises UserError unless the report of a revision, which is in git, says that its threshold is certified."""
    try:
        certified = json.loads(ask(["git", "show", f"{revision}:{REPORT}"], root))["certified"]
    except (CommandError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"cannot read {REPORT} of {revision}: {error}") from error
    if certified is not True:
        raise UserError(f"the model of {revision} is not certified; its {REPORT} says what it would take")


def check_committed(root: Path) -> None:
    """Raises UserError for changes that are not committed, and where a stage would run: HEAD is then not what made
    the model."""
    if changes := ask(["git", "status", "--porcelain"], root):
        raise UserError(f"the tree is not clean; commit or remove:\n{changes}")
    if stale := re.findall(r"Running stage '(.+)'", ask([*DVC, "repro", "--dry", "--allow-missing"], root)):
        raise UserError(f"dvc.lock is not current: {', '.join(stale)}; `dvc repro`, commit dvc.lock and reports/")


def release(root: Path, version: str) -> str:
    """Publish HEAD's model and threshold, and tag the commit that holds them; the tag.

    Raises UserError for a version that exists, a tree that is not clean, a lock file that is not current or a model
    that is not certified; CommandError where git or DVC fails.
    """
    tag = tag_of(version)
    if ask(["git", "tag", "--list", tag], root):
        raise UserError(f"{tag} exists already; a released version never changes")
    check_committed(root)
    check_certified(root, "HEAD")
    ask([*DVC, "push", MODEL, THRESHOLD], root)
    published = stored(root)
    if (copy := yaml.safe_load((root / "dvc.yaml").read_text())["artifacts"][NAME]["path"]) != MODEL:
        write_bytes(root / copy, dvc.api.read(MODEL, str(root), mode="rb"))
        published.append(copy)
    if published:
        ask(["git", "add", "--force", *published], root)  # ignored, so that nothing else is published by accident
        if ask(["git", "status", "--porcelain"], root):
            ask(["git", "commit", "--quiet", "--message", f"Release {NAME} {version}"], root)
    gto.register(root, NAME, "HEAD", version=f"v{version}", message=f"{NAME} {version}")
    return tag


def stored(root: Path) -> list[str]:
    """The model and the threshold of dvc.lock in the remote that is in this repository, where it has them."""
    stages = yaml.safe_load((root / "dvc.lock").read_text())["stages"].values()
    digests = [out["md5"] for stage in stages for out in stage.get("outs", []) if out["path"] in (MODEL, THRESHOLD)]
    paths = [STORE / digest[:2] / digest[2:] for digest in digests]
    return [str(path) for path in paths if (root / path).is_file()]


def promote(root: Path, version: str, stage: str) -> str:
    """Assign a stage, such as prod, to a released version; the tag. Raises UserError where that is not certified."""
    tag = tag_of(version)
    if not _STAGE.fullmatch(stage):
        raise UserError(f"STAGE={stage} is no name of small letters and digits, as prod")
    if not ask(["git", "tag", "--list", tag], root):
        raise UserError(f"{tag} is not released; `git fetch --tags` gets what others released")
    check_certified(root, tag)
    message = f"{NAME} {version} to {stage}"
    return str(gto.assign(root, NAME, stage, version=f"v{version}", message=message).tag)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.release", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("version", help="three numbers, as 1.2.0")
    parser.add_argument("--stage", help="assign this stage to the version instead")
    args = parser.parse_args(arguments)
    try:
        tag = promote(Path.cwd(), args.version, args.stage) if args.stage else release(Path.cwd(), args.version)
    except (UserError, GTOException, OSError) as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    print(f"tagged {tag}; `git push --follow-tags` publishes it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
