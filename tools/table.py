"""CSV files that people, spreadsheets and our own programs write."""

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path

from stages.common.base.errors import StageError


def read_table(
    path: Path, columns: Sequence[str], *, journal: bool = False, errors: str = "strict"
) -> list[tuple[int, dict[str, str]]]:
    """The rows, by the number of their last line; a cell that is missing is empty. `errors`: of decoding.

    Of a `journal`, to which lines are added, a last one without its end was cut short, and is left out. Raises
    StageError where it cannot be read or lacks one of the columns.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", errors)
        if journal and "\n" in text:
            text, _, torn = text.rpartition("\n")
            if torn:
                logging.getLogger(__name__).warning("%s: its last line has no end, and is left out: %r", path, torn)
        reader = csv.DictReader(io.StringIO(text, newline=""), restval="", strict=True)
        if not set(columns) <= set(reader.fieldnames or ()):
            raise StageError(f"{path}: the first line must name the columns {', '.join(columns)}, separated by commas")
        rows = [(reader.line_num, row) for row in reader]
        if longer := [number for number, row in rows if None in row]:
            raise StageError(f"{path}, line {longer[0]}: it has more cells than the first line")
        return rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StageError(f"cannot read {path} as a CSV file in UTF-8: {error}") from error
