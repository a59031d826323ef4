"""reports/mistakes.html: every false clean and false dirty of test and the least certain photos, with maps, offline.

It holds photos and is therefore in DVC, not in git.
"""

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
SHOWN, WITH_MAP, UNSURE = 400, 12, 12  # photos of each kind that are shown; with a map; least certain ones
BATCH = 32


def sections(results: Sequence[Result], t_clean: float) -> dict[str, list[Result]]:
    """The photos of each section: by source, then by car, the worst first; the least certain by their distance to T."""

    def order(one: Result) -> tuple[str, float, str]:
        return (one.source, -abs(one.p_clean - t_clean), one.car)

    found = {
        kind: sorted((x for x in results if x.mistake == kind), key=order) for kind in ("false clean", "false dirty")
    }
    right = [one for one in results if not one.mistake]
    return found | {"least certain": sorted(right, key=lambda one: abs(one.p_clean - t_clean))[:UNSURE]}


def render(results: Sequence[Result], sources: dict[str, Outcome], t_clean: float, root: Path, network: Logits,
           size: int) -> str:  # fmt: skip
    """The page as HTML. `network` gives logits of pixels `[N, size, size, 3]`."""
    found = sections(results, t_clean)
    pictures: dict[str, list[str]] = {}
    for part in found.values():
        for place, one in enumerate(part[:SHOWN]):
            data = (root / one.path).read_bytes()
            photo = upright_rgb(open_photo(data), SIDE)
            pictures[one.path] = [data_uri(photo, SIDE)]
            if place < WITH_MAP:
                grid = occlusion(network, decode(data, size), BATCH)
                pictures[one.path].append(data_uri(overlay(photo, grid), SIDE))
    return template(Path(__file__).parent / "assets/mistakes.html").render(
        sections=found, pictures=pictures, sources=sources, t_clean=t_clean, photos=len(results), shown=SHOWN
    )
