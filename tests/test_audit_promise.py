"""Does the promise hold? The three answers on planted judgements, and the guarantee behind them by simulation."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from stages.common.base.errors import StageError
from tests.support.workspace import ROOT
from tools.audit_promise.__main__ import audit, main
from tools.audit_promise.betting import FRACTIONS, Alarm, gains, rate_low
from tools.audit_promise.judgements import read

TARGET, LEVEL = 0.95, 0.05


def judgements(folder: Path, verdicts: list[str], header: str = "photo,judge,verdict,share,model,judged_at") -> Path:
    path = folder / "judgements.csv"
    rows = [f"{i}.jpg,ann,{verdict},0.05,v1,2026-11-{1 + i % 28:02}T00:00" for i, verdict in enumerate(verdicts)]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def drawn(precision: float, n: int, seed: int = 0) -> list[str]:
    return np.where(np.random.default_rng(seed).random(n) < precision, "clean", "dirty").tolist()


@pytest.mark.parametrize(
    ("verdicts", "answer", "code"),
    [
        (drawn(0.99, 800), "holds", None),
        (drawn(0.95, 100), "open", None),
        (drawn(0.80, 300), "broken", 3),
        (drawn(0.97, 1000) + drawn(0.80, 300), "broken", 3),
        (drawn(0.80, 300) + drawn(1.0, 20_000), "broken", 3),
    ],
)
def test_the_three_answers(verdicts: list[str], answer: str, code: int | None, tmp_path: Path) -> None:
    ended = None
    try:
        main([str(judgements(tmp_path, verdicts)), "--target", "0.95", "--json", str(tmp_path / "audit.json")])
    except SystemExit as exit:
        ended = exit.code
    found = json.loads((tmp_path / "audit.json").read_text())
    assert (found["answer"], ended) == (answer, code)
    assert found["precision_low"] < found["precision"] < found["precision_high"] + 1e-9
    assert (found["alarm_at"] is not None) == (answer == "broken")


def test_false_alarms_and_misses_of_the_interval_stay_below_their_level_at_every_look() -> None:
    runs, looks = 1000, 600
    dirty = np.random.default_rng(0).random((looks, runs)) >= TARGET
    alarm, ever = Alarm(TARGET, (runs,)), np.zeros(runs, bool)
    for now in dirty:
        ever |= alarm.update(now) >= 1 / LEVEL
    assert 0 < ever.mean() <= LEVEL
    up, down = gains(TARGET)
    clean = (~dirty).cumsum(0)[..., None]
    wealth = np.exp(clean * up + (np.arange(1, looks + 1)[:, None, None] - clean) * down).mean(-1)
    assert 0 < (wealth.max(0) >= 2 / LEVEL).mean() <= LEVEL / 2


def test_a_fair_bet_gains_nothing() -> None:
    up, down = gains(TARGET, [1.0, 0.1])
    assert up.shape == (2, len(FRACTIONS))
    assert TARGET * np.exp(up) + (1 - TARGET) * np.exp(down) == pytest.approx(1)


def test_a_late_break_is_found_nearly_as_soon_as_an_early_one() -> None:
    runs, rng = 400, np.random.default_rng(0)
    medians = []
    for before in (0, 1000):
        alarm, first = Alarm(TARGET, (runs,)), np.full(runs, np.inf)
        for number in range(before + 600):
            rung = alarm.update(rng.random(runs) >= (0.967 if number < before else 0.85)) >= 1 / LEVEL
            first[rung & np.isinf(first)] = number + 1
        medians.append(np.median(first[first > before]) - before)
    assert medians[1] < 1.4 * medians[0] < 200


def test_the_interval_narrows_to_the_truth_and_weights_count() -> None:
    assert rate_low([0], [10], [1], LEVEL) == 0
    assert rate_low([95_000], [5_000], [1], LEVEL) == pytest.approx(0.947, abs=0.002)
    # 1 in 1 of 1000 photos with 100 dirty, then 1 in 10 of 10,000 photos with none: 100 of 11,000 are dirty
    assert rate_low([900, 1000], [100, 0], [0.1, 1], LEVEL) == pytest.approx(0.98, abs=0.01)
    assert rate_low([1900], [100], [1], LEVEL) < 0.95
    assert rate_low([3, 0], [0, 1], [1e-14, 1], LEVEL) == 0


def test_a_changed_share_is_accounted_for(tmp_path: Path) -> None:
    path = judgements(tmp_path, ["dirty"] * 100 + ["clean"] * 900 + ["clean"] * 1000)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:1001] + [line.replace("0.05", "0.005") for line in lines[1001:]]) + "\n")
    assert audit(read(path), TARGET, 0.95).precision == pytest.approx(1 - 100 / 11_000)
    with path.open("a") as file:
        file.writelines(f"u{i},ann,unsure,0.05,v1,\n" for i in range(300))
    assert audit(read(path), TARGET, 0.95).precision_if_unsure_are_dirty == pytest.approx(1 - 400 / 11_300)


def test_a_forecast_goes_by_the_weighted_precision(tmp_path: Path) -> None:
    lines = judgements(tmp_path, (["clean"] * 14 + ["dirty"]) * 10 + ["clean"] * 50).read_text().splitlines()
    path = tmp_path / "judgements.csv"
    path.write_text("\n".join([*lines[:151], *(line.replace("0.05", "0.005") for line in lines[151:])]) + "\n")
    assert audit(read(path), 0.96, 0.95).likely_next == "holds"  # 95 % of those judged are clean, 98 % by their weights


def test_the_target_is_that_of_the_report_in_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside a service that runs the released model there are no other outputs of the pipeline."""
    (tmp_path / "reports").mkdir()
    shutil.copy(ROOT / "reports/threshold.json", tmp_path / "reports")
    monkeypatch.chdir(tmp_path)
    main([str(judgements(tmp_path, ["clean"] * 3))])
    assert "open: neither proven nor broken at a target of 95%" in capsys.readouterr().out


