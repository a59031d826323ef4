"""Drift without labels: the share of dirty cars, its effect, and what no such share explains."""

import contextlib
import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import requests
from playwright import sync_api

from serving.inference.verdict.rule import Measures
from stages.common.base.errors import StageError
from stages.common.base.files import write_json
from tests.support.live import Live, photo, running, samples, wait_until
from tests.support.onnx_models import write_pair
from tests.support.populations import normal
from tools.drift import shift
from tools.drift.__main__ import main
from tools.drift.predictions import read_file
from tools.drift.reference import Certificate
from tools.drift.shift import Scores

PEOPLE, T = normal(3), 0.754
HEADER = ("path", "label", "p_clean", "threshold", "error")


def draw(rng: np.random.Generator, clean: int, dirty: int, lighter: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    return PEOPLE.show(PEOPLE.clean.ppf(rng.random(clean))), PEOPLE.show(PEOPLE.dirty.ppf(rng.random(dirty)) + lighter)


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_the_share_is_found_and_explains_the_scores(share: float) -> None:
    rng, off, doubted, inside = np.random.default_rng(0), [], [], []
    for _ in range(20):
        known = draw(rng, 920, 260)
        edges = shift.quantiles(*known)
        now = np.concatenate(draw(rng, round(1000 * (1 - share)), round(1000 * share)))
        clean, dirty, here = (Scores.from_photos(p, edges, T) for p in (*known, now))
        off.append(abs(float(shift.closed_form(clean.clean_rate, dirty.clean_rate, here.clean_rate)) - share))
        assert abs(shift.em(clean, dirty, here) - share) < 0.08
        low, high = shift.interval(clean, dirty, here, rng)
        inside.append(low <= share <= high)
        doubted.append(shift.explained(clean, dirty, here, edges, rng).p_value <= 0.05)
    assert np.median(off) < 0.02 and np.mean(inside) > 0.85 and np.mean(doubted) <= 0.15


@pytest.mark.parametrize(
    ("known", "share", "photos", "found"),
    [((920, 260), 0.1, 1000, 0.7), ((920, 260), 0.2, 1000, 0.9), ((20_700, 690), 0.03, 5000, 0.8)],
)
def test_other_dirt_is_told_from_another_share(known: tuple[int, int], share: float, photos: int, found: float) -> None:
    """Of 1,000 with a twentieth dirty even a test that knew what to look for would miss many: benchmarks/audit.py."""
    rng, doubted = np.random.default_rng(0), []
    for _ in range(20):
        reference = draw(rng, *known)
        edges = shift.quantiles(*reference)
        now = np.concatenate(draw(rng, round(photos * (1 - share)), round(photos * share), lighter=1))
        kinds = (Scores.from_photos(p, edges, T) for p in (*reference, now))
        doubted.append(shift.explained(*kinds, edges, rng).p_value <= 0.05)
    assert np.mean(doubted) >= found


@pytest.mark.parametrize(("known", "share"), [((9200, 2600), 0.2), ((20_700, 690), 0.05)])
def test_so_many_photos_as_are_said_to_be_needed_show_it(known: tuple[int, int], share: float) -> None:
    """In about 80 % of cases, as an alarm."""
    rng, seen = np.random.default_rng(0), []
    reference = draw(rng, *known)
    edges = shift.quantiles(*reference)
    clean, dirty = (Scores.from_photos(p, edges, T) for p in reference)
    needed = shift.photos_needed(clean, reference[1], share, edges, 0.01)
    assert needed is not None
    for _ in range(20):
        now = np.concatenate(draw(rng, round(needed * (1 - share)), round(needed * share), 1))
        seen.append(shift.explained(clean, dirty, Scores.from_photos(now, edges, T), edges, rng).p_value <= 0.01)
    assert 0.5 < np.mean(seen) < 1


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the pipeline left, for the threshold T."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    for split in ("val", "test"):
        clean, dirty = draw(rng, 460, 130)
        rows = [(f"{split}/clean/{i}", "clean", 0, p) for i, p in enumerate(clean)]
        rows += [(f"{split}/dirty/{i}", "dirty", 0, p) for i, p in enumerate(dirty)]
        path = Path(f"artifacts/predictions/{split}.csv")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "logit", "p_clean", *Measures._fields, "group", "source"])
            writer.writerows([*row, *Measures(), row[0], ""] for row in rows)
    row = {"dirty_share": 0.2, "precision": 0.97, "precision_low": 0.96}
    promise = {"clean": {"target_precision": 0.95}}
    write_json(Path("reports/threshold.json"), {"T_clean": T, "promise": promise, "at_dirty_shares": [row]})
    return tmp_path


