"""The benchmarks of cars and of refusals, on little."""

import json
from pathlib import Path

import pytest

from benchmarks import cars, refusals
from stages.common.base.params import load
from stages.threshold.params import Params
from tests.support.onnx_models import brightness, properties, write_model
from tests.support.workspace import ROOT


@pytest.mark.parametrize(("hidden", "views"), [(False, ["1", "2", "3", "4", "any"]), (True, ["1", "2", "3", "4"])])
def test_there_is_a_row_for_each_number_of_views(
    hidden: bool, views: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cars, "POPULATION", 5_000)
    rows = list(cars.table(2, 400, 0.7, load(Params, ROOT / "params.yaml").threshold, hidden=hidden))
    assert [row[0] for row in rows] == views and {len(row) for row in rows} == {len(cars.HEADER)}
    minimum, photo = (cars.HEADER.index(name) for name in ("minimum", "photo rule"))
    assert hidden or rows[0][minimum] == rows[0][photo]
    assert float(rows[3][minimum]) > float(rows[3][photo])


def test_drawn_pictures_are_asked_of_the_served_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a model that takes the dark for no car, as a pocket is."""
    threshold = {"T_clean": 0.5, "T_low": None, "certified": True, "refusal": {"max_distance": 0.7}}
    write_model(tmp_path / "best.onnx", brightness(32, distance=True), properties(json.dumps(threshold)))
    (tmp_path / "test.csv").write_text("path,distance\na,0.1\nb,0.9\n")
    monkeypatch.setattr(refusals, "MODEL", tmp_path / "best.onnx")
    monkeypatch.setattr(refusals, "PREDICTIONS", tmp_path)
    refusals.refuse_drawn(12)
    said = capsys.readouterr().out
    assert "pocket 1.000" in said and "street 0.000" in said and "(1 of 2 photos)" in said