@pytest.mark.parametrize("precision", [0.975, 0.85])
def test_the_forecast_is_about_right(precision: float, tmp_path: Path) -> None:
    """The median of simulated judgements to the answer, against what was foretold half-way there."""
    alarm, seen = Alarm(TARGET, (400,)), np.zeros((400, 2), int)
    rng, needed = np.random.default_rng(1), np.full(400, np.inf)
    up, down = gains(TARGET)
    for number in range(1, 2500):
        bad = rng.random(400) >= precision
        seen[np.arange(400), bad.astype(int)] += 1
        proven = np.exp(seen[:, :1] * up + seen[:, 1:] * down).mean(-1) >= 2 / LEVEL
        needed[(proven if precision > TARGET else alarm.update(bad) >= 1 / LEVEL) & np.isinf(needed)] = number
    from_the_start = np.median(needed)
    half = int(from_the_start / 2)
    bad = np.random.default_rng(0).permutation(half) < round(half * (1 - precision))
    found = audit(read(judgements(tmp_path, np.where(bad, "dirty", "clean").tolist())), TARGET, 0.95)
    assert found.likely_next == ("holds" if precision > TARGET else "broken")
    assert found.judgements_until_next is not None
    assert half + found.judgements_until_next == pytest.approx(from_the_start, rel=0.4)


def test_two_judges(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "judgements.csv"
    path.write_text(
        "photo,judge,verdict\na,ann,clean\nb,ann,dirty\nc,ann,clean\nd,ann,unsure\ne,ann,clean\n"
        "a,bob,clean\nb,bob,dirty\nc,bob,dirty\nd,bob,clean\na,ann,dirty\na,ann,clean\ntorn,ann,cle"
    )
    one, two = read(path), read(path, judges=2)
    assert (one.dirty.tolist(), len(one.unsure), one.waiting) == ([False, True, False, False], 1, 0)
    assert (two.dirty.tolist(), len(two.unsure), two.waiting) == ([False, True], 2, 1)
    assert (two.twice, two.agree) == (3, 2) and two.kappa == pytest.approx(0.4)
    assert caplog.messages[0].endswith("left out: 'torn,ann,cle'")


def test_the_last_model_is_audited_unless_another_is_named(tmp_path: Path) -> None:
    path = tmp_path / "judgements.csv"
    path.write_text("photo,verdict,model\na,clean,v1\nb,dirty,v1\nc,clean,v2\n")
    assert (len(read(path).dirty), read(path).other_models) == (1, 2)
    assert len(read(path, model="v1").dirty) == 2
    with pytest.raises(StageError, match="v3"):
        read(path, model="v3")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "columns"),
        ("photo,verdict\n", "no judgements"),
        ("path,label\na,clean\n", "columns"),
        ("photo,verdict\na,Clean!\n", "line 2"),
        ("photo,verdict,share\na,clean,1\nb,clean,5%\n", "line 3"),
        ("photo,verdict,share\na,clean,nan\n", "line 2"),
        ("photo,verdict,share\na,clean,0.01\nb,clean,\n", "weights need all"),
        ("\0\xff", "columns"),
        ("photo,verdict\nZo\udceb,clean\n", "UTF-8"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "judgements.csv"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(StageError, match=named) as error:
        read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("verdicts", [["clean"], ["dirty"], ["unsure"] * 3, ["dirty"] * 10_000])
def test_extremes_have_an_answer(verdicts: list[str], tmp_path: Path) -> None:
    found = audit(read(judgements(tmp_path, verdicts)), TARGET, 0.95)
    assert found.answer == ("broken" if len(verdicts) > 1000 else "open")
    assert 0 <= found.precision_low <= found.precision_high <= 1


def test_a_few_clean_photos_do_not_foretell_a_break(tmp_path: Path) -> None:
    assert audit(read(judgements(tmp_path, ["clean"] * 2)), TARGET, 0.95).likely_next == "holds"
