"""A short version of `python benchmarks/faults.py`: the service withstands every kind of fault."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks import fault_front, fault_photos, fault_service, fault_stuck
from benchmarks.fault_row import Row, table

# Of these, tests/test_service.py, tests/test_front.py and tests/test_urls.py have as much as a short version would.
ELSEWHERE = (
    fault_service.killed_workers,
    fault_service.changed_models,
    fault_front.slow_phones,
    fault_front.stopped_servers,
    fault_stuck.stuck_workers,
    fault_stuck.silent_names,
)
SCENARIOS = [scenario for scenario in fault_service.SCENARIOS if scenario not in ELSEWHERE]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_service_withstands(scenario: fault_service.Scenario, tmp_path: Path) -> None:
    rows = scenario(fault_service.Bench(tmp_path, 1, quick=True))
    assert rows and all(row.fine for row in rows), table(rows)


def test_a_photo_depends_on_the_seed_and_its_number_alone() -> None:
    one, longer, other = (fault_photos.draw(seed, count) for seed, count in ((1, 50), (1, 100), (2, 50)))
    assert [(kind, make()) for kind, make in one] == [(kind, make()) for kind, make in longer[:50]]
    assert [kind for kind, _ in one] != [kind for kind, _ in other]


def test_every_kind_of_photo_can_be_made_from_any_seed() -> None:
    for kind, (mutate, share) in fault_photos.KINDS.items():
        assert share > 0
        for number in range(30 if kind != "bombs" else 3):
            assert isinstance(mutate(random.Random(number)), bytes), kind


def test_a_row_is_fine_only_without_loss() -> None:
    assert Row("x", 3, 3, 0).fine and not Row("x", 3, 2, 0).fine and not Row("x", 3, 3, 1).fine
    assert table([Row("kill", 1200, 1200, 0, "n")]).splitlines()[-1] == "| kill | 1,200 | 1,200 | 0 | n |"
