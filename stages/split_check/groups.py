"""Which photos belong together: copies of one photo, and photos of one car or session."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from scipy.cluster.hierarchy import DisjointSet

from stages.split_check.scan import ScannedPhoto

# edited: the same shot, but changed in a part, by a watermark or by dirt. id: of one car or session. scene: the same
# background, but a part and the colours are others, as of different cars before a fixed camera.
How = Literal["bytes", "pixels", "near", "edited", "id", "scene"]
Kind = Literal["conflict", "leak", "within", "scene"]
EXACT: tuple[How, ...] = ("bytes", "pixels")
COPIES: tuple[How, ...] = (*EXACT, "near")
SHOTS: tuple[How, ...] = (*COPIES, "edited")
JOINING: tuple[How, ...] = (*SHOTS, "id")
_STRENGTH: tuple[How, ...] = (*JOINING, "scene")


@dataclass(frozen=True, order=True)
class Link:
    """Two photos, by name, that belong together, and what says so."""

    first: str
    second: str
    how: How
    similarity: float = 1.0  # of near copies, 0..1


@dataclass(frozen=True)
class Group:
    """Photos that belong together, and what that means.

    conflict: copies under both labels. leak: shots of one moment, or photos of one id, in several splits. within: other
    shots of one moment. scene: photos with one background; only told.
    """

    kind: Kind
    how: How  # the weakest evidence that was needed to join them
    names: tuple[str, ...]  # sorted
    more: int = 0  # names beyond these, where a list was cut

    def cut(self, limit: int) -> Group:
        """With at most `limit` names, first of all one of each split and class, by which a leak or conflict is seen."""
        seen: set[str] = set()
        order = []
        for name in self.names:
            folder = "/".join(name.split("/")[:2])
            order.append((folder in seen, name))
            seen.add(folder)
        kept = tuple(name for _, name in sorted(order)[:limit])
        return replace(self, names=kept, more=self.more + len(self.names) - len(kept))


def exact_links(scanned: Iterable[ScannedPhoto]) -> list[Link]:
    """Photos with the same bytes, or with the same pixels in different files. Broken files are no copies of a photo."""
    scanned = list(scanned)
    same_bytes = _linked(scanned, lambda one: one.sha256 if one.problem is None else None, "bytes")
    same_pixels = _linked(scanned, lambda one: one.stats.pixels_sha256 if one.stats else None, "pixels")
    known = {(link.first, link.second) for link in same_bytes}
    return same_bytes + [link for link in same_pixels if (link.first, link.second) not in known]


def id_links(scanned: Iterable[ScannedPhoto], regex: str | None) -> list[Link]:
    """Photos whose paths hold the same id."""
    return [] if regex is None else _linked(scanned, lambda one: id_of(one.name, regex), "id")


def id_of(name: str, regex: str) -> str | None:
    """The id in a path: the group named `group`, else the first; None where the path has none."""
    found = re.search(regex, name)
    return found and found["group" if "group" in found.re.groupindex else 1]


def _linked(scanned: Iterable[ScannedPhoto], key: Callable[[ScannedPhoto], str | None], how: How) -> list[Link]:
    """A chain of links through all photos with the same key."""
    by_key: dict[str, list[str]] = defaultdict(list)
    for one in scanned:
        value = key(one)
        if value is not None:
            by_key[value].append(one.name)
    chains = (sorted(names) for names in by_key.values())
    return sorted(Link(first, second, how) for names in chains for first, second in pairwise(names))


def components(names: Sequence[str], links: Iterable[Link]) -> list[tuple[str, ...]]:
    """The photos `names` in groups that links connect, however indirectly; a photo without links is one of its own."""
    sets = DisjointSet(names)
    for link in links:
        sets.merge(link.first, link.second)
    return sorted(tuple(sorted(found)) for found in sets.subsets())


def groups(scanned: Sequence[ScannedPhoto], links: Sequence[Link]) -> list[Group]:
    """What links of any kind come to: conflicts first, then leaks, then copies within a split.

    Last come scenes. One id under both labels is no conflict: a dirty car has clean sides. Neither is one shot that
    differs in a part: a car is dirty before the wash and clean after it. One id within a split is no finding.
    """
    of = {one.name: one for one in scanned}
    copies, shots, cars, views = (_joined(of, links, by) for by in (COPIES, SHOTS, JOINING, (*SHOTS, "scene")))
    conflicts = [Group("conflict", how, names) for how, names in copies if len({of[x].photo.label for x in names}) > 1]
    in_conflict = {name for group in conflicts for name in group.names}
    across = [(how, names) for how, names in (*shots, *cars) if len({of[x].split for x in names}) > 1]
    leaks = [Group("leak", how, names) for how, names in dict.fromkeys(across)]
    within = [Group("within", how, names) for how, names in shots if len({of[x].split for x in names}) == 1]
    scenes = [Group("scene", how, names) for how, names in views if how == "scene"]
    return conflicts + leaks + [group for group in within if in_conflict.isdisjoint(group.names)] + scenes


def _joined(
    of: dict[str, ScannedPhoto], links: Sequence[Link], by: tuple[How, ...]
) -> list[tuple[How, tuple[str, ...]]]:
    """The groups of two or more that links of some kinds make, with the weakest that was needed for each.

    Links are added from the strongest on, and one between photos that are together already adds nothing (Kruskal).
    """
    sets, weakest = DisjointSet(sorted(of)), dict[str, How]()
    for link in sorted((link for link in links if link.how in by), key=lambda link: _STRENGTH.index(link.how)):
        if sets.merge(link.first, link.second):
            weakest[sets[link.first]] = link.how
    found = (sorted(names) for names in sets.subsets() if len(names) > 1)
    return sorted(((weakest[sets[names[0]]], tuple(names)) for names in found), key=lambda group: group[1])


def group_table(names: Sequence[str], links: Iterable[Link]) -> dict[str, str]:
    """photo -> group; a group is called after its first photo."""
    return {name: members[0] for members in components(names, links) for name in members}
