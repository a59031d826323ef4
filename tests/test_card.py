"""The model card and the page of mistakes, of a whole run."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from playwright import sync_api

from serving.app import create_app
from serving.inference.model.predictor import Predictor
from serving.inference.verdict.rule import Rule
from serving.settings import Settings
from stages.common.base.errors import StageError
from stages.export import card, mistakes
from stages.export.params import ExportParams
from stages.export.results import Result, by_source, read_results
from tests.support.workspace import Workspace

HAND = ExportParams("a use", "no use", "somebody")
FACTS = dict.fromkeys(
    ("model", "image_size", "resize", "precision", "target", "data_version", "checkpoint_sha256"), "x"
) | {"drawn": False, "size_bytes": 1}


def test_the_card_is_one_for_model_hubs_and_says_what_was_measured(pipeline: Workspace) -> None:
    reports = pipeline.folder / "reports"
    text = (reports / "model_card.md").read_text()
    data = ModelCard(text).data
    assert data.pipeline_tag == "image-classification" and data.eval_results
    metrics = {result.metric_type: result.metric_value for result in data.eval_results}
    assert metrics["roc_auc"] == json.loads((reports / "eval.json").read_text())["test"]["roc_auc"]["value"]
    assert "photos/s" in text


def test_the_service_shows_the_card_of_its_model(pipeline: Workspace) -> None:
    path = pipeline.folder / "artifacts/best.onnx"
    answer = create_app(Settings.from_env({"MODEL_PATH": str(path)})).test_client().get("/card")
    assert answer.status_code == 200 and answer.mimetype == "text/markdown"
    assert ModelCard(answer.text).data.library_name == "onnx" and "photos/s" not in answer.text


def test_a_report_that_lacks_something_is_an_error(copy: Workspace) -> None:
    reports = card.read_reports()
    del reports["threshold"]["T_clean"]
    with pytest.raises(StageError, match="T_clean"):
        card.render(reports, HAND, {}, FACTS)


def test_too_few_cars_for_shortcuts_leave_them_out(copy: Workspace) -> None:
    reports = card.read_reports()
    assert "A trivial feature" in card.render(reports, HAND, {}, FACTS)
    reports["split_check"]["shortcut_auc"] = {}
    assert "A trivial feature" not in card.render(reports, HAND, {}, FACTS)


def test_a_model_that_is_not_certified_and_sources(copy: Workspace) -> None:
    reports: dict[str, Any] = card.read_reports()
    reports["threshold"] |= {"certified": False, "T_low": 0.1}
    reports["threshold"]["promise"]["clean"]["reason"] = "too few dirty cars"
    for row in reports["threshold"]["at_dirty_shares"]:
        row["precision"] = None
    path = Path("artifacts/predictions/test.csv")
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *(row + ("<b>|" if "dirty" in row else "") for row in rows)]))
    results = read_results(Rule(0.5))
    text = card.render(reports, HAND, by_source(results), FACTS)
    assert (
        "**Not certified**: too few dirty cars" in text
        and "of &lt;b&gt;&#124; |" in text
        and "of other |" in text
        and "between them uncertain" in text
    )


def test_a_card_of_a_dirty_verdict_alone_that_is_not_certified_says_why(copy: Workspace) -> None:
    reports: dict[str, Any] = card.read_reports()
    promise = reports["threshold"]["promise"]
    promise |= {"clean": promise["clean"] | {"reason": None}, "dirty": {"reason": "too few clean cars"}}
    text = card.render(reports, HAND, {}, FACTS)
    assert "**Not certified**: too few clean cars\n" in text and "None" not in text


def test_every_mistake_is_on_the_page(pipeline: Workspace, browser: sync_api.Browser) -> None:
    path = pipeline.folder / "reports/mistakes.html"
    rule = Predictor(pipeline.folder / "artifacts/best.onnx").threshold.rule
    with (pipeline.folder / "artifacts/predictions/test.csv").open() as file:
        wrong = [row["path"] for row in csv.DictReader(file) if rule.decide(float(row["p_clean"])) != row["label"]]
    page, faults = browser.new_page(viewport={"width": 360, "height": 740}), []
    page.on("console", lambda message: faults.append(message.text))
    page.goto(path.as_uri())
    captions = " ".join(page.locator("figcaption").all_inner_texts())
    assert all(name in captions for name in wrong) and not faults
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    page.close()


def test_the_worst_car_comes_first_with_all_its_photos() -> None:
    one = Result("test/dirty/a.jpg", "dirty", 0.9, "clean", "car", "north")
    results = [
        one,
        replace(one, p_clean=0.95, car="another"),
        replace(one, p_clean=0.99),
        replace(one, label="clean", p_clean=0.1, verdict="dirty"),
        replace(one, label="clean", p_clean=0.55),
        replace(one, verdict="uncertain"),
    ]
    found = mistakes.sections(results, 0.6)
    cars = [(x.car, x.p_clean) for x in found["false clean"]]
    assert cars == [("car", 0.99), ("car", 0.9), ("another", 0.95)]
    assert len(found["false dirty"]) == 1 and [x.p_clean for x in found["least certain"]] == [0.55, 0.9]
