"""reports/split_check.html: what was found, with the photos, for people to look at and to correct.

One file that needs no other and no network: thumbnails lie inside it. It shows the worst of each kind, so that it opens
quickly whatever the number of photos. It holds photos and is therefore not in git.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import itertools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args
from urllib.parse import quote

import jinja2

from serving.verdict.rule import CLASSES
from stages.common.base.errors import StageError, run_stage
from stages.common.base.files import write_bytes
from stages.common.base.paths import REPORTS
from stages.split_check.findings import Findings
from stages.split_check.groups import Group, Kind
from stages.split_check.thumbnails import LARGE, thumbnails

PAGE, AUDIT = REPORTS / "split_check.html", REPORTS / "label_audit.csv"
BLIND = REPORTS / "blind_sample.csv"  # beside it: paths of val and test, to be judged without their labels
AUDIT_HEADER = ("rank", "path", "split", "label", "suggested", "p_label")
ASSETS = Path(__file__).parent / "assets"
MAX_GROUPS, MAX_MEMBERS = 40, 6  # shown of each kind of group, and photos of each group
MAX_SUSPECTS, MAX_POOR, MAX_NOTES = 100, 16, 40  # shown; of each kind of poor quality; of files that are broken or odd


@dataclass(frozen=True)
class Card:
    """One photo on the page: its path below the data folder, what is said of it, and another label if one is likely."""

    path: str
    note: str = ""
    suggested: str | None = None

    @property
    def label(self) -> str:
        """The class it stands under."""
        return next((part for part in self.path.split("/")[:2] if part in CLASSES), "")

    @property
    def other(self) -> str:
        """The other class."""
        return next(name for name in CLASSES if name != self.label)


@dataclass(frozen=True)
class Shown:
    """A group of photos that belong together, cut to what is shown."""

    how: str
    cards: list[Card]
    more: int  # photos that are not shown


def render(findings: Findings, page: Path = PAGE, audit: Path = AUDIT, blind: Path = BLIND) -> str:
    """The page as HTML, to lie at `page`; with the suspected labels and the blind sample if they have been written."""
    root = Path(findings.root)
    suspects, moved = read_audit(audit, root)
    sample = read_blind(blind, root)
    groups = {kind: show_groups(findings.groups, kind) for kind in get_args(Kind)}
    poor: dict[str, list[Card]] = {}
    for one in findings.poor:
        poor.setdefault(one.kind, []).append(Card(one.name, f"{one.measure:.3f}"))
    poor = {kind: cards[:MAX_POOR] for kind, cards in poor.items()}
    odd, unreadable = (
        [Card(note.name, note.text) for note in notes[:MAX_NOTES]] for notes in (findings.odd, findings.unreadable)
    )
    cards = [card for found in groups.values() for group in found for card in group.cards]
    cards += [*suspects[:MAX_SUSPECTS], *(card for found in poor.values() for card in found), *odd]
    script = (ASSETS / "page.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("page.html").render(
        findings=findings, classes=sorted(CLASSES), groups=groups, suspects=suspects, shown=suspects[:MAX_SUSPECTS],
        moved=moved, audited=audit.exists(), sample=sample, poor=poor, odd=odd, unreadable=unreadable,
        excluded=findings.excluded[:MAX_NOTES],
        thumbnails=thumbnails(root, (card.path for card in cards)),
        large=thumbnails(root, (card.path for card in sample), LARGE), number=itertools.count().__next__,
        link=lambda path: quote(os.path.relpath(root / path, page.parent)),
        style=(ASSETS / "page.css").read_text(encoding="utf-8"), script=script,
        # Nothing but this very script runs on the page, whatever the names of the photos hold.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )  # fmt: skip


def show_groups(groups: Iterable[Group], kind: str) -> list[Shown]:
    """The first groups of a kind."""
    found = [group.cut(MAX_MEMBERS) for group in groups if group.kind == kind][:MAX_GROUPS]
    return [Shown(group.how, [Card(name) for name in group.names], group.more) for group in found]


def read_audit(path: Path, root: Path) -> tuple[list[Card], int]:
    """The suspected labels, worst first, and how many more have been moved or removed since the audit."""
    if not path.exists():
        return [], 0
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        cards = [
            Card(row["path"], f"p({row['label']}) = {float(row['p_label']):.3f}", row["suggested"]) for row in rows
        ]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise StageError(f"{path} is no list of suspected labels: {error!r}; remove it or `make audit` anew") from error
    there = [card for card in cards if (root / card.path).exists()]
    return there, len(cards) - len(there)


def read_blind(path: Path, root: Path) -> list[Card]:
    """The blind sample, but photos that are no longer there."""
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            cards = [Card(row["path"]) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise StageError(f"{path} is no blind sample: {error!r}; remove it or `make audit` anew") from error
    return [card for card in cards if (root / card.path).exists()]


def write_page() -> None:
    """Write the page from artifacts/findings.json. Raises StageError where that is missing."""
    write_bytes(PAGE, render(Findings.read()).encode())
    print(f"{PAGE} shows what was found.")


if __name__ == "__main__":
    # The page anew, from what the last check and the last audit found.
    run_stage("page", write_page)