def predictions(name: str, clean: int, dirty: int, lighter: float = 0.0, threshold: float = T) -> str:
    p = np.concatenate(draw(np.random.default_rng(2), clean, dirty, lighter))
    labels = np.where(p >= T, "clean", "dirty")
    rows = [(f"{'ab'[i % 2]}/<{i}>.jpg", labels[i], f"{x:.6f}", threshold, "") for i, x in enumerate(p)]
    with Path(name).open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows, *[("a/x", "", "", "", "unreadable: no photo")] * 10])
        file.write("a/torn,cle")
    return name


@pytest.mark.parametrize(
    ("clean", "dirty", "lighter", "alarm"),
    [(900, 100, 0.0, None), (500, 500, 0.0, "more than the certificate covers"), (700, 300, 2.0, "have changed")],
)
def test_alarms(folder: Path, clean: int, dirty: int, lighter: float, alarm: str | None) -> None:
    name, code = predictions("now.csv", clean, dirty, lighter), None
    try:
        main([name, "--source", "^(a|b)/"])
    except SystemExit as exit:
        code = exit.code
    report = json.loads(Path("reports/drift.json").read_text())
    assert code == (3 if alarm else None)
    assert bool(report["alarms"]) == bool(alarm) and (not alarm or alarm in report["alarms"][0])
    assert report["now"]["refused"] == {"unreadable": pytest.approx(10 / (clean + dirty + 10), abs=1e-6)}
    assert set(report["sources"]) == {"a", "b"} and len(report["over_time"]) == 12
    if not lighter:
        assert report["now"]["dirty_share"] == pytest.approx(dirty / (clean + dirty), abs=0.04)


def test_one_of_many_sources_has_changed(folder: Path) -> None:
    rows = Path(predictions("bad.csv", 700, 300, 1.5)).read_text().splitlines()[1:-11]
    good = Path(predictions("good.csv", 850, 150)).read_text().splitlines()[1:-11]
    sources = [f"{number}{row[1:]}" for number in range(8) for row in (good if number else rows)]
    Path("now.csv").write_text("\n".join([",".join(HEADER), *sources]) + "\n")
    with pytest.raises(SystemExit):
        main(["now.csv", "--source", "^([0-9])/"])
    alarms = [one for one in json.loads(Path("reports/drift.json").read_text())["alarms"] if one[0] != "a"]
    assert len(alarms) == 1 and alarms[0].startswith("0: other scores")


def test_the_table_of_the_certificate(folder: Path) -> None:
    certificate = Certificate.read()
    assert certificate.covers == pytest.approx(0.2402, abs=1e-3)  # odds of 0.25 scaled by (1/0.95 - 1) / (1/0.96 - 1)


def test_parquet_says_the_same(folder: Path) -> None:
    parquet = pytest.importorskip("pyarrow.csv")
    main([predictions("now.csv", 900, 100)])
    first = json.loads(Path("reports/drift.json").read_text())
    text = Path("now.csv").read_text()
    Path("now.csv").write_text(text[: text.rfind("\n") + 1])
    from pyarrow.parquet import write_table

    write_table(parquet.read_csv("now.csv"), "now.parquet")
    main(["now.parquet", "--out", "other.json"])
    second = json.loads(Path("other.json").read_text())
    assert {**first, "predictions": ""} == {**second, "predictions": ""}


def metrics_of(live: Live) -> str:
    return requests.get(live.url + "/metrics", headers={"Authorization": "Bearer correct-horse"}, timeout=30).text


def test_a_live_service_and_its_page(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, browser: sync_api.Browser
) -> None:
    log = tmp_path_factory.mktemp("log")
    with running(write_pair(log / "pair", t_clean=T), log, STATUS_TOKEN="correct-horse") as live:
        for grey in [250] * 60 + [20] * 20:
            live.send(photo(grey))
        live.send(b"no photo")
        with pytest.raises(StageError, match="metrics"):
            main([live.url])
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STATUS_TOKEN", "correct-horse")
            with pytest.raises(SystemExit):  # nothing like these scores is in val and test
                main([live.url + "/metrics"])
            report = json.loads(Path("reports/drift.json").read_text())
            assert "note" not in report["now"] or "reloaded" not in report["now"]["note"]
            os.kill(live.pid, signal.SIGHUP)
            wait_until(lambda: samples(metrics_of(live), "dirtycar_reloads_total", result="done") > 0)
            with pytest.raises(SystemExit):
                main([live.url, "--out", "reloaded.json"])
    assert "may be of another" in json.loads(Path("reloaded.json").read_text())["now"]["note"]
    report = json.loads(Path("reports/drift.json").read_text())
    assert report["now"]["verdicts"] == 80 and report["now"]["clean_rate"] == 0.75
    assert report["now"]["refused"] == {"refused": pytest.approx(1 / 81, abs=1e-6)}
    page, faults = browser.new_page(viewport={"width": 360, "height": 740}), []
    page.on("console", lambda message: faults.append(message.text))
    page.goto((folder / "reports/drift.html").as_uri())
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth") and not faults
    page.close()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_one_class_alone_has_an_estimate(folder: Path, share: float) -> None:
    rng = np.random.default_rng(0)
    clean, dirty = draw(rng, 2000, 2000)
    p = clean[clean >= T][:400] if share == 0 else dirty[dirty < T][:400]
    rows = [(f"{i}.jpg", "clean" if x >= T else "dirty", x, T, "") for i, x in enumerate(p)]
    with Path("now.csv").open("w", newline="", encoding="utf-8-sig") as file:  # as a spreadsheet saves it
        csv.writer(file).writerows([HEADER, *rows])
    with contextlib.suppress(SystemExit):
        main(["now.csv"])
    assert json.loads(Path("reports/drift.json").read_text())["now"]["dirty_share"] == share


