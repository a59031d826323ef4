"""A contact sheet: one HTML file with thumbnails, verdicts and p_clean, worst first; it needs no network."""

from __future__ import annotations

import base64
import heapq
import io
import itertools
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jinja2
from PIL import ExifTags, Image

from serving.batch.scorer import Row, Scorer
from serving.inference.photo.decode import open_photo
from serving.inference.photo.errors import PhotoError
from serving.inference.verdict.errors import UserError
from serving.inference.verdict.rule import CLEAN, DIRTY, UNCERTAIN, UNUSABLE
from serving.stores import Photo, failing
from serving.whole import whole

TEMPLATE = Path(__file__).with_name("sheet.html")
KINDS = ("error", UNUSABLE, DIRTY, UNCERTAIN, CLEAN)
SHOWN = 500  # photos of each kind: about 5 KB each
SIDE, QUALITY = 200, 70  # pixels of the longer side, of JPEG
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height


def write(out: Path, results: Iterable[tuple[Photo, Row]], scorer: Scorer) -> None:
    """Write the sheet of all results; the photos that are shown are read once more. Raises UserError."""
    kinds: dict[str, list[tuple[float, int, Photo, Row]]] = {kind: [] for kind in KINDS}
    counts: Counter[str] = Counter()
    for number, (photo, row) in enumerate(results):
        kind = row.label or "error"
        counts[kind] += 1
        add = heapq.heappush if len(kinds[kind]) < SHOWN else heapq.heappushpop
        add(kinds[kind], (-(row.p_clean or 0), -number, photo, row))
    shown = itertools.chain.from_iterable(sorted(kinds[kind], reverse=True) for kind in KINDS)
    with ThreadPoolExecutor() as pool:
        cards = list(pool.map(lambda place: {"row": place[3], "thumbnail": _thumbnail(place[2], scorer)}, shown))
    html = jinja2.Environment(autoescape=True).from_string(TEMPLATE.read_text())
    page = html.render(
        cards=cards, counts=counts, kinds=[kind for kind in KINDS if counts[kind]], total=counts.total(),
        model=scorer.deployment,
    )  # fmt: skip
    with failing(f"cannot write {out}"), whole(out) as file:
        file.write(page.encode(errors="backslashreplace"))


def _thumbnail(photo: Photo, scorer: Scorer) -> str | None:
    """What the model saw of a photo, in the photo's own aspect, as a JPEG in base64; None where it cannot be read."""
    try:
        file = scorer.read(photo)
        pixels = scorer.deployment.pixels(file)
        header = open_photo(file, max_pixels=scorer.settings.max_pixels)
        exif = Image.Exif()
        exif.load(header.info.get("exif", b""))  # a TIFF has none: its size is that of the upright photo
        turned = exif.get(ExifTags.Base.Orientation) in _TURNED
    except (PhotoError, UserError):
        return None
    width, height = reversed(header.size) if turned else header.size
    scale = SIDE / max(width, height)
    small = Image.fromarray(pixels).resize((max(1, round(width * scale)), max(1, round(height * scale))))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()
