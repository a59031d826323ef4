"""Near copies: candidates by perceptual hash, each then laid over the other and compared pixel by pixel.

Photos of different cars in like places have like hashes; a copy alone agrees nearly everywhere once the crop is undone.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.cores import usable_cores
from stages.split_check.align import Likeness, aligned, as_they_lie, blurred, correlation
from stages.split_check.groups import Link
from stages.split_check.hashes import CROPS, hashes, stack, turn
from stages.split_check.matching import pairs_within
from stages.split_check.scan import Scanned

FLAT = 3.0  # grey levels: a thumbnail that deviates less has nothing to be recognised by
HOPELESS = 0.75  # correlation as they lie; copies cropped by 5 % of every side still reach 0.8
# Of the worst block: above it a part of the photo was changed. Re-encoded, resized and turned copies stay below 0.2;
# a watermark does not, and neither does dirt.
PATCHED = 0.2
_BATCH = 256


class Candidates(NamedTuple):
    """Pairs of thumbnails that may show one photo, `[P]` each: the first, its symmetry, the second."""

    first: NDArray[np.int64]
    symmetry: NDArray[np.int64]
    second: NDArray[np.int64]


def near_links(scanned: Sequence[Scanned], radius: int, similarity: float) -> list[Link]:
    """Photos that are copies of each other, though not pixel by pixel; of exact copies only the first takes part.

    radius: bits in which the hashes of a photo, mirrored, turned and cropped in every way, and of its copy may differ;
    similarity: 0..1, what `compare` must at least say of the pair.
    """
    first_of = {one.look.pixels_sha256: one for one in reversed(scanned) if one.look is not None}
    photos = sorted(first_of.values(), key=lambda one: one.name)
    thumbnails = stack([one.look.thumbnail for one in photos if one.look is not None])
    pairs = candidates(thumbnails, radius)
    alike = compare(thumbnails, pairs)
    best: dict[tuple[str, str], tuple[float, bool]] = {}
    for place in np.flatnonzero(alike.similarity >= similarity).tolist():
        first, second = sorted((photos[pairs.first[place]].name, photos[pairs.second[place]].name))
        value, whole = best.get((first, second), (0.0, False))
        # Good in one way round is good.
        now = max(value, float(alike.similarity[place])), whole or bool(alike.worst[place] <= PATCHED)
        best[first, second] = now
    return sorted(Link(*names, "near" if whole else "patched", value) for names, (value, whole) in best.items())


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
