"""The split check beside imagededup's PHash: what is found and what wrongly; and the cost of matching 71,000 photos.

    python -m benchmarks.split_check [--copies 300] [--more FOLDER]

Needs `pip install -r benchmarks/requirements.txt -c constraints.txt`, and the sample photos in data_cars. --more adds
a folder of photos, none a copy of another, to the search for false pairs: `python -m samples.draw FOLDER --seed 99`.
"""

import argparse
import logging
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from samples.camera import take
from samples.draw import render
from serving.inference.photo.cores import usable_cores
from stages.benchmark import peak_memory_mb
from stages.common.base.params import load
from stages.common.base.photos import CLEAN_LABEL, SPLITS, Photo, list_photos
from stages.split_check.groups import JOINING
from stages.split_check.near.hashing import BITS, CROPS, SYMMETRIES, neighbour_counts, pairs_within
from stages.split_check.near.search import near_links
from stages.split_check.params import Params
from stages.split_check.scan import ScannedPhoto, scan
from tests.support.edits import EDITS, save
from tests.support.wash_gate import GATE, shoot

USUAL_THRESHOLD = 10  # bits: imagededup's default
SIZES = (8_875, 17_750, 35_500, 71_000, 142_000)
PLANTED = 1_000
Pairs = set[tuple[str, str]]


# --- matching ---


def match(count: int, radius: int, seed: int = 0) -> tuple[float, float, float, int, int]:
    """Seconds, CPU seconds, peak MB, planted pairs, those found: hashes of `count` photos as the stage matches them."""
    rng = np.random.default_rng(seed)
    whole = rng.integers(0, 2**BITS, count, np.uint64)
    queries = rng.integers(0, 2**BITS, (len(CROPS), len(SYMMETRIES), count), np.uint64)
    queries[0, 0] = whole
    first, second = rng.permutation(count)[: 2 * PLANTED].reshape(2, PLANTED)
    crop, symmetry = rng.integers(0, len(CROPS), PLANTED), rng.integers(0, len(SYMMETRIES), PLANTED)
    planted = whole[second].copy()
    for place in range(PLANTED):  # as different as it may be, or less
        for bit in rng.choice(BITS, rng.integers(0, radius + 1), replace=False).tolist():
            planted[place] ^= np.uint64(1 << bit)
    queries[crop, symmetry, first] = planted
    start, cpu = time.perf_counter(), time.process_time()
    neighbour_counts(whole, radius)  # as the stage counts them first
    found = [pairs_within(queries[crop].ravel(), whole, radius) for crop in range(len(CROPS))]
    took, spent = time.perf_counter() - start, time.process_time() - cpu
    pairs = {
        (c, q, t) for c, part in enumerate(found) for q, t in zip(*(column.tolist() for column in part), strict=True)
    }
    wanted = set(zip(crop.tolist(), (symmetry * count + first).tolist(), second.tolist(), strict=True))
    return took, spent, peak_memory_mb(), len(wanted), len(wanted & pairs)


def matching(radius: int) -> Iterator[str]:
    """The cost at several sizes, each in a fresh process."""
    yield f"hashes of {len(SYMMETRIES)} symmetries and {len(CROPS)} crops of every photo against all, radius {radius}"
    yield f"{'photos':>10}{'seconds':>10}{'CPU s':>8}{'peak MB':>10}{'planted':>10}{'found':>8}"
    for count in SIZES:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            took, spent, peak, planted, found = pool.submit(match, count, radius).result()
        yield f"{count:10,}{took:10.1f}{spent:8.1f}{peak:10.0f}{planted:10}{found:8}"
    yield "to reach at 71,000: 20 s, 1,000 MB, all found"


# --- what is found ---


def plant(originals: list[Path], folder: Path, kind: str, rng: np.random.Generator) -> None:
    """An edited copy of each of the originals, as a JPEG."""
    for number, path in enumerate(originals):
        with Image.open(path) as photo:
            save(kind, photo.convert("RGB"), folder / f"{number:04}.jpg", rng)


def listed(folder: Path) -> list[Photo]:
    """Every JPEG below a folder; labels do not matter here."""
    return [Photo(path.relative_to(folder).as_posix(), CLEAN_LABEL) for path in sorted(folder.rglob("*.jpg"))]


def named(scanned: list[ScannedPhoto], prefix: str) -> list[ScannedPhoto]:
    return [replace(one, photo=Photo(f"{prefix}/{one.name}", one.photo.label)) for one in scanned]


def found_by_us(scanned: list[ScannedPhoto], params: Params) -> Pairs:
    section = params.split_check
    links = near_links(scanned, section.hash_radius, section.similarity).links
    return {(link.first, link.second) for link in links if link.how in JOINING}


def phash() -> Any:
    """imagededup's PHash. It brings torch, whose memory is not to be counted where ours is measured."""
    from imagededup.methods import PHash

    return PHash(verbose=False)


