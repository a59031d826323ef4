"""Environment variables that look like settings of ours and are none: a misspelt setting must not pass for one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from serving.settings import Settings

SIMILAR = 0.82  # of 1, by difflib; WEB_CONCURRENCY and URL_CONCURRENCY have 0.8
SHORTEST = 5  # letters that two names begin with, to be taken for one another: HOSTNAME is not meant as HOST
OTHER_NAMES = {"T_CLEAN": "THRESH", "THRESHOLD": "THRESH"}


def near_misses(names: Iterable[str]) -> Iterator[str]:
    """A sentence for each variable that is no setting and looks like one, alone or after DIRTYCAR_."""
    settings = [name.upper() for name in Settings.model_fields]
    for name in sorted(set(names) - set(settings)):
        bare = name.removeprefix("DIRTYCAR_")
        meant = OTHER_NAMES.get(bare) or next((s for s in settings if s == bare or _begins_like(s, bare)), None)
        if meant or (close := get_close_matches(bare, settings, 1, SIMILAR)):
            yield f"{name} is set, which is no setting and does nothing; is {meant or close[0]} meant?"


def _begins_like(setting: str, name: str) -> bool:
    """QUEUE_SIZE begins like QUEUE, and MODEL like MODEL_PATH."""
    return min(len(setting), len(name)) >= SHORTEST and (name.startswith(setting) or setting.startswith(f"{name}_"))
