"""Verdicts for photos from anywhere: `load`, `predict` and `predict_many` in Python, `python -m serving.batch` else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from serving.batch.scorer import Row, Scorer
from serving.batch.sources import find
from serving.engine import deployment
from serving.settings import Settings
from serving.stores import Photo


def load(model: str | Path | None = None, *, workers: int | None = None) -> Scorer:
    """A model, by default artifacts/best.onnx, with the settings of the environment, on `workers` of the cores.

    Raises ModelError, ThresholdError or SettingsError.
    """
    settings = Settings.from_env()
    path = settings.model_path if model is None else Path(model)
    return Scorer(deployment.load(settings, path, settings.threshold_path), settings, workers)


def predict(model: Scorer, photo: str | Path | bytes) -> Row:
    """The row of one photo: a path, a URL or the bytes of a file. Its `error` says what is wrong with the photo."""
    if isinstance(photo, bytes):
        return model.score([Photo("", "")], lambda _: photo)[0]
    return model.score([Photo(str(photo), str(photo))])[0]


def predict_many(model: Scorer, sources: Sequence[str | Path]) -> Iterator[Row]:
    """The rows of all photos that `sources` name, as on the command line, while they are listed. Raises UserError."""
    return model.rows(find([str(source) for source in sources]))