def found_by_imagededup(encodings: dict[str, str]) -> Pairs:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that workers for encoding are of no use here
        found = phash().find_duplicates(
            encoding_map=encodings, max_distance_threshold=USUAL_THRESHOLD, num_dist_workers=usable_cores()
        )
    return {(min(a, b), max(a, b)) for a, others in found.items() for b in others}


def encoded(folder: Path, prefix: str) -> dict[str, str]:
    codes = phash().encode_images(folder, recursive=True, num_enc_workers=usable_cores())
    return {f"{prefix}/{Path(name)}": code for name, code in codes.items()}


def quality(folder: Path, params: Params, copies: int, more: Path | None) -> Iterator[str]:
    """Recall by kind of edit, and pairs of different cars taken for copies."""
    root, rng = Path(params.data.root), np.random.default_rng(0)
    scanned = named(scan(root, [photo for split in SPLITS for photo in list_photos(root, split)]), "cars")
    codes = encoded(root, "cars")
    picked = [scanned[index] for index in sorted(rng.choice(len(scanned), copies, replace=False).tolist())]
    yield f"{copies} copies of each kind among {len(scanned)} sample photos{'':14}{'split_check':>14}{'imagededup':>12}"
    for number, kind in enumerate(EDITS):
        place = folder / f"edit{number}"
        place.mkdir()
        plant([root / one.name.removeprefix("cars/") for one in picked], place, kind, rng)
        wanted = {(one.name, f"copy/{index:04}.jpg") for index, one in enumerate(picked)}
        ours = found_by_us(scanned + named(scan(place, listed(place)), "copy"), params)
        theirs = found_by_imagededup(codes | encoded(place, "copy"))
        recall = [len(wanted & found) / len(wanted) for found in (ours, theirs)]
        yield f"recall, {kind:60}{recall[0]:14.3f}{recall[1]:12.3f}"
    yield "to reach: 0.95"
    if more:
        scanned, codes = scanned + named(scan(more, listed(more)), "more"), codes | encoded(more, "more")
    false = [len(found_by_us(scanned, params)), len(found_by_imagededup(codes))]
    yield f"false pairs among {len(scanned):,} photos of different cars{'':24}{false[0]:14}{false[1]:12,}"
    per = [count * (10_000 / len(scanned)) ** 2 for count in false]
    yield f"  so among 10,000 (as many times more as there are pairs){'':13}{per[0]:14.1f}{per[1]:12,.0f}"
    yield "to reach: 1"


def washed(folder: Path, params: Params, cars: int = 100) -> Iterator[str]:
    """The same shot of one car, clean and dirty: one car for the groups, but no photo with two labels."""
    folder = folder / "washed"
    folder.mkdir()
    for index in range(cars):
        for state, severity in (("before", 0.8), ("after", 0.0)):
            shot = render(7_000, index, severity)
            photo = take(np.random.default_rng([index, int(severity > 0)]), shot.image, shot.size)
            (folder / f"{index:03}{state}.jpg").write_bytes(photo)
    section = params.split_check
    links = near_links(scan(folder, listed(folder)), section.hash_radius, section.similarity).links
    same = [link.how for link in links if link.first[:3] == link.second[:3]]
    yield f"{cars} cars, one camera position each, before and after the wash; linked"
    yield f"  as one shot changed in a part {same.count('edited')}, as copies (a false conflict) {same.count('near')}"
    yield f"  as one scene, which joins nothing {same.count('scene')}"


def gated(folder: Path, params: Params, cars: int = 300) -> Iterator[str]:
    """A fixed camera: every photo shows another car, so that whatever is joined is joined wrongly."""
    folder = folder / "gated"
    folder.mkdir()
    with ProcessPoolExecutor(usable_cores(), mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(partial(shoot, folder, place=GATE), range(cars), chunksize=8))
    section = params.split_check
    found = near_links(scan(folder, listed(folder)), section.hash_radius, section.similarity)
    how = [link.how for link in found.links]
    yield f"{cars} cars before one fixed camera, {cars * (cars - 1) // 2:,} pairs"
    yield f"  photos left aside as hubs {len(found.hubs)}"
    yield f"  pairs told as one scene {how.count('scene')}"
    yield f"  joined as shots of one moment (false) {how.count('edited')}, as copies (false) {how.count('near')}"


def report(arguments: argparse.Namespace) -> Iterator[str]:
    params = load(Params)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield from matching(params.split_check.hash_radius)
        yield ""
        yield from quality(folder, params, arguments.copies, arguments.more)
        yield ""
        yield from washed(folder, params)
        yield ""
        yield from gated(folder, params)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=300)
    parser.add_argument("--more", type=Path, help="a folder of JPEGs, each of another car")
    arguments = parser.parse_args()
    logging.disable(logging.INFO)  # imagededup's
    for line in report(arguments):
        print(line, flush=True)


if __name__ == "__main__":
    main()
