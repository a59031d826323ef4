"""Golden answers: what the model said, where it was exported, of pictures that any machine can draw again.

int8 products that overflow, a wrong driver or a faulty kernel give other answers without any error. A file that carries
golden answers is checked against them wherever it is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from serving.inference.verdict.rule import Rule

COUNT = 16  # golden images in a file
CANDIDATES = range(64)  # seeds that `pick` chooses from
TOLERANCE = 0.02  # of p_clean and distance: processors differ in the last bits, int8 in a few rounded activations
MARGIN = 0.03  # between a golden p_clean and a threshold: rounding within TOLERANCE then changes no verdict

_OCTAVES = (2, 4, 8, 16, 32, 64)  # cells a side; photos have amplitudes inverse to the frequency
_BROWN = (96, 74, 52)

Integers = NDArray[np.int64]


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Golden:
    """Seeds of `images`, and the p_clean and distance of each."""

    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**64)], ...], Field(min_length=1)]
    p_clean: tuple[Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)], ...]
    distance: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = ()  # of models that tell one

    def __post_init__(self) -> None:
        if not len(self.seeds) == len(self.p_clean) == len(self.distance or self.seeds):
            raise ValueError("seeds, p_clean and distance must have one length")

    @classmethod
    def read(cls, text: str) -> Golden:
        """From JSON, as `text` gives it. Raises ValueError when it is anything else."""
        return TypeAdapter(cls).validate_json(text)

    def text(self) -> str:
        """As JSON, every digit kept."""
        return json.dumps({"seeds": self.seeds, "p_clean": self.p_clean, "distance": self.distance})


def difference(golden: Golden, p_clean: Sequence[float], rule: Rule, distance: Sequence[float] = ()) -> str | None:
    """How answers to the golden images, in their order, are not the golden ones: the worst of them; None if they are.

    `rule` is the one that the file was exported with: a threshold set here may lie close to a golden answer.
    """
    for expected, found, seed in zip(golden.distance, distance, golden.seeds, strict=False):
        if not abs(expected - found) <= TOLERANCE:
            return f"golden image {seed} has distance {found:.4f}, where the file was exported it had {expected:.4f}"
    pairs = sorted(zip(golden.p_clean, p_clean, golden.seeds, strict=True), key=lambda pair: -abs(pair[0] - pair[1]))
    for expected, found, seed in pairs:
        verdicts = rule.decide(expected), rule.decide(found)
        if not abs(expected - found) <= TOLERANCE or verdicts[0] != verdicts[1]:
            wrong = sum(not abs(a - b) <= TOLERANCE for a, b, _ in pairs)
            return (
                f"golden image {seed} has p_clean {found:.4f} ({verdicts[1]}), where the file was exported it had "
                f"{expected:.4f} ({verdicts[0]}); {wrong} of {len(pairs)} are off by more than {TOLERANCE}"
            )
    return None


def pick(p_clean: Sequence[float], thresholds: Collection[float], count: int = COUNT) -> list[int]:
    """The positions of `count` candidates, spread over the range of p_clean, and at least MARGIN from any threshold.

    A p_clean near 0 or 1 hides an error of the logit, hence the spread. With fewer candidates far enough from the
    thresholds, all of those are taken.
    """
    left = [i for i, p in enumerate(p_clean) if all(abs(p - t) >= MARGIN for t in thresholds)]
    picked: list[int] = []
    for target in np.linspace(0, 1, count):
        if left:
            picked.append(min(left, key=lambda i: abs(p_clean[i] - target)))
            left.remove(picked[-1])
    return sorted(picked)


def images(seeds: Sequence[int], size: int) -> NDArray[np.uint8]:
    """A picture for each seed, uint8 RGB `[N, size, size, 3]`, the same on every machine and with every NumPy.

    They have the frequencies of photos of cars: flat areas with edges, and noise with amplitudes inverse to frequency.
    """
    return np.stack([_picture(seed, size) for seed in seeds])


def _picture(seed: int, size: int) -> NDArray[np.uint8]:
    # Raw bits and integers only: NumPy keeps the stream of a bit generator, not what its distributions make of it.
    bits = np.random.PCG64(seed)
    y, x = np.mgrid[:size, :size] * 64 // size  # in 64ths of the side
    shade, light, dirt = (int(value) for value in _bytes(bits, 3))
    image = np.broadcast_to(_bytes(bits, 3), (size, size, 3)).copy()  # sky
    image[y >= 44] = _bytes(bits, 3) // 2  # ground
    body = (y >= 24) & (y < 48) & (x >= 6) & (x < 58)
    image[body | ((y >= 14) & (y < 24) & (x >= 16) & (x < 46))] = _bytes(bits, 3)
    image[(y >= 16) & (y < 24) & (x >= 18) & (x < 44) & (x // 2 != 15)] = shade // 4  # windows
    for middle in (17, 46):
        image[(y - 48) ** 2 + (x - middle) ** 2 < 49] = shade // 6  # wheels
    image += (_noise(bits, size) * light >> 8)[..., None]
    mask = np.where(body, np.clip(3 * _noise(bits, size) + 2 * dirt - 192, 0, 255), 0)[..., None]
    image += (_BROWN - image) * mask >> 8
    return np.clip(image, 0, 255).astype(np.uint8)


def _noise(bits: np.random.PCG64, size: int) -> Integers:
    """Noise with mean 0 and values within 128 of it, `[size, size]`: finer octaves are weaker."""
    total = np.zeros((size, size), np.int64)
    for octave, cells in enumerate(_OCTAVES):
        grid = _bytes(bits, (cells + 1) ** 2).reshape(cells + 1, cells + 1) - 128
        total += _stretched(_stretched(grid, size).T, size).T >> (octave + 1)
    return total


def _stretched(rows: Integers, size: int) -> Integers:
    """`[n + 1, m]` to `[size, m]`, linearly between the rows."""
    place = np.arange(size) * 256 * (len(rows) - 1) // size
    below, part = place >> 8, (place & 255)[:, None]
    result: Integers = (rows[below] * (256 - part) + rows[below + 1] * part) >> 8
    return result


def _bytes(bits: np.random.PCG64, count: int) -> Integers:
    """Random integers from 0 to 255, `[count]`."""
    return (bits.random_raw(count) >> np.uint64(56)).astype(np.int64)
