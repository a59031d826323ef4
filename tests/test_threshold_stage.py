"""The threshold stage: predictions in, threshold.json and reports out. Its statistics: test_threshold.py."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from serving.inference.verdict.rule import Measures, read_threshold
from stages.common.base.errors import StageError
from stages.threshold.__main__ import main
from tests.support.workspace import ROOT, Workspace


def predictions(folder: Path, clean: int, dirty: int, distance: float) -> None:
    """Predictions of a model whose classes lie `distance` apart."""
    rng = np.random.default_rng(0)
    (folder / "artifacts/predictions").mkdir(parents=True, exist_ok=True)
    for split in ("val", "test"):
        logit = np.concatenate([rng.normal(distance / 2, 1, clean), rng.normal(-distance / 2, 1, dirty)])
        with (folder / f"artifacts/predictions/{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "logit", "p_clean", *Measures._fields, "group", "source"])
            for i, z in enumerate(logit):
                name, label = f"{split}/{i}.jpg", "clean" if i < clean else "dirty"
                writer.writerow([name, label, z, 1 / (1 + np.exp(-z)), *Measures(), name, ""])


def regroup(group_of: Callable[[int], str]) -> None:
    """Give the photos of val other groups, by their place."""
    path = Path("artifacts/predictions/val.csv")
    header, *rows = list(csv.reader(path.read_text().splitlines()))
    rows = [[*row[:-2], group_of(i), ""] for i, row in enumerate(rows)]
    path.write_text("".join(",".join(row) + "\n" for row in [header, *rows]))


def result() -> dict:
    main()
    return json.loads(Path("artifacts/threshold.json").read_text())


def test_a_good_model_is_certified_and_a_lower_target_lowers_t(workspace: Workspace) -> None:
    predictions(workspace.folder, 600, 120, 3.5)
    strict = result()
    assert strict["certified"] and not strict["trivial"] and strict["T_low"] is None
    threshold = read_threshold(Path("artifacts/threshold.json"))
    assert threshold.rule.t_clean == strict["T_clean"] and threshold.certified
    report = json.loads(Path("reports/threshold.json").read_text())
    assert report["test"]["precision_clean"] > 0.93 and report["test"]["photos"] == 720
    assert report["at_dirty_shares"][0]["dirty_share"] == 0.01
    workspace.set(**{"threshold.target_precision_clean": 0.9})
    assert result()["T_clean"] < strict["T_clean"]


def test_a_rate_that_has_nothing_to_divide_by_is_not_printed(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions(workspace.folder, 30, 3, -60.0)
    result()
    said = capsys.readouterr().out
    assert "on test: photos 33, dirty_as_clean 3, precision_clean 0.9091" in said and "precision_dirty" not in said


def test_cars_that_leave_no_photo_of_a_class_are_named(workspace: Workspace) -> None:
    predictions(workspace.folder, 60, 3, 3.0)  # one group each for clean cars, and one that a clean photo stands for
    one = {*range(30), 60, 61, 62}
    regroup(lambda i: "one" if i in one else str(i))
    workspace.refuses("threshold", "31 cars or sessions with usable photos", "none of them is dirty", "data.car_regex")


def test_a_poor_model_is_said_not_to_be_certified(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    predictions(workspace.folder, 60, 40, 0.1)
    found = result()
    assert found["certified"] is False and found["promise"]["clean"]["reason"]
    assert "NOT CERTIFIED" in caplog.text
    workspace.set(**{"threshold.on_unreachable": "fail"})
    Path("artifacts/threshold.json").unlink()
    workspace.refuses("threshold", "on_unreachable: best_effort")
    assert not Path("artifacts/threshold.json").exists()


def production_settings() -> dict[str, object]:
    """The threshold's keys in README's command for production."""
    section = (ROOT / "README.md").read_text().split("## Production settings")[1]
    return {key: yaml.safe_load(value) for key, value in re.findall(r"-S (threshold\.\w+)=(\S+)", section)}


def test_few_dirty_cars_want_a_limit_on_what_passes(workspace: Workspace) -> None:
    """15 % of 69,000 clean and 2,300 dirty photos, AUC 0.98: no certificate by default, a real one in production."""
    predictions(workspace.folder, 10_350, 345, 2.9)
    with pytest.raises(StageError, match=r"TRIVIAL") as refused:
        main()
    assert not Path("artifacts/threshold.json").exists()
    said = re.findall(r"threshold\.(\w+): (\S+) +T_clean (\S+), recall (\S+), (.+)", str(refused.value))
    assert {key for key, *_ in said} == {"max_false_clean_rate", "dirty_share"}
    ((t_clean, recall),) = ((t, r) for key, value, t, r, _ in said if (key, value) == ("max_false_clean_rate", "0.05"))
    workspace.set(**production_settings())
    found = result()
    assert found["certified"] and not found["trivial"]
    assert f"{found['T_clean']:.4f}" == t_clean and f"{found['promise']['clean']['recall']:.3f}" == recall
    test = json.loads(Path("reports/threshold.json").read_text())["test"]
    assert test["false_clean_rate"] <= 0.05 and test["recall_clean"] > 0.7


def test_a_trivial_promise_can_be_accepted_and_is_not_certified(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    predictions(workspace.folder, 970, 30, 3.0)
    workspace.set(**{"threshold.on_trivial": "accept", "threshold.on_unreachable": "fail"})
    found = result()
    assert found["trivial"] and not found["certified"] and found["T_clean"] == 0
    assert "NOT CERTIFIED" in caplog.text


def test_tries_and_both_promises_divide_the_level(workspace: Workspace) -> None:
    predictions(workspace.folder, 600, 300, 3.0)
    thresholds = []
    for tries, low, level in ((1, None, 0.05), (8, None, 0.05 / 8), (8, 0.9, 0.05 / 16)):
        workspace.set(**{"threshold.tries": tries, "threshold.target_precision_dirty": low})
        found = result()
        assert (found["confidence"], found["tries"]) == (0.95, tries)
        promises = [one for one in found["promise"].values() if one]
        assert [1 - one["confidence"] for one in promises] == pytest.approx([level] * len(promises))
        thresholds.append(found["T_clean"])
    assert thresholds == sorted(set(thresholds))


def test_the_review_zone(workspace: Workspace) -> None:
    predictions(workspace.folder, 600, 300, 3.0)
    workspace.set(**{"threshold.target_precision_clean": 0.97, "threshold.target_precision_dirty": 0.97})
    found = result()
    assert 0 < found["T_low"] < found["T_clean"]
    report = json.loads(Path("reports/threshold.json").read_text())
    assert 0 < report["test"]["review_share"] < 1


@pytest.mark.parametrize("target", [1.0, "high"])
def test_a_target_that_is_none_is_named(workspace: Workspace, target: object) -> None:
    workspace.set(**{"threshold.target_precision_clean": target})
    workspace.refuses("threshold", "threshold.target_precision_clean")


HEADER = "path,label,logit,p_clean\n"
UNGROUPED = "path,label,logit,p_clean,distance\nx,clean,0,0.5,0\n"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "path,label\nx,clean\n",
        *(HEADER + f"x,{row}" for row in ("muddy,0,0.5", "clean,0,nan", "clean,0,2")),
        UNGROUPED,
    ],
)
def test_damaged_predictions_are_named(workspace: Workspace, content: str) -> None:
    predictions(workspace.folder, 60, 30, 3.0)
    Path("artifacts/predictions/val.csv").write_text(content)
    workspace.refuses("threshold", "artifacts/predictions/val.csv")


def test_it_needs_no_torch(workspace: Workspace) -> None:
    predictions(workspace.folder, 60, 30, 3.0)
    (workspace.folder / "torch.py").write_text("raise ImportError('torch')")
    Workspace(workspace.folder).must("threshold")


def test_photos_of_one_car_count_once(workspace: Workspace) -> None:
    """Five photos of each car prove no more than one would; cars with one photo each change nothing."""
    predictions(workspace.folder, 600, 120, 3.5)
    alone = result()["promise"]["clean"]
    assert (alone["n_clean"], alone["n_dirty"], alone["n_photos"]) == (600, 120, 720)
    regroup(lambda i: f"car{i // 5}")
    together = result()["promise"]["clean"]
    assert (together["n_clean"], together["n_dirty"], together["n_photos"]) == (120, 24, 720)
    assert together["recall_high"] - together["recall_low"] > alone["recall_high"] - alone["recall_low"]