def test_few_photos_and_few_dirty_cars_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([predictions("now.csv", 3, 0)])
    assert "no alarm\nfewer than 50 verdicts" in capsys.readouterr().out
    assert "their nearest mixture" not in Path("reports/drift.html").read_text()
    main([predictions("now.csv", 970, 30)])
    assert "no alarm\nfew dirty cars" in capsys.readouterr().out
    main([predictions("now.csv", 2400, 600)])
    assert "few" not in capsys.readouterr().out


def test_photos_needed_fall_with_the_share_and_the_reference() -> None:
    rng = np.random.default_rng(0)
    needed = []
    for known, share in (((920, 260), 0.03), ((20_700, 690), 0.03), ((20_700, 690), 0.1)):
        clean_p, dirty_p = draw(rng, *known)
        edges = shift.quantiles(clean_p, dirty_p)
        needed.append(shift.photos_needed(Scores.from_photos(clean_p, edges, T), dirty_p, share, edges, 0.01))
    assert needed[0] is None and needed[1] and needed[2]
    assert 3000 < needed[1] < 20_000 and 500 < needed[2] < needed[1] / 2


def test_a_score_of_zero_in_parquet_is_a_verdict(folder: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    columns = {"path": ["a"], "label": ["dirty"], "p_clean": [0.0], "threshold": [T], "error": [None]}
    write_table(pa.table(columns), "now.parquet")
    assert read_file(Path("now.parquet"))[0][0].p_clean == 0
    write_table(pa.table(columns | {"path": [7]}), "now.parquet")
    with pytest.raises(StageError, match="path 7 is no text"):
        read_file(Path("now.parquet"))


@pytest.mark.parametrize("regex", ["(", "no group"])
def test_expressions_that_capture_nothing(folder: Path, regex: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([predictions("now.csv", 90, 10), "--source", regex])
    assert "--source" in capsys.readouterr().err


def test_what_fits_no_path_is_told(folder: Path) -> None:
    now = predictions("now.csv", 90, 10)
    with pytest.raises(SystemExit):
        main([now, "--out", "drift.html"])
    with pytest.raises(StageError, match="captures nothing of any path"):
        main([now, "--source", "(camera[0-9]+)"])
    with pytest.raises(StageError, match="holds none of the photos"):
        main([now, "--photos", "."])
    Path("a").mkdir()
    Path("a/<0>.jpg").write_bytes(photo(200))
    main([now, "--photos", ".", "--time", "(<0>)"])
    blocks = json.loads(Path("reports/drift.json").read_text())["over_time"]
    assert "brightness" in blocks["<0>"] and "brightness" not in blocks["other"]


def test_a_source_whose_name_is_not_utf_8(folder: Path) -> None:
    content = Path(predictions("now.csv", 500, 500)).read_bytes()
    Path("now.csv").write_bytes(content.replace(b"a/", b"stra\xdfe/"))
    with pytest.raises(SystemExit):
        main(["now.csv", "--source", "^([^/]+)/"])
    assert r"stra\xdfe" in Path("reports/drift.html").read_text()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://", "http://127.0.0.1:9/a b", "http://[bad"])
def test_a_service_that_is_down(folder: Path, url: str) -> None:
    with pytest.raises(StageError, match=r"metrics.*STATUS_TOKEN is not set"):
        main([url])
    with pytest.raises(SystemExit):
        main([url, "--source", "(a)"])


BAD_ROWS = ("a,clean,high,0.754,", "a,clean,nan,0.754,", "a,clean,1.5,0.754,", "a,clean,0.9,nan,")


@pytest.mark.parametrize(
    "text",
    ["", "path,label\na,clean\n", *(f"{','.join(HEADER)}\n{row}\n" for row in ("", "a,clean,1,1,,b", *BAD_ROWS))],
)
def test_files_that_are_no_predictions(folder: Path, text: str) -> None:
    Path("now.csv").write_text(text)
    with pytest.raises(StageError, match=r"now\.csv"):
        main(["now.csv"])
    with pytest.raises(StageError, match="two models"):
        main([predictions("now.csv", 90, 10, threshold=0.7)])
