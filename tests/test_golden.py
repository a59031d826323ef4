"""Golden answers: the same pictures everywhere, and a choice that rounding on another processor cannot upset."""

import hashlib

import numpy as np
import pytest

from serving.inference.model.golden import CANDIDATES, COUNT, MARGIN, Golden, difference, images, pick
from serving.inference.verdict.rule import Rule


def test_the_pictures_are_the_same_on_every_machine() -> None:
    """Files hold answers to these very pictures: whoever changes them makes every exported file unusable."""
    digests = {size: hashlib.sha256(images(range(3), size).tobytes()).hexdigest()[:16] for size in (33, 128)}
    assert digests == {33: "a1637494bccb550c", 128: "422f80d9c7d76b93"}


def test_a_picture_depends_on_its_seed_alone() -> None:
    assert (images([5, 3], 32)[1] == images([3], 32)[0]).all()
    assert len({picture.tobytes() for picture in images(CANDIDATES, 32)}) == len(CANDIDATES)
    assert images([2**64 - 1], 32).shape == (1, 32, 32, 3)


def test_picked_answers_are_spread_and_away_from_the_thresholds() -> None:
    p_clean = np.concatenate([np.full(40, 0.001), np.linspace(0.3, 0.9, 24)])
    picked = p_clean[pick(p_clean.tolist(), [0.75, 0.5])]
    assert len(picked) == COUNT and (np.abs(picked[:, None] - [0.75, 0.5]) >= MARGIN).all()
    assert picked.min() < 0.3 and picked.max() > 0.85 and ((picked > 0.3) & (picked < 0.7)).any()
    assert pick([0.5, 0.51, 0.9], [0.5]) == [2]


def test_golden_answers_survive_their_text() -> None:
    golden = Golden((0, 2**64 - 1), (0.1, 1 / 3))
    assert Golden.read(golden.text()) == golden


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "", "[]", "{}", '{"seeds": [1], "p_clean": []}', '{"seeds": [], "p_clean": []}',
     '{"seeds": [-1], "p_clean": [0]}',
     '{"seeds": [true], "p_clean": [0]}', '{"seeds": [1.0], "p_clean": [0]}', '{"seeds": [1], "p_clean": [NaN]}',
     '{"seeds": [1], "p_clean": [1.5]}', '{"seeds": [1], "p_clean": ["0.5"]}', '{"seeds": 1, "p_clean": 1}'],
)  # fmt: skip
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Golden.read(text)


GOLDEN = Golden((7, 8, 9), (0.2, 0.52, 0.9))


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([0.2, 0.52, 0.9], None),
        ([0.215, 0.53, 0.885], None),
        ([0.2, 0.52, 0.87], ["1 of 3", "image 9", "0.8700", "0.9000"]),
        ([0.25, 0.52, 0.8], ["2 of 3", "image 9"]),  # the worst
        ([0.2, 0.505, 0.9], ["0 of 3", "image 8", "dirty", "clean"]),  # within the tolerance, another verdict
        ([0.2, float("nan"), 0.9], ["1 of 3", "image 8", "nan"]),
    ],
)
def test_other_answers_are_told_with_the_worst(answers: list[float], words: list[str] | None) -> None:
    told = difference(GOLDEN, answers, Rule(0.51))
    assert told is None if words is None else told is not None and all(word in told for word in words)
