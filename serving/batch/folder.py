"""The folder of a job, on a disk or in an object store: files that appear whole, and are written once."""

from __future__ import annotations

import io
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from serving.batch.lists import local
from serving.inference.verdict.errors import UserError
from serving.stores import STORES, extra, failing, parsing, split
from serving.whole import unfinished, whole

JOB = "_job.json"  # the first file of a job's folder


class Folder:
    """`url`: a local path, file:// or the prefix of an object store. All methods raise UserError."""

    def __init__(self, url: str) -> None:
        self.remote = url.startswith(STORES)
        self.url = url.rstrip("/") if self.remote else os.path.abspath(local(url))

    def at(self, name: str) -> str:
        return f"{self.url}/{name}"

    def read(self, name: str) -> bytes | None:
        """A file's bytes, None where it is missing."""
        with failing(f"cannot read {self.at(name)}"):
            try:
                if not self.remote:
                    return Path(self.at(name)).read_bytes()
                return bytes(extra("obstore").get(*split(self.at(name))).bytes())
            except FileNotFoundError:
                return None

    def read_json(self, name: str) -> dict[str, Any] | None:
        with parsing(self.at(name)):
            content = self.read(name)
            return None if content is None else dict(json.loads(content))

    def read_table(self, name: str, columns: list[str] | None = None) -> Any:
        content = self.read(name)
        if content is None:
            raise UserError(f"{self.at(name)} is missing")
        with parsing(self.at(name)):
            return extra("pyarrow.parquet").read_table(io.BytesIO(content), columns=columns)

    def write(self, name: str, content: bytes) -> bool:
        """Write a file, whole; False where it exists already, which leaves it as it is."""
        with failing(f"cannot write {self.at(name)}"):
            target = Path(self.at(name))
            if not self.remote:
                target.parent.mkdir(parents=True, exist_ok=True)
            try:
                if self.remote:
                    extra("obstore").put(*split(self.at(name)), content, mode="create")
                else:
                    with whole(target, new=True) as file:
                        file.write(content)
            except (FileExistsError, extra("obstore.exceptions").AlreadyExistsError):
                return False
            return True

    def write_json(self, name: str, content: dict[str, Any]) -> bool:
        return self.write(name, json.dumps(content, indent=1).encode())

    def write_table(self, name: str, table: Any) -> bool:
        buffer = io.BytesIO()
        extra("pyarrow.parquet").write_table(table, buffer, compression="zstd")
        return self.write(name, buffer.getvalue())

    def files(self, below: str = "") -> dict[str, float]:
        """What lies directly in the folder or in one below it, by name: when it was written, in seconds since 1970."""
        with failing(f"cannot list {self.at(below)}"):
            if self.remote:
                place, key = split(self.at(below))
                listed = extra("obstore").list_with_delimiter(place, key.rstrip("/") or None)["objects"]
                return {meta["path"].rpartition("/")[2]: meta["last_modified"].timestamp() for meta in listed}
            with suppress(FileNotFoundError), os.scandir(self.at(below)) as entries:
                return {entry.name: entry.stat().st_mtime for entry in entries if not unfinished(entry.name)}
            return {}
