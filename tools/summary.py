"""`python -m tools.summary`: what `make repro` ends with, from the reports."""

from typing import Any

from stages.common.base.errors import run_stage
from stages.common.base.files import read_json
from stages.common.base.paths import REPORTS


def rows() -> list[tuple[str, str]]:
    names = ("eval", "threshold", "export", "benchmark", "backbone")
    evaluated, threshold, export, benchmark, backbone = (read_json(REPORTS / f"{name}.json") for name in names)
    auc, test = evaluated["test"]["roc_auc"], threshold["test"]
    provider, speed = next(iter(benchmark["speed"].items()))
    rate = speed["photo_to_verdict_batch_8"]["images_per_s"]
    return [
        ("model", f"{backbone['model']}, weights: {weights(backbone)}"),
        ("ROC-AUC on test", f"{auc['value']:.4f} ({auc['low']:.4f} to {auc['high']:.4f})"),
        ("T_clean", f"{threshold['T_clean']:.4f}, {'certified' if threshold['certified'] else 'NOT certified'}"),
        ("experiments to choose among", f"{threshold['tries']} (threshold.tries)"),
        ("precision of clean at T, test", _percent(test["precision_clean"])),
        ("recall of clean at T, test", _percent(test["recall_clean"])),
        ("dirty passed as clean, test", _percent(test["false_clean_rate"])),
        ("ONNX model", f"{export['precision']}, {export['size_bytes'] / 1e6:.1f} MB"),
        ("photo to verdict, batches of 8", f"{rate:.0f} images/s ({provider.removesuffix('ExecutionProvider')})"),
    ]


def weights(backbone: dict[str, Any]) -> str:
    """Where the pretrained weights came from; where they are not a whole network's, how much is random."""
    if backbone["source"] == "random":
        return "RANDOM"
    if backbone["source"] != "partial":
        return str(backbone["source"])
    return f"PARTIAL, {_percent(backbone['parameter_share'])} from {backbone['relative']}, the others random"


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f} %"


def main() -> None:
    """Print the table and what to try next."""
    print()
    for name, value in rows():
        print(f"  {name:32}{value}")
    print(
        "\nNext: dvc exp run -S train.epochs=10, then dvc metrics diff\n"
        "      to choose among N experiments by these figures: -S threshold.tries=N in each of them; or choose by\n"
        "      holdout_auc in reports/train.json and certify the best alone\n"
        "      dvc plots show, for the curves\n"
        "      make serve, then open http://localhost:8000"
    )


if __name__ == "__main__":
    run_stage("summary", main)
