"""reports/split_check.html: what was found, with the photos, for people to look at and to correct.

One file that needs no other and no network: thumbnails lie inside it. It shows the worst of each kind, so that it opens
quickly whatever the number of photos. It holds photos and is therefore not in git.
"""

import base64
import csv
import hashlib
import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import get_args
from urllib.parse import quote

from serving.inference.photo.cores import usable_cores
from serving.inference.photo.decode import open_photo, upright_rgb
from serving.inference.photo.errors import PhotoError
from serving.inference.verdict.rule import CLASSES
from stages.common.base.errors import StageError
from stages.common.base.files import write_bytes
from stages.common.base.paths import REPORTS
from stages.common.page import data_uri, template
from stages.split_check.groups import Group, Kind
from stages.split_check.report import Findings

PAGE, AUDIT = REPORTS / "split_check.html", REPORTS / "label_audit.csv"
BLIND = REPORTS / "blind_sample.csv"  # beside it: paths of val and test, to be judged without their labels
AUDIT_HEADER = ("rank", "path", "split", "label", "suggested", "p_label")
ASSETS = Path(__file__).parent / "assets"
SHOWN_GROUPS, SHOWN_MEMBERS = 40, 6  # of each kind of group, and photos of each group
SHOWN_SUSPECTS, SHOWN_POOR, SHOWN_NOTES = 100, 16, 40  # the second of each kind of poor quality
SMALL_SIDE, LARGE_SIDE = 192, 448  # pixels of the longer side: about 5 and 20 KB a photo


@dataclass(frozen=True)
class Card:
    """One photo on the page: its path below the data folder, what is said of it, and another label if one is likely."""

    path: str
    note: str = ""
    suggested: str | None = None

    @property
    def label(self) -> str:
        return next((part for part in self.path.split("/")[:2] if part in CLASSES), "")

    @property
    def other(self) -> str:
        return next(name for name in CLASSES if name != self.label)


@dataclass(frozen=True)
class GroupCards:
    """A group of photos that belong together, cut to what is shown."""

    how: str
    cards: list[Card]
    more: int  # photos that are not shown


def render(findings: Findings) -> str:
    """The page as HTML, to lie at PAGE; with the suspected labels and the blind sample if they have been written."""
    root = Path(findings.root)
    suspects, moved = read_audit(root)
    sample = read_blind(root)
    groups = {kind: show_groups(findings.groups, kind) for kind in get_args(Kind)}
    galleries = defaultdict[str, list[Card]](list)
    galleries["unreadable"] = [Card(note.name, note.text) for note in findings.unreadable[:SHOWN_NOTES]]
    galleries["odd"] = [Card(note.name, note.text) for note in findings.odd[:SHOWN_NOTES]]
    for one in findings.poor:
        if len(galleries[one.kind]) < SHOWN_POOR:
            galleries[one.kind].append(Card(one.name, f"{one.measure:.3g}"))
    cards = [card for found in groups.values() for group in found for card in group.cards]
    cards += [*suspects[:SHOWN_SUSPECTS], *(card for found in galleries.values() for card in found)]
    script = (ASSETS / "page.js").read_text(encoding="utf-8")
    return template(ASSETS / "page.html").render(
        findings=findings, classes=sorted(CLASSES), groups=groups, suspects=suspects, shown=suspects[:SHOWN_SUSPECTS],
        moved=moved, audited=AUDIT.exists(), sample=sample, galleries=galleries,
        excluded=findings.excluded[:SHOWN_NOTES],
        thumbnails=thumbnails(root, (card.path for card in cards)),
        large=thumbnails(root, (card.path for card in sample), LARGE_SIDE), number=itertools.count().__next__,
        link=lambda path: quote(os.path.relpath(root / path, PAGE.parent)),
        script=script,
        # Nothing but this very script runs on the page, whatever the names of the photos hold.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )  # fmt: skip


def show_groups(groups: Iterable[Group], kind: str) -> list[GroupCards]:
    found = [group.cut(SHOWN_MEMBERS) for group in groups if group.kind == kind][:SHOWN_GROUPS]
    return [GroupCards(group.how, [Card(name) for name in group.names], group.more) for group in found]


def read_audit(root: Path) -> tuple[list[Card], int]:
    """The suspected labels, worst first, and how many more have been moved or removed since the audit."""

    def card(row: dict[str, str]) -> Card:
        return Card(row["path"], f"p({row['label']}) = {float(row['p_label']):.3f}", row["suggested"])

    cards = _read(AUDIT, "list of suspected labels", card)
    there = [card for card in cards if (root / card.path).exists()]
    return there, len(cards) - len(there)


def read_blind(root: Path) -> list[Card]:
    """The blind sample, but photos that are no longer there."""
    cards = _read(BLIND, "blind sample", lambda row: Card(row["path"]))
    return [card for card in cards if (root / card.path).exists()]


def _read(path: Path, what: str, card: Callable[[dict[str, str]], Card]) -> list[Card]:
    """A card for each row that `make audit` wrote, if it has. Raises StageError."""
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [card(row) for row in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise StageError(f"{path} is no {what}: {error!r}; remove it or `make audit` anew") from error


def thumbnails(root: Path, names: Iterable[str], side: int = SMALL_SIDE) -> dict[str, str]:
    """The data: URI of a small JPEG of each photo; of those that cannot be read there is none."""
    paths = sorted(set(names))
    with ThreadPoolExecutor(usable_cores()) as pool:
        return {
            path: uri
            for path, uri in zip(paths, pool.map(_thumbnail, (root / p for p in paths), repeat(side)), strict=True)
            if uri
        }


def _thumbnail(path: Path, side: int) -> str | None:
    try:
        image = upright_rgb(open_photo(path.read_bytes()), side)
    except (OSError, PhotoError):  # the page says so in the photo's place
        return None
    return data_uri(image, side)


def write_page() -> None:
    """Write the page from artifacts/findings.json. Raises StageError where that is missing."""
    write_bytes(PAGE, render(Findings.read()).encode())
    print(f"{PAGE} shows what was found.")
