"""The order in which photos are decoded and scored, and what happens when nothing moves any more."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from serving.engine.batcher import Batcher, Stuck
from serving.inference.photo.errors import BrokenPhoto
from serving.process import watchdog
from serving.process.metrics import WORKERS_STUCK

PIXELS = np.zeros((2, 2, 3), np.uint8)


class FakePredictor:
    """A model whose p_clean is a photo's first value over 255; it keeps the sizes of its batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def scores(self, images: np.ndarray) -> np.ndarray:
        self.sizes.append(len(images))
        return images[:, 0, 0, 0] / np.float32(255)


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What a fake decoder waits for; set at the end, so that no thread stays behind."""
    event = threading.Event()
    yield event
    event.set()


def waits(release: threading.Event, begun: threading.Event) -> Callable[[], np.ndarray]:
    """A decoder that hangs until it is released."""

    def decode() -> np.ndarray:
        begun.set()
        release.wait(20)
        return PIXELS

    return decode


def test_a_reload_between_photos_keeps_each_photo_with_its_model() -> None:
    """A batch is never mixed: a photo is scored by the model that it was decoded for."""
    batcher = Batcher(1, 1, 16)
    old, new = FakePredictor(), FakePredictor()
    futures = [batcher.submit(predictor, [lambda: PIXELS])[0] for predictor in (old, new, old, new)]
    assert [future.result(10) for future in futures] == [0] * 4
    assert sum(old.sizes) == sum(new.sizes) == 2
    batcher.close()


@pytest.mark.parametrize(("threads", "sizes"), [(1, [3, 3, 1]), (2, None)])
def test_photos_of_a_request_are_scored_oldest_first_and_share_calls(threads: int, sizes: list[int] | None) -> None:
    """One thread decodes a batch before it calls; where another may decode meanwhile, a call starts at once."""
    events: list[int] = []
    predictor, go = FakePredictor(), threading.Event()

    def decode(number: int) -> np.ndarray:
        go.wait(10)
        events.append(number)
        return np.full((2, 2, 3), 10 * number, np.uint8)

    batcher = Batcher(threads, 1, 3)
    futures = batcher.submit(predictor, [partial(decode, number) for number in range(7)])
    go.set()
    assert [f.result(10) for f in futures] == pytest.approx([10 * number / 255 for number in range(7)], abs=1e-5)
    batcher.close()
    assert sum(predictor.sizes) == 7 and (sizes is None or predictor.sizes == sizes)
    assert threads > 1 or events == list(range(7))


def test_many_photos_of_one_request_hold_up_no_other(release: threading.Event) -> None:
    """Four clients with a photo each come after one with 32: they wait for a photo each, not for 32."""
    batcher, predictor, order, begun = Batcher(1, 1, 2), FakePredictor(), [], threading.Event()
    blocker = batcher.submit(predictor, [waits(release, begun)])
    assert begun.wait(10)

    def decoder(client: str) -> Callable[[], np.ndarray]:
        return lambda: order.append(client) or PIXELS

    futures = batcher.submit(predictor, [decoder("many")] * 32)
    for client in "abcd":
        futures += batcher.submit(predictor, [decoder(client)])
    futures += batcher.submit(predictor, [decoder("self-check")], first=True)
    release.set()
    for future in blocker + futures:
        future.result(10)
    batcher.close()
    assert order == ["self-check", "many", "a", "b", "c", "d"] + ["many"] * 31


def test_what_nobody_waits_for_is_not_decoded(release: threading.Event) -> None:
    begun, decoded = threading.Event(), []

    def slow() -> np.ndarray:
        begun.set()
        release.wait(10)
        raise BrokenPhoto("no photo")

    batcher = Batcher(1, 1, 4)
    first, second = batcher.submit(FakePredictor(), [slow, lambda: decoded.append(1)])
    begun.wait(10)
    batcher.drop([first, second])
    assert second.cancelled() and not first.cancelled() and not batcher._raw
    release.set()
    with pytest.raises(BrokenPhoto):
        first.result(10)
    batcher.close()
    assert not decoded


def test_standing_still_is_told_from_being_busy(release: threading.Event) -> None:
    begun = [threading.Event(), threading.Event()]
    batcher = Batcher(2, 2, 1)
    batcher.submit(FakePredictor(), [waits(release, begun[0])])
    assert begun[0].wait(10) and batcher.busy_since() is None  # the other thread is free
    started = time.monotonic()
    batcher.submit(FakePredictor(), [waits(release, begun[1])])
    assert begun[1].wait(10)
    since = batcher.busy_since()
    assert since is not None and started <= since <= time.monotonic() and batcher.busy_since() == since
    release.set()
    batcher.close()
    assert batcher.busy_since() is None


def test_a_model_call_that_hangs_holds_up_all_where_there_is_but_one(release: threading.Event) -> None:
    """On a GPU other threads are free to decode, and yet nothing moves."""
    batcher, entered = Batcher(3, 1, 4), threading.Event()
    hanging = SimpleNamespace(scores=lambda images: waits(release, entered)() and None)
    batcher.submit(hanging, [lambda: PIXELS])
    assert entered.wait(10) and batcher.busy_since() is not None


def test_the_watchdog_ends_a_process_that_stands_still(
    release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, begun, alarms = threading.Event(), threading.Event(), []
    monkeypatch.setattr(watchdog, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(watchdog.signal, "alarm", alarms.append)
    monkeypatch.setattr(watchdog.os, "kill", lambda pid, number: ended.set() if number == signal.SIGTERM else None)
    before = WORKERS_STUCK._value.get()
    batcher, predictor = Batcher(1, 1, 1), FakePredictor()
    watchdog.watch(batcher, 0.5)
    for future in batcher.submit(predictor, [lambda: time.sleep(0.03) or PIXELS] * 20):
        future.result(10)  # busy for longer than that, but it moves
    assert not ended.is_set()
    batcher.submit(predictor, [waits(release, begun)])
    (waiting,) = batcher.submit(predictor, [lambda: PIXELS])
    assert ended.wait(10) and alarms == [watchdog.LAST_SECONDS]
    assert WORKERS_STUCK._value.get() == before + 1
    with pytest.raises(Stuck):
        waiting.result(1)
    with pytest.raises(Stuck):
        batcher.submit(predictor, [lambda: PIXELS])
