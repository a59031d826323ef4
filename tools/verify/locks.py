"""Two dvc.lock files of one pipeline side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Lock = Mapping[str, Any]
Verdict = Literal["same", "DIFFERENT", "input changed", "not in dvc.lock", "not compared"]

FINE: tuple[Verdict, ...] = ("same", "not compared")


@dataclass(frozen=True)
class Compared:
    """One file or folder of a stage, by its path as dvc.lock has it."""

    stage: str
    path: str
    verdict: Verdict


def compare(before: Lock, after: Lock, timings: Collection[str]) -> list[Compared]:
    """Every output of every stage, and the inputs that are not what dvc.lock was made from.

    `before` and `after` are the `stages` of two dvc.lock files; the outputs `timings` are not compared.
    """
    made = {out["path"] for stage in after.values() for out in stage.get("outs", [])}
    rows = []
    for name, stage in after.items():
        old = before.get(name)
        if old is None:
            rows += [Compared(name, out["path"], "not in dvc.lock") for out in stage.get("outs", [])]
            continue
        was, now = _digests(old, "deps"), _digests(stage, "deps")
        changed = [path for path in {**was, **now} if path not in made and was.get(path) != now.get(path)]
        if old["cmd"] != stage["cmd"] or old.get("params") != stage.get("params"):
            changed.append("cmd or params")
        rows += [Compared(name, path, "input changed") for path in sorted(changed)]
        was = _digests(old, "outs")
        for path, digest in _digests(stage, "outs").items():
            verdict: Verdict = "same" if was.get(path) == digest else "DIFFERENT"
            rows.append(Compared(name, path, "not compared" if path in timings else verdict))
    return rows


def table(rows: Collection[Compared]) -> str:
    """The rows under a heading, in columns."""
    cells = [("stage", "output", ""), *((row.stage, row.path, row.verdict) for row in rows)]
    stage, path = (max(len(cell[i]) for cell in cells) for i in (0, 1))
    return "\n".join(f"{a:{stage}}  {b:{path}}  {c}".rstrip() for a, b, c in cells)


def _digests(stage: Lock, kind: str) -> dict[str, str]:
    """Path -> md5 of a stage's `deps` or `outs`."""
    return {entry["path"]: entry[entry.get("hash", "md5")] for entry in stage.get(kind, [])}
