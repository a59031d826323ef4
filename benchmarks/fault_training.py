"""Faults against real training runs, which must end with the bits of a run that nothing happened to.

`python -m benchmarks.faults --only training`.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.fault_row import Row
from benchmarks.training_run import SECONDS, Training
from tests.support.workspace import write_photos

NOTICED = 30.0  # seconds within which the death of one process must end the others
STATE_LIMIT = 8192  # blocks of 512 bytes: more than any output, less than a state

Fault = Callable[[Training, random.Random], str]


def killed(training: Training, rng: random.Random) -> str:
    """kill -9 of all its processes, as a power cut or the end of memory does it, at any moment of its life. Half of
    the runs have to decode the photos first."""
    if rng.random() < 0.5:
        shutil.rmtree(training.folder / ".scratch" / "pixels", ignore_errors=True)
    while not training.kill_after(rng.uniform(0.0, training.seconds)):
        continue  # it was done already
    return training.finish()


def killed_again_and_again(training: Training, rng: random.Random) -> str:
    """Five kills, then left alone."""
    kills = 0
    while kills < 5:
        kills += training.kill_after(rng.uniform(0.5, 1.0) * training.seconds)
    return training.finish()


def interrupted(training: Training, rng: random.Random) -> str:
    """Ctrl-C."""
    said = training.stop(signal.SIGINT, states=rng.randrange(1, 8))
    if "train: interrupted" not in said or "Traceback" in said:
        raise RuntimeError(f"it was not interrupted: {said}")
    return training.finish()


def torn(training: Training, rng: random.Random) -> str:
    """Killed, and the newest state cut short, as on a disk that lied about a write."""
    training.stop(signal.SIGKILL, states=rng.randrange(2, 8))
    newest = training.states()[-1]
    os.truncate(newest, rng.randrange(newest.stat().st_size))
    return training.finish()


def flipped(training: Training, rng: random.Random) -> str:
    """Killed, and one bit of the newest state flipped."""
    training.stop(signal.SIGKILL, states=rng.randrange(2, 8))
    newest = training.states()[-1]
    content = bytearray(newest.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    newest.write_bytes(content)
    return training.finish()


def half_a_pack(training: Training, rng: random.Random) -> str:
    """The packed pixels cut short."""
    for file in training.folder.glob(".scratch/pixels/*/*"):
        os.truncate(file, rng.randrange(file.stat().st_size))
    return training.finish()


def full_disk(training: Training, rng: random.Random) -> str:
    """No room for states, enough for the outputs."""
    return training.finish(limit=f"ulimit -f {STATE_LIMIT}")


def twice_at_once(training: Training, rng: random.Random) -> str:
    """The same run twice in one folder: one is refused, and then one is killed."""
    one, other = training.start(), training.start()
    time.sleep(rng.uniform(0.3, 1.0) * training.seconds)
    os.killpg(one.pid, signal.SIGKILL)
    one.communicate()
    said = other.communicate(timeout=3 * SECONDS)[1]
    return said if other.returncode == 0 else training.finish()


def one_process_dies(training: Training, rng: random.Random) -> str:
    """One of two training processes killed; the other must stop soon, and both go on later."""
    process = training.start()
    training.wait_for_states(process, rng.randrange(1, 8))
    dead = time.monotonic()
    os.kill(rng.choice(training.ranks(process)), signal.SIGKILL)
    said = process.communicate(timeout=SECONDS)[1]
    if time.monotonic() - dead > NOTICED or "a training process failed" not in said:
        raise RuntimeError(f"the others went on for {time.monotonic() - dead:.0f} s: {said}")
    return training.finish()


def trials(name: str, fault: Fault, training: Training, count: int, seed: int) -> Row:
    """Inject a fault `count` times."""
    recovered, lost, resumed, notes = 0, 0, 0, []
    for trial in range(count):
        try:
            said = fault(training, random.Random(f"{seed} {name} {trial}"))
            same = training.outputs() == training.wanted
            recovered, lost = recovered + same, lost + (not same)
            resumed += "goes on from step" in said
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            notes.append(" ".join(str(error).split())[-200:])
    return Row(f"training: {name}", count, recovered, lost, "; ".join([f"{resumed} went on from a state", *notes]))


def run(count: int, seed: int) -> Iterator[list[Row]]:
    """Inject each fault `count` times, those that take long a fifth as often; and some of these at least once."""
    few, once = count // 5, max(1, count // 5)
    with tempfile.TemporaryDirectory(prefix="dirtycar-training-") as name:
        for processes in (1, 2):
            folder = Path(name, str(processes))
            write_photos(folder / "data_cars", clean=40, dirty=20)
            training = Training(folder, processes)
            plan: list[tuple[str, Fault, int]] = [
                ("Ctrl-C of two processes", interrupted, few), ("a process of two killed", one_process_dies, once)
            ]  # fmt: skip
            if processes == 1:
                plan = [
                    ("kill -9", killed, count), ("kill -9, five times over", killed_again_and_again, few),
                    ("Ctrl-C", interrupted, once), ("torn state", torn, once), ("flipped bit in a state", flipped, few),
                    ("torn pixels", half_a_pack, few), ("no room for states", full_disk, few),
                    ("twice at once, one killed", twice_at_once, once),
                ]  # fmt: skip
            for title, fault, times in plan:
                if times:
                    yield [trials(title, fault, training, times, seed)]
