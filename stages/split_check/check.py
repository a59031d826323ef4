"""Everything that is checked: a pure function of the scanned photos and of the params."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from serving.inference.verdict.rule import CLASSES
from stages.split_check.drift import Drift, find_drift
from stages.split_check.groups import JOINING, Group, Link, exact_links, group_table, groups, id_links, id_of
from stages.split_check.near.search import near_links
from stages.split_check.params import SplitCheckParams
from stages.split_check.policy import Exclusion, Ruling, exclusions, judge
from stages.split_check.scan import ScannedPhoto
from stages.split_check.shortcuts import Shortcut, find_shortcuts

# Cars without which a later stage stops: train holds one of each class out.
NEEDED = {"train/clean": 2, "train/dirty": 2, "val": 2}
NEEDED |= dict.fromkeys(("val/clean", "val/dirty", "test/clean", "test/dirty"), 1)


@dataclass(frozen=True)
class PoorPhoto:
    """A photo on which a person could hardly tell either: which kind, and the measure that says so (lower is worse)."""

    name: str
    kind: str  # small, dark, washed_out or blurred
    measure: float


@dataclass(frozen=True)
class Checked:
    """All that was found, none of it cut short."""

    scanned: Sequence[ScannedPhoto]
    usable: list[ScannedPhoto]  # those that are not left out
    groups: list[Group]
    group_of: dict[str, str]  # photo -> group, for every photo
    rulings: list[Ruling]
    excluded: list[Exclusion]
    shortcuts: list[Shortcut]
    drift: list[Drift]
    poor: dict[str, list[PoorPhoto]]
    hubs: list[str]  # photos with too many neighbours, checked for exact copies only
    source_regex: str | None

    def source_of(self, name: str) -> str:
        """The source in a photo's path, "" where there is none."""
        return (self.source_regex and id_of(name, self.source_regex)) or ""

    @property
    def stops(self) -> list[Ruling]:
        """What stands against training."""
        return [ruling for ruling in self.rulings if ruling.policy == "fail"]

    @property
    def lacking(self) -> list[str]:
        """The folders with too few cars, in words."""
        cars = defaultdict[str, set[str]](set)
        for one in self.usable:
            for folder in (one.split, f"{one.split}/{CLASSES[one.photo.label]}"):
                cars[folder].add(self.group_of[one.name])
        return [
            f"{folder}: {len(cars[folder])} cars or sessions that are not left out, at least {needed} needed; add "
            "photos of others, or mend data.car_regex"
            for folder, needed in NEEDED.items()
            if len(cars[folder]) < needed
        ]


def find_links(scanned: Sequence[ScannedPhoto], params: SplitCheckParams, car_regex: str | None = None) -> list[Link]:
    """All that joins photos: copies, exact and near, and ids in their paths."""
    return [link for link in _links(scanned, params, car_regex)[0] if link.how in JOINING]


def _links(
    scanned: Sequence[ScannedPhoto], params: SplitCheckParams, car_regex: str | None
) -> tuple[list[Link], list[str]]:
    near = near_links(scanned, params.hash_radius, params.similarity)
    return exact_links(scanned) + near.links + id_links(scanned, car_regex), near.hubs


def check(scanned: Sequence[ScannedPhoto], params: SplitCheckParams, car_regex: str | None = None) -> Checked:
    """Find everything and rule on it. Shortcuts, drift and quality are of the photos that are not left out."""
    links, hubs = _links(scanned, params, car_regex)
    found = groups(scanned, links)
    group_of = group_table([one.name for one in scanned], (link for link in links if link.how in JOINING))
    rulings = judge(scanned, links, found, params)
    excluded = exclusions(rulings)
    gone = {one.path for one in excluded}
    usable = [one for one in scanned if one.name not in gone]
    return Checked(
        scanned, usable, found, group_of, rulings, excluded,
        shortcuts=find_shortcuts(usable, group_of, params.source_regex, params.shortcut_auc_warn),
        drift=find_drift(usable, params.source_regex),
        poor=poor_photos(usable, params), hubs=hubs, source_regex=params.source_regex,
    )  # fmt: skip


def poor_photos(scanned: Iterable[ScannedPhoto], params: SplitCheckParams) -> dict[str, list[PoorPhoto]]:
    """Every photo that is too small, too dark, washed out or blurred, by kind, worst first."""
    found: dict[str, list[PoorPhoto]] = {"small": [], "dark": [], "washed_out": [], "blurred": []}
    limits = (params.small_below, params.dark_below, params.contrast_below, params.sharpness_below)
    for one in scanned:
        measures = (one.stats.side, *one.stats.quality) if one.stats else ()
        for (kind, photos), measure, limit in zip(found.items(), measures, limits, strict=False):
            if measure < limit:
                photos.append(PoorPhoto(one.name, kind, measure))
    return {kind: sorted(photos, key=lambda poor: (poor.measure, poor.name)) for kind, photos in found.items()}
