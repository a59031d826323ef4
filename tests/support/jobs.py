"""Running jobs, and what must be true of every one that has ended."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.batch import __main__ as batch


def score(source: Path | str, out: Path | str, *options: str) -> int:
    """The exit code of `python -m serving.batch`, in this process."""
    try:
        return batch.main([str(source), "--out", str(out), *options])
    except SystemExit as stop:
        return int(str(stop.code))


def assert_each_once(out: Path, source: Path) -> None:
    """Every photo, named by its brightness in eighths, has one row with its verdict."""
    rows = pa.concat_tables(pq.read_table(path) for path in sorted(out.glob("part-*"))).to_pylist()
    paths = sorted(path.name for path in source.iterdir())
    assert [row["id"] for row in rows] == list(range(len(paths)))
    assert [Path(row["path"]).name for row in rows] == paths
    for row in rows:
        assert row["p_clean"] == pytest.approx(int(Path(row["path"]).stem) * 8 / 255, abs=0.01)
