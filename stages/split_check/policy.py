"""What to do about what was found: stop, leave photos out, or warn.

What may be left out, and from where:
- unreadable: wherever they are, test too, since nobody can score them;
- leak: from train if another copy is in val or test, from val if one is in test; never from test;
- conflict: every copy, since nobody knows which label is right; but none from test;
- duplicate: exact copies within a split under one label, all but the first; but none from test.
Test is what results are compared on: only unreadable files are left out of it, and what stays is reported.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from stages.common.base.photos import SPLITS
from stages.split_check.groups import EXACT, Group, Link, components
from stages.split_check.params import Policy, SplitCheckParams
from stages.split_check.scan import ScannedPhoto

MAX_LINES = 50  # of each defect in a message, and names in a line; artifacts/findings.json has more

Defect = Literal["unreadable", "conflict", "leak", "duplicate"]

_HEADINGS: dict[Defect, str] = {
    "unreadable": "unreadable files; replace or remove them",
    "conflict": "groups of copies under both labels; keep each photo under the right one",
    "leak": "groups of copies or of one car in several splits, which inflates every score; keep each in one split",
    "duplicate": "groups of exact copies in one folder; keep one of each",
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


Found = tuple[str, dict[str, str]]  # a defect as a line, and the photos to leave out for it, each with the detail


def judge(
    scanned: Sequence[ScannedPhoto], links: Sequence[Link], groups: Sequence[Group], params: SplitCheckParams
) -> list[Ruling]:
    """A ruling on every kind of defect there is, worst first."""
    of = {one.name: one for one in scanned}
    defects: dict[Defect, tuple[Policy, Iterator[Found]]] = {
        "unreadable": (params.on_unreadable, _unreadable(scanned)),
        "conflict": (params.on_conflict, _conflicts(of, groups)),
        "leak": (params.on_leak, _leaks(of, groups)),
        "duplicate": (params.on_duplicate, _duplicates(of, links)),
    }
    rulings = []
    for defect, (policy, found) in defects.items():
        lines, photos = [], []
        for line, details in found:
            lines.append(line)
            photos += [Exclusion(name, defect, detail) for name, detail in details.items()]
        gone = [one for one in photos if defect == "unreadable" or of[one.path].split != "test"]
        if lines:
            excluded = tuple(sorted(gone)) if policy == "drop" else ()
            rulings.append(Ruling(defect, policy, tuple(lines), len(photos) - len(gone), excluded))
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


def _line(names: Sequence[str], how: str = "") -> str:
    because = {"near": " (near-duplicates)", "edited": " (one shot, edited in a part)", "id": " (one id)"}
    return " = ".join(bounded(names)) + because.get(how, "")


def _unreadable(scanned: Sequence[ScannedPhoto]) -> Iterator[Found]:
    yield from ((f"{one.name}: {one.problem}", {one.name: one.problem}) for one in scanned if one.problem is not None)


def _conflicts(of: dict[str, ScannedPhoto], groups: Iterable[Group]) -> Iterator[Found]:
    for group in groups:
        if group.kind == "conflict":
            first_of = {of[name].photo.label: name for name in reversed(group.names)}
            details = {name: f"copy of {first_of[1 - of[name].photo.label]}" for name in group.names}
            yield _line(group.names, group.how), details


def _leaks(of: dict[str, ScannedPhoto], groups: Iterable[Group]) -> Iterator[Found]:
    """All but the members in the split that is furthest from training."""
    for group in groups:
        if group.kind == "leak":
            last = max((of[name].split for name in group.names), key=SPLITS.index)
            kept = next(name for name in group.names if of[name].split == last)
            details = {name: f"belongs with {kept}" for name in group.names if of[name].split != last}
            yield _line(group.names, group.how), details


def _duplicates(of: dict[str, ScannedPhoto], links: Sequence[Link]) -> Iterator[Found]:
    """Exact copies within one split under one label."""
    exact = [link for link in links if link.how in EXACT]
    for names in components(sorted(of), exact) if exact else ():
        folders: dict[tuple[str, int], list[str]] = defaultdict(list)
        for name in names:
            folders[of[name].split, of[name].photo.label].append(name)
        for first, *others in folders.values():
            if others:
                yield _line([first, *others]), dict.fromkeys(others, f"copy of {first}")
