"""reports/mistakes.html: the false clean and false dirty of test and the least certain photos, offline.

It holds photos and is therefore in DVC, not in git.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from serving.explain import Logits, occlusion, overlay
from serving.inference.photo.decode import decode, open_photo, upright_rgb
from stages.common.base.paths import REPORTS
from stages.common.page import data_uri, template
from stages.common.rates import Outcome
from stages.export.results import Result

PAGE = REPORTS / "mistakes.html"
SIDE = 176  # pixels of a thumbnail
SHOWN, WITH_MAP, UNSURE = 400, 12, 12  # photos of each kind that are shown; with a map, of each source; least certain
BATCH = 32


def sections(results: Sequence[Result], t_clean: float) -> dict[str, list[Result]]:
    """The photos of each section: by car, the worst first; the least certain by their distance to T."""

    def distance(one: Result) -> float:
        return abs(one.p_clean - t_clean)

    found: dict[str, list[Result]] = {}
    for kind in ("false clean", "false dirty"):
        worst_first = sorted((one for one in results if one.mistake == kind), key=distance, reverse=True)
        cars = list(dict.fromkeys(one.car for one in worst_first))
        found[kind] = sorted(worst_first, key=lambda one: cars.index(one.car))
    right = [one for one in results if not one.mistake]
    return found | {"least certain": sorted(right, key=distance)[:UNSURE]}


def render(results: Sequence[Result], sources: dict[str, Outcome], t_clean: float, root: Path, network: Logits,
           size: int) -> str:  # fmt: skip
    """The page as HTML. `network` gives logits of pixels `[N, size, size, 3]`."""
    found = sections(results, t_clean)
    pictures: dict[str, list[str]] = {}
    for part in found.values():
        of_source = Counter[str]()
        for one in part[:SHOWN]:
            of_source[one.source] += 1
            data = (root / one.path).read_bytes()
            photo = upright_rgb(open_photo(data), SIDE)
            pictures[one.path] = [data_uri(photo, SIDE)]
            if of_source[one.source] <= WITH_MAP:
                grid = occlusion(network, decode(data, size), BATCH)
                pictures[one.path].append(data_uri(overlay(photo, grid), SIDE))
    return template(Path(__file__).parent / "assets/mistakes.html").render(
        sections=found, pictures=pictures, sources=sources, t_clean=t_clean, photos=len(results), shown=SHOWN
    )
