"""Copying photos into a new folder that is there whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from stages.common.base.errors import StageError


def check_target(source: Path, target: Path) -> None:
    """Raises StageError where `target` has files, or lies in `source` or around it."""
    here, there = source.resolve(), target.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise StageError(f"{target} and {source} lie in each other; name another target with TO=")
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise StageError(f"{target} exists and is not an empty folder; remove it, or name another target with TO=")


def copy(source: Path, target: Path, split_of: Mapping[str, str]) -> None:
    """Copy every photo to `target`/split/class. Raises OSError, and leaves no `target`, when one cannot be copied."""
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for name, split in tqdm(sorted(split_of.items()), desc="copy", unit="photo", disable=None):
            place = building / split / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, place)
        os.sync()
        building.chmod(0o755)  # mkdtemp lets nobody else in
        building.replace(target)  # an empty folder is replaced, any other is an error
    finally:
        shutil.rmtree(building, ignore_errors=True)
