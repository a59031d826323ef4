"""Near-duplicates: candidates by perceptual hash, each pair then registered and compared pixel by pixel.

Photos of different cars in like places have like hashes. Only copies agree nearly everywhere once the crop is undone,
and in colour. A fixed camera makes all its photos alike, so that pairs grow with the square of their number: hubs, the
photos with too many neighbours, are left out before any pair is formed.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.inference.photo.cores import usable_cores
from stages.split_check.groups import How, Link
from stages.split_check.near.align import Likeness, aligned, as_they_lie, blurred, correlation
from stages.split_check.near.hashing import CROPS, hashes, neighbour_counts, pairs_within, stack, turn
from stages.split_check.scan import PhotoStats, ScannedPhoto

MIN_DEVIATION = 3.0  # grey levels; a thumbnail that deviates less has nothing to be recognised by
MIN_CORRELATION = 0.75  # before registration; copies cropped by 5 % of every side still reach 0.8
# Of the worst block: above it a part of the photo was changed. Re-encoded, resized and turned copies stay below 0.2;
# a watermark does not, and dirt seldom does: see the wash in benchmarks/results/split_check.txt for how often.
MAX_BLOCK_DIFFERENCE = 0.2
# Of colour histograms, in grey levels. Whole copies stay below 5. Where a part differs, cropped and marked copies stay
# below 2.7, and eight in ten pairs of cars before a fixed camera do not stay below 3.
MAX_COLOUR_DISTANCE, MAX_COLOUR_DISTANCE_EDITED = 5.0, 3.0
MAX_NEIGHBOURS = 50  # of a photo; among 10,000 cars in as many places 4, before a fixed camera most of the others
PAIRS_AT_ONCE = 256


class Candidates(NamedTuple):
    """Pairs of thumbnails that may show one photo, `[P]` each: the first, its symmetry, the second."""

    first: NDArray[np.int64]
    symmetry: NDArray[np.int64]
    second: NDArray[np.int64]


class NearLinks(NamedTuple):
    """Near-duplicates, and the photos among which none were looked for."""

    links: list[Link]  # near, edited or scene, sorted
    hubs: list[str]  # names, sorted


def near_links(scanned: Sequence[ScannedPhoto], radius: int, similarity: float) -> NearLinks:
    """Near-duplicates among all photos but hubs; of exact copies only the first takes part.

    radius: maximum Hamming distance between the hash of a copy and that of a photo under any symmetry and crop;
    similarity: 0..1, the least that `compare` must find.
    """
    first_of = {one.stats.pixels_sha256: one for one in reversed(scanned) if one.stats is not None}
    found = [(one.name, one.stats) for one in sorted(first_of.values(), key=lambda one: one.name) if one.stats]
    is_hub = find_hubs(stack([stats.thumbnail for _, stats in found]), radius)
    photos = [found[place] for place in np.flatnonzero(~is_hub).tolist()]
    thumbnails = stack([stats.thumbnail for _, stats in photos])
    pairs = candidates(thumbnails, radius)
    alike = compare(thumbnails, pairs)
    best: dict[tuple[str, str], tuple[float, How]] = {}
    for place in np.flatnonzero(alike.similarity >= similarity).tolist():
        ends = photos[pairs.first[place]], photos[pairs.second[place]]
        (first, one), (second, other) = sorted(ends, key=lambda photo: photo[0])
        value, how = best.get((first, second), (0.0, "scene"))
        whole, colours = alike.worst[place] <= MAX_BLOCK_DIFFERENCE, colour_distance(one, other)
        if whole and colours <= MAX_COLOUR_DISTANCE:
            how = "near"
        elif colours <= MAX_COLOUR_DISTANCE_EDITED and how != "near":  # the better of the two ways round
            how = "edited"
        best[first, second] = max(value, float(alike.similarity[place])), how
    links = sorted(Link(*names, how, value) for names, (value, how) in best.items())
    return NearLinks(links, [found[place][0] for place in np.flatnonzero(is_hub).tolist()])


def find_hubs(thumbnails: NDArray[np.uint8], radius: int) -> NDArray[np.bool_]:
    """Which of the thumbnails `[N, S, S]` have more than MAX_NEIGHBOURS others within the radius, `[N]`."""
    is_hub = np.zeros(len(thumbnails), bool)
    textured = _textured(thumbnails)
    is_hub[textured] = neighbour_counts(hashes(thumbnails[textured])[0], radius) > MAX_NEIGHBOURS
    return is_hub


def _textured(thumbnails: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.flatnonzero(thumbnails.std(axis=(1, 2)) >= MIN_DEVIATION)


def colour_distance(one: PhotoStats, other: PhotoStats) -> float:
    """Earth mover's distance of the opponent colours at equal brightness, in grey levels: the larger of both channels.

    Histograms ignore place, so that no crop or turn has to be undone.
    """
    first, second = (np.frombuffer(stats.colours, np.int16).reshape(2, -1) for stats in (one, other))
    brighter = other.quality.brightness / max(one.quality.brightness, 1 / 255)
    return float(np.abs(brighter * first - second).mean(1).max())


def candidates(thumbnails: NDArray[np.uint8], radius: int) -> Candidates:
    """Every pair of thumbnails `[N, S, S]` whose hashes differ in at most `radius` bits once the first is turned by
    some symmetry and cut by some crop.
    """
    textured = _textured(thumbnails)
    count = len(textured)
    if count < 2:
        return Candidates(*np.empty((3, 0), np.int64))
    whole = hashes(thumbnails[textured])
    codes = []
    for crop in range(len(CROPS)):
        queries = hashes(thumbnails[textured], crop) if crop else whole
        query, target = pairs_within(queries.ravel(), whole[0], radius)
        # Uncut, a pair matches either way round.
        apart = query % count < target if crop == 0 else query % count != target
        codes.append(query[apart] * count + target[apart])
    query, target = np.divmod(np.unique(np.concatenate(codes)), count)
    return Candidates(textured[query % count], query // count, textured[target])


def compare(thumbnails: NDArray[np.uint8], pairs: Candidates) -> Likeness:
    """How alike the pairs are, the first turned by its symmetry: unmoved or registered, whichever fits better.

    Similarity 0: below MIN_CORRELATION before registration.
    """
    found = Likeness(np.zeros(len(pairs.first), np.float32), np.full(len(pairs.first), np.inf, np.float32))

    def fill(start: int) -> None:
        part = slice(start, start + PAIRS_AT_ONCE)
        turned = thumbnails[pairs.first[part]]
        for symmetry in np.unique(pairs.symmetry[part]):
            here = pairs.symmetry[part] == symmetry
            turned[here] = turn(turned[here], int(symmetry))
        first, second = blurred(turned), blurred(thumbnails[pairs.second[part]])
        likely = np.flatnonzero(correlation(first, second) >= MIN_CORRELATION)
        if len(likely):
            lying, moved = (way(first[likely], second[likely]) for way in (as_they_lie, aligned))
            # A large watermark pulls at the registration; without a crop none is needed.
            found.similarity[start + likely] = np.maximum(lying.similarity, moved.similarity)
            found.worst[start + likely] = np.minimum(lying.worst, moved.worst)

    with ThreadPoolExecutor(usable_cores()) as pool:  # numpy releases the GIL
        list(pool.map(fill, range(0, len(pairs.first), PAIRS_AT_ONCE)))
    return found
