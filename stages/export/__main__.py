"""`python -m stages.export`: network.onnx, its calibration and its decision -> best.onnx, which changes no verdict."""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from serving.inference.model.golden import CANDIDATES, Golden, images, pick
from serving.inference.model.metadata import CARD, GOLDEN, MAP, THRESHOLD
from serving.inference.model.predictor import Network, Predictor
from serving.inference.verdict.rule import Threshold, read_threshold
from stages.common.base.errors import StageError, run_stage
from stages.common.base.files import json_bytes, read_json, write_atomically
from stages.common.base.params import Data, load
from stages.common.base.paths import CALIBRATION, MODEL, NETWORK, PREDICTIONS, REPORTS
from stages.common.base.paths import THRESHOLD as DECISION
from stages.common.base.photos import Photo, read_predictions
from stages.common.calibration import Calibration
from stages.common.pixels.photo_set import PhotoSet
from stages.common.rates import verdicts
from stages.export import card, mistakes
from stages.export.params import Params
from stages.export.results import by_source, read_results

REPORT = REPORTS / "export.json"
TOLERANCE = 1e-5  # of p_clean


def golden_answers(network: Network, calibration: Calibration, threshold: Threshold) -> Golden:
    """What the network says of generated pictures, by which a service finds out whether it computes as this machine."""
    scores = np.concatenate([network.run_both(images([seed], network.image_size)) for seed in CANDIDATES])
    p_clean, distance = calibration.p_clean(scores[:, 0].astype(np.float64)).tolist(), scores[:, 1].tolist()
    rule = threshold.rule
    picked = pick(p_clean, [t for t in (rule.t_clean, rule.t_low) if t is not None])
    each = [tuple(values[i] for i in picked) for values in (CANDIDATES, p_clean, distance)]
    return Golden(*(each if network.measures_distance else each[:2]))


def bundle(network: onnx.ModelProto, calibration: Calibration, properties: Mapping[str, str]) -> bytes:
    """The file: `image` -> `p_clean` instead of `logit`, with these metadata properties besides the network's own.

    The calibration is computed in float64 and rounded once, as the eval stage does: then p_clean is the same number.
    """
    model = onnx.ModelProto()
    model.CopyFrom(network)
    graph = model.graph
    constants = {"calibration_scale": calibration.scale, "calibration_offset": calibration.offset}
    graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in constants.items())
    graph.node.extend([
        helper.make_node("Cast", ["logit"], ["logit_64"], "calibration_cast", to=TensorProto.DOUBLE),
        helper.make_node("Mul", ["logit_64", "calibration_scale"], ["scaled"], "calibration_mul"),
        helper.make_node("Add", ["scaled", "calibration_offset"], ["calibrated"], "calibration_add"),
        helper.make_node("Sigmoid", ["calibrated"], ["p_clean_64"], "calibration_sigmoid"),
        helper.make_node("Cast", ["p_clean_64"], ["p_clean"], "calibration_round", to=TensorProto.FLOAT),
    ])  # fmt: skip
    graph.output[0].name = "p_clean"
    _calibrate_map(graph)
    onnx.checker.check_model(model, full_check=True)
    own = {entry.key: entry.value for entry in network.metadata_props}
    helper.set_model_props(model, own | dict(properties))
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _calibrate_map(graph: onnx.GraphProto) -> None:
    """Where there is a map of the logit: of the calibrated one, so that its mean is the log-odds of p_clean."""
    squeeze = next((node for node in graph.node if MAP in node.output), None)
    if squeeze is None:
        return
    squeeze.name = squeeze.output[0] = f"{MAP}/uncalibrated"
    steps = [
        ("Mul", squeeze.name, "calibration_scale", f"{MAP}/scaled"),
        ("Add", f"{MAP}/scaled", "calibration_offset", MAP),
    ]
    for operator, before, constant, after in steps:
        graph.node.append(
            helper.make_node("Cast", [constant], [f"{constant}_32"], f"{constant}_32", to=TensorProto.FLOAT)
        )
        graph.node.append(helper.make_node(operator, [before, f"{constant}_32"], [after], after))


def check(predictor: Predictor, data: Data, split: str) -> dict[str, float]:
    """Hold the bundle against the predictions that were certified. Raises StageError unless it says the same."""
    told = read_predictions(split)
    photos = [Photo(name, int(clean)) for name, clean in zip(told.names.tolist(), told.is_clean, strict=True)]
    certified = np.column_stack([told.p_clean, told.measures])
    scores = PhotoSet(data, photos, predictor.image_size).outputs(predictor.scores, split)
    scores = np.column_stack([scores, told.measures[:, -1]])  # the last is of the file
    apart = np.abs(scores - certified).max(1)
    rule = predictor.threshold.rule
    flips = verdicts(rule, scores[:, 0], scores[:, 1:]) != verdicts(rule, told.p_clean, told.measures)
    if flips.any() or not (apart <= TOLERANCE).all():
        worst = int(np.argmax(np.where(flips, 2, apart)))
        raise StageError(
            f"{MODEL} would say {scores[worst]} of {photos[worst].name}, {PREDICTIONS} says {certified[worst]}; "
            f"{flips.sum()} verdicts differ; run `dvc repro --force eval`"
        )
    return {"photos": len(photos), "flips": 0, "max_abs_difference": float(apart.max())}


def main() -> None:
    """Write the bundle after it was verified against the predictions, its card, and the page of mistakes."""
    params = load(Params)
    data, reports = params.data, card.read_reports()
    network, calibration = Network(NETWORK), Calibration(**read_json(CALIBRATION))
    threshold = read_threshold(DECISION)
    golden = golden_answers(network, calibration, threshold)
    results = read_results(threshold.rule)
    sources, facts = by_source(results), asdict(network.metadata) | {"drawn": network.metadata.trained_on_drawings}
    facts["size_bytes"] = NETWORK.stat().st_size
    texts = {
        THRESHOLD: DECISION.read_bytes().decode(), GOLDEN: golden.text(),
        CARD: card.render(reports, params.export, sources, facts),
    }  # fmt: skip
    content = bundle(onnx.load(NETWORK), calibration, texts)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, MODEL.name)
        path.write_bytes(content)
        predictor = Predictor(path)
    checked = {split: check(predictor, data, split) for split in ("val", "test")}
    precision = predictor.metadata.precision
    report = {"precision": precision, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    page = mistakes.render(results, sources, threshold.rule.t_clean, Path(data.root), network.run, network.image_size)
    write_atomically({
        MODEL: content, REPORT: json_bytes(report | checked), mistakes.PAGE: page.encode(),
    })  # fmt: skip
    print(f"{precision}, {len(content) / 1e6:.1f} MB, every verdict on val and test as it was certified")


if __name__ == "__main__":
    run_stage("export", main)
