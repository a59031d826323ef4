"""Near copies: candidates by perceptual hash, each then laid over the other and compared pixel by pixel.

Photos of different cars in like places have like hashes; a copy alone agrees nearly everywhere once the crop is undone,
and has the same colours. A fixed camera makes all photos look alike: then pairs grow with the square of their number,
and so its photos are left aside as a crowd before any pair is formed.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.photo.cores import usable_cores
from stages.split_check.groups import How, Link
from stages.split_check.look import Look
from stages.split_check.near.align import Likeness, aligned, as_they_lie, blurred, correlation
from stages.split_check.near.hashes import CROPS, hashes, stack, turn
from stages.split_check.near.matching import pairs_within, partners
from stages.split_check.scan import Scanned

FLAT = 3.0  # grey levels: a thumbnail that deviates less has nothing to be recognised by
HOPELESS = 0.75  # correlation as they lie; copies cropped by 5 % of every side still reach 0.8
# Of the worst block: above it a part of the photo was changed. Re-encoded, resized and turned copies stay below 0.2;
# a watermark does not, and dirt seldom does: see the wash in benchmarks/results/split_check.txt for how often.
PATCHED = 0.2
# Grey levels by which the colours differ, wherever they lie. Whole copies stay below 5. Where a part differs, cropped
# and marked copies stay below 2.7, and eight in ten pairs of cars before a fixed camera do not stay below 3.
RECOLOURED, REPAINTED = 5.0, 3.0
CROWD = 50  # photos that look like one: among 10,000 cars in as many places it is 4, before a fixed camera most of them
_BATCH = 256


class Candidates(NamedTuple):
    """Pairs of thumbnails that may show one photo, `[P]` each: the first, its symmetry, the second."""

    first: NDArray[np.int64]
    symmetry: NDArray[np.int64]
    second: NDArray[np.int64]


class NearLinks(NamedTuple):
    """Near copies, and the photos among which none were looked for."""

    links: list[Link]  # near, patched or scene, sorted
    crowd: list[str]  # names, sorted


def near_links(scanned: Sequence[Scanned], radius: int, similarity: float) -> NearLinks:
    """Photos that are copies of each other, though not pixel by pixel; of exact copies only the first takes part.

    Photos that look like more than CROWD others take no part.

    radius: bits in which the hashes of a photo, mirrored, turned and cropped in every way, and of its copy may differ;
    similarity: 0..1, what `compare` must at least say of the pair.
    """
    first_of = {one.look.pixels_sha256: one for one in reversed(scanned) if one.look is not None}
    looks = [(one.name, one.look) for one in sorted(first_of.values(), key=lambda one: one.name) if one.look]
    crowd = crowded(stack([look.thumbnail for _, look in looks]), radius)
    photos = [looks[place] for place in np.flatnonzero(~crowd).tolist()]
    thumbnails = stack([look.thumbnail for _, look in photos])
    pairs = candidates(thumbnails, radius)
    alike = compare(thumbnails, pairs)
    best: dict[tuple[str, str], tuple[float, How]] = {}
    for place in np.flatnonzero(alike.similarity >= similarity).tolist():
        (first, one), (second, other) = sorted(
            (photos[pairs.first[place]], photos[pairs.second[place]]), key=lambda photo: photo[0]
        )
        value, how = best.get((first, second), (0.0, "scene"))
        whole, colours = alike.worst[place] <= PATCHED, recoloured(one, other)
        if whole and colours <= RECOLOURED:
            how = "near"
        elif colours <= REPAINTED and how != "near":  # good in one way round is good
            how = "patched"
        best[first, second] = max(value, float(alike.similarity[place])), how
    links = sorted(Link(*names, how, value) for names, (value, how) in best.items())
    return NearLinks(links, [looks[place][0] for place in np.flatnonzero(crowd).tolist()])


def crowded(thumbnails: NDArray[np.uint8], radius: int) -> NDArray[np.bool_]:
    """Which of the thumbnails `[N, S, S]` have more than CROWD others within the radius, `[N]`."""
    crowd = np.zeros(len(thumbnails), bool)
    rich = np.flatnonzero(thumbnails.std(axis=(1, 2)) >= FLAT)
    crowd[rich] = partners(hashes(thumbnails[rich])[0], radius) > CROWD
    return crowd


def recoloured(one: Look, other: Look) -> float:
    """By how much the colours of two photos differ once they are as bright: the mean over both opponent channels of
    the earth mover's distance, whichever is larger, in grey levels. Where the colours lie does not matter, so that no
    crop or turn has to be undone.
    """
    first, second = (np.frombuffer(look.colours, np.int16).reshape(2, -1) for look in (one, other))
    brighter = other.brightness / max(one.brightness, 1 / 255)
    return float(np.abs(brighter * first - second).mean(1).max())


def candidates(thumbnails: NDArray[np.uint8], radius: int) -> Candidates:
    """Every pair of thumbnails `[N, S, S]` whose hashes differ in at most `radius` bits once the first is turned by
    some symmetry and cut by some crop.
    """
    rich = np.flatnonzero(thumbnails.std(axis=(1, 2)) >= FLAT)
    count = len(rich)
    if count < 2:
        return Candidates(*np.empty((3, 0), np.int64))
    whole = hashes(thumbnails[rich])
    codes = []
    for crop in range(len(CROPS)):
        queries = hashes(thumbnails[rich], crop) if crop else whole
        query, target, _ = pairs_within(queries.ravel(), whole[0], radius)
        # Uncut, a pair matches either way round.
        apart = query % count < target if crop == 0 else query % count != target
        codes.append(query[apart] * count + target[apart])
    query, target = np.divmod(np.unique(np.concatenate(codes)), count)
    return Candidates(rich[query % count], query // count, rich[target])


def compare(thumbnails: NDArray[np.uint8], pairs: Candidates) -> Likeness:
    """How alike the pairs are, the first turned by its symmetry: as they lie or aligned, whichever fits better.

    Similarity 0 says that a pair never had a chance.
    """
    found = Likeness(np.zeros(len(pairs.first), np.float32), np.full(len(pairs.first), np.inf, np.float32))

    def fill(start: int) -> None:
        part = slice(start, start + _BATCH)
        turned = thumbnails[pairs.first[part]]
        for symmetry in np.unique(pairs.symmetry[part]):
            here = pairs.symmetry[part] == symmetry
            turned[here] = turn(turned[here], int(symmetry))
        first, second = blurred(turned), blurred(thumbnails[pairs.second[part]])
        hopeful = np.flatnonzero(correlation(first, second) >= HOPELESS)
        if len(hopeful):
            lying, moved = (way(first[hopeful], second[hopeful]) for way in (as_they_lie, aligned))
            # A large watermark pulls at the alignment; without a crop none is needed.
            found.similarity[start + hopeful] = np.maximum(lying.similarity, moved.similarity)
            found.worst[start + hopeful] = np.minimum(lying.worst, moved.worst)

    with ThreadPoolExecutor(usable_cores()) as pool:  # numpy releases the GIL
        list(pool.map(fill, range(0, len(pairs.first), _BATCH)))
    return found
