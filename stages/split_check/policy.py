"""What to do about what was found: stop, leave photos out, or warn.

What may be left out, and from where:
- unreadable: wherever they are, test too, since nobody can score them;
- leak: from train if another copy is in val or test, from val if one is in test; never from test;
- conflict: every copy, since nobody knows which label is right; but none from test;
- duplicate: exact copies within a split under one label, all but the first; but none from test.
Test is what results are compared on: it is never thinned but for files that cannot be read, and what stays is said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from stages.common.base.photos import SPLITS
from stages.split_check.groups import EXACT, Group, Link, components
from stages.split_check.params import Policy, SplitCheckParams
from stages.split_check.scan import Scanned

MAX_LINES = 50  # of each defect in a message, and names in a line; artifacts/findings.json has more

Defect = Literal["unreadable", "conflict", "leak", "duplicate"]

_HEADINGS: dict[Defect, str] = {
    "unreadable": "unreadable files; replace or remove them",
    "conflict": "the same photo with both labels; keep it under the right one",
    "leak": "the same photo in several splits, or the same car, which makes every score too good; keep it in one",
    "duplicate": "the same photo twice in one folder; remove one, or set split_check.on_duplicate: warn",
}


@dataclass(frozen=True, order=True)
class Exclusion:
    """A photo that is left out, and why."""

    path: str
    defect: Defect
    detail: str

    @property
    def reason(self) -> str:
        """In words, for the list."""
        return f"{self.defect}: {self.detail}"


@dataclass(frozen=True)
class Ruling:
    """What one kind of defect comes to: what was found, in words, and what to do about it."""

    defect: Defect
    policy: Policy
    found: tuple[str, ...]  # a line for each
    kept_in_test: int  # photos that would have to go, were they not in test
    excluded: tuple[Exclusion, ...]

    def __str__(self) -> str:
        return f"{len(self.found)} {_HEADINGS[self.defect]}:\n  " + "\n  ".join(bounded(self.found))


def judge(
    scanned: Sequence[Scanned], links: Sequence[Link], groups: Sequence[Group], params: SplitCheckParams
) -> list[Ruling]:
    """A ruling on every kind of defect there is, worst first."""
    of = {one.name: one for one in scanned}
    lines: dict[Defect, list[str]] = {
        "unreadable": [f"{one.name}: {one.problem}" for one in scanned if one.problem is not None],
        "conflict": [_line(group) for group in groups if group.kind == "conflict"],
        "leak": [_line(group) for group in groups if group.kind == "leak"],
        "duplicate": [same(copies) for copies in _copies(of, links)],
    }
    out: dict[Defect, Iterable[Exclusion]] = {
        "unreadable": (Exclusion(one.name, "unreadable", one.problem) for one in scanned if one.problem),
        "conflict": _conflicting(of, groups),
        "leak": _leaking(of, groups),
        "duplicate": _surplus(of, links),
    }
    policies: dict[Defect, Policy] = {
        "unreadable": params.on_unreadable, "conflict": params.on_conflict, "leak": params.on_leak,
        "duplicate": params.on_duplicate,
    }  # fmt: skip
    rulings = []
    for defect, found in lines.items():
        candidates = sorted(out[defect])
        gone = [one for one in candidates if defect == "unreadable" or of[one.path].split != "test"]
        if found:
            kept = len(candidates) - len(gone)
            excluded = tuple(gone) if policies[defect] == "drop" else ()
            rulings.append(Ruling(defect, policies[defect], tuple(found), kept, excluded))
    return rulings


def exclusions(rulings: Iterable[Ruling]) -> list[Exclusion]:
    """What is left out in the end, one row per photo; of several reasons the first."""
    found: dict[str, Exclusion] = {}
    for ruling in rulings:
        for one in ruling.excluded:
            found.setdefault(one.path, one)
    return sorted(found.values())


def bounded(texts: Sequence[str]) -> list[str]:
    """At most MAX_LINES texts; a last one says how many more there are."""
    more = len(texts) - MAX_LINES
    return [*texts[:MAX_LINES], f"and {more} more"] if more > 0 else list(texts)


def same(names: Sequence[str]) -> str:
    """Names of copies in one line."""
    return " = ".join(bounded(names))


def _line(group: Group) -> str:
    how = {"near": " (near copies)", "patched": " (one shot, changed in a part)", "id": " (one id)"}.get(group.how, "")
    return same(group.names) + how


def _copies(of: dict[str, Scanned], links: Sequence[Link]) -> Iterator[list[str]]:
    """Exact copies within one split under one label."""
    exact = [link for link in links if link.how in EXACT]
    for names in components(sorted(of), exact) if exact else ():
        folders: dict[tuple[str, int], list[str]] = defaultdict(list)
        for name in names:
            folders[of[name].split, of[name].photo.label].append(name)
        yield from (copies for copies in folders.values() if len(copies) > 1)


def _surplus(of: dict[str, Scanned], links: Sequence[Link]) -> Iterator[Exclusion]:
    for first, *others in _copies(of, links):
        yield from (Exclusion(name, "duplicate", f"copy of {first}") for name in others)


def _conflicting(of: dict[str, Scanned], groups: Iterable[Group]) -> Iterator[Exclusion]:
    for group in groups:
        if group.kind == "conflict":
            yield from (Exclusion(name, "conflict", f"copy of {_other(of, group, name)}") for name in group.names)


def _leaking(of: dict[str, Scanned], groups: Iterable[Group]) -> Iterator[Exclusion]:
    """The members of a leak but those in the split that is furthest from training."""
    for group in groups:
        if group.kind == "leak":
            last = max((of[name].split for name in group.names), key=SPLITS.index)
            kept = next(name for name in group.names if of[name].split == last)
            yield from (
                Exclusion(name, "leak", f"belongs with {kept}") for name in group.names if of[name].split != last
            )


def _other(of: dict[str, Scanned], group: Group, name: str) -> str:
    """A member of the group with the other label."""
    return next(other for other in group.names if of[other].photo.label != of[name].photo.label)
