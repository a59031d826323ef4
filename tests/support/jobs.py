"""Running jobs, and what must be true of every one that has ended."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from serving.batch import __main__ as batch


def score(source: Path | str, out: Path | str, *options: str) -> int:
    """The exit code of `python -m serving.batch`, in this process."""
    try:
        return batch.main([str(source), "--out", str(out), *options])
    except SystemExit as stop:
        return int(str(stop.code))


def each_once(out: Path, source: Path) -> bool:
    """Whether every photo, named by its brightness in eighths, has exactly one row, with its verdict."""
    rows = pa.concat_tables(pq.read_table(path) for path in sorted(out.glob("part-*"))).to_pylist()
    paths = sorted(path.name for path in source.iterdir())
    right = (abs(row["p_clean"] - int(Path(row["path"]).stem) * 8 / 255) < 0.01 for row in rows)
    ids = [(row["id"], Path(row["path"]).name) for row in rows]
    return ids == list(enumerate(paths)) and all(right)
