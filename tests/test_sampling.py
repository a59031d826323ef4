"""What is trained on, in which order: drawn from (seed, epoch) alone, dealt out to processes without loss."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stages.common.base.errors import StageError
from stages.common.base.params import load
from stages.common.base.photos import CLEAN_LABEL, DIRTY_LABEL, Origin, Photo
from stages.train.params import Params, TrainParams
from stages.train.sampling import Batches, chances, epoch_order, hold_out

PARAMS = load(Params, Path(__file__).parents[1] / "params.yaml").train
LABELS = np.array([CLEAN_LABEL] * 90 + [DIRTY_LABEL] * 10)
PHOTOS = [Photo(f"train/{i:03}.jpg", int(label)) for i, label in enumerate(LABELS)]
ORIGINS = [Origin(photo.name) for photo in PHOTOS]  # a car in every photo


def with_sampler(name: str, ratio: float = 1.0, batch_size: int = 8) -> TrainParams:
    return replace(PARAMS, sampler=name, oversample_ratio=ratio, batch_size=batch_size)


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_weighted_draws_the_share_of_dirty_photos(share: float) -> None:
    params = replace(with_sampler("weighted"), dirty_share=share)
    drawn = np.concatenate([LABELS[epoch_order(LABELS, ORIGINS, params, epoch)] for epoch in range(100)])
    assert abs((drawn == DIRTY_LABEL).mean() - share) < 0.02


def test_cars_are_equally_likely_however_many_photos_they_have() -> None:
    labels = np.array([CLEAN_LABEL, CLEAN_LABEL, CLEAN_LABEL, CLEAN_LABEL, DIRTY_LABEL, DIRTY_LABEL])
    origins = [Origin(car) for car in "AAABBC"]
    params = replace(PARAMS, dirty_share=0.4)
    assert chances(labels, origins, params) == pytest.approx([0.1, 0.1, 0.1, 0.3, 0.2, 0.2])


@pytest.mark.parametrize(("balance", "catalogue"), [("class", 0.8), ("class_and_source", 2 / 3)])
def test_a_source_with_one_class_does_not_stand_for_it(balance: str, catalogue: float) -> None:
    labels = np.array([CLEAN_LABEL] * 20 + [DIRTY_LABEL] * 10)
    sources = ["catalogue"] * 16 + ["phones"] * 14
    origins = [Origin(str(car), source) for car, source in enumerate(sources)]
    chance = chances(labels, origins, replace(PARAMS, balance=balance, dirty_share=0.5))
    assert chance[:16].sum() == pytest.approx(0.5 * catalogue) and chance[20:].sum() == pytest.approx(0.5)


@pytest.mark.parametrize(("ratio", "dirty"), [(1.0, 90), (0.5, 45), (0.01, 10)])
def test_oversample_repeats_dirty_and_keeps_every_clean(ratio: float, dirty: int) -> None:
    order = epoch_order(LABELS, ORIGINS, with_sampler("oversample", ratio, batch_size=1), 0)
    counts = np.bincount(order, minlength=len(LABELS))
    assert (counts[LABELS == CLEAN_LABEL] == 1).all()
    assert counts[LABELS == DIRTY_LABEL].sum() == dirty
    assert np.ptp(counts[LABELS == DIRTY_LABEL]) <= 1


def test_none_takes_every_photo_once_and_fills_the_last_batch() -> None:
    order = epoch_order(LABELS, ORIGINS, with_sampler("none"), 0)
    assert len(order) == 104
    assert sorted(order[:100]) == list(range(100))
    assert (order[100:] == order[:4]).all()


@pytest.mark.parametrize("sampler", ["weighted", "oversample", "none"])
def test_an_epoch_repeats_and_epochs_differ(sampler: str) -> None:
    params = with_sampler(sampler)
    assert (epoch_order(LABELS, ORIGINS, params, 3) == epoch_order(LABELS, ORIGINS, params, 3)).all()
    assert (epoch_order(LABELS, ORIGINS, params, 3) != epoch_order(LABELS, ORIGINS, params, 4)).any()
    assert (epoch_order(LABELS, ORIGINS, params, 3) != epoch_order(LABELS, ORIGINS, replace(params, seed=1), 3)).any()


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_every_batch(world: int) -> None:
    params = with_sampler("weighted")
    whole = list(Batches(LABELS, ORIGINS, params, 0, 1))
    parts = [list(Batches(LABELS, ORIGINS, params, rank, world)) for rank in range(world)]
    assert [[key for share in shares for key in share] for shares in zip(*parts, strict=True)] == whole
    assert len(whole) == len(Batches(LABELS, ORIGINS, params, 0, 1))


def test_a_batch_that_cannot_be_shared_out_is_named() -> None:
    with pytest.raises(StageError, match=r"batch_size: 8 cannot be shared out among 3 .*; use a multiple of 3 or set"):
        Batches(LABELS, ORIGINS, with_sampler("weighted"), 0, 3)


def test_hold_out_takes_about_the_share_and_loses_none() -> None:
    photos = [Photo(str(number), CLEAN_LABEL if number % 3 else DIRTY_LABEL) for number in range(3000)]
    names = [photo.name for photo in photos]
    fit, held = hold_out(photos, names, 0.2, seed=0)
    assert sorted(fit + held) == sorted(photos)
    assert sum(photo.label == CLEAN_LABEL for photo in held) == pytest.approx(400, abs=60)
    assert sum(photo.label == DIRTY_LABEL for photo in held) == pytest.approx(200, abs=45)
    assert hold_out(photos, names, 0.2, seed=0) == (fit, held)
    assert hold_out(photos, names, 0.2, seed=1) != (fit, held)


def test_a_photo_more_or_less_moves_no_other_between_the_sides() -> None:
    _, held = hold_out(PHOTOS, ORIGINS, 0.2, seed=0)
    _, fewer = hold_out(PHOTOS[1:], ORIGINS[1:], 0.2, seed=0)
    assert set(held) - {PHOTOS[0]} == set(fewer)


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_hold_out_leaves_both_classes_on_both_sides(share: float) -> None:
    for part in hold_out(PHOTOS[88:92], ORIGINS[88:92], share, seed=0):
        assert {photo.label for photo in part} == {CLEAN_LABEL, DIRTY_LABEL}


def test_no_car_is_both_trained_on_and_held_out() -> None:
    cars = [str(index % 25) for index in range(len(PHOTOS))]  # four photos each, some of both classes
    fit, held = hold_out(PHOTOS, cars, 0.2, seed=0)
    car_of = dict(zip(PHOTOS, cars, strict=True))
    assert not {car_of[photo] for photo in fit} & {car_of[photo] for photo in held}
    assert sorted(fit + held) == PHOTOS and {photo.label for photo in fit} == {photo.label for photo in held}
    assert 5 <= sum(photo.label == CLEAN_LABEL for photo in held) <= 35


@pytest.mark.parametrize("seed", range(20))
def test_a_car_with_photos_of_both_classes_takes_none_away(seed: int) -> None:
    photos = [Photo(str(number), label) for number, label in enumerate(2 * [CLEAN_LABEL] + 2 * [DIRTY_LABEL])]
    for part in hold_out(photos, ["A", "B", "B", "C"], 0.15, seed):
        assert {photo.label for photo in part} == {CLEAN_LABEL, DIRTY_LABEL}


def test_hold_out_is_quick_where_one_car_has_most_photos() -> None:
    photos = [Photo(str(number), number % 2) for number in range(10_000)]
    cars = ["one" if number > 10 else str(number) for number in range(len(photos))]
    started = time.process_time()
    hold_out(photos, cars, 0.15, 0)
    assert time.process_time() - started < 2


def test_all_dirty_photos_of_one_car_cannot_be_split() -> None:
    cars = ["one" if photo.label == DIRTY_LABEL else photo.name for photo in PHOTOS]
    with pytest.raises(StageError, match="train/dirty holds 10 photos of 1 cars"):
        hold_out(PHOTOS, cars, 0.2, seed=0)


def test_a_class_of_one_photo_cannot_be_split() -> None:
    with pytest.raises(StageError, match="train/dirty holds 1 photos of 1 cars"):
        hold_out(PHOTOS[:91], ORIGINS[:91], 0.2, seed=0)
