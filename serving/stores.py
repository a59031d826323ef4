"""Files of disks and object stores: where photos lie, and what goes wrong with reading them."""

from __future__ import annotations

import csv
import functools
import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, BinaryIO, NamedTuple, cast

from serving.inference.verdict.errors import UserError

STORES = ("s3://", "gs://", "az://")  # obstore's credentials and endpoints come from the environment, AWS_… and so on
URLS = (*STORES, "http://", "https://")
UNAVAILABLE = "unavailable"  # the kind of error that may be over on the next try


class Photo(NamedTuple):
    """Where a photo is. `path` names it in the results; `size` is None until something has listed it."""

    path: str
    location: str
    offset: int = 0
    size: int | None = None


class ReadError(UserError):
    """A photo that cannot be read; `kind` is one of missing, vanished, forbidden, refused, unfetchable, unreadable,
    unavailable."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def extra(name: str, needs: str = "batch") -> Any:
    """An optional package. Raises UserError with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        command = f"pip install -r serving/requirements-{needs}.txt -c constraints.txt"
        raise UserError(f"{error.name} is not installed: {command}") from None


@functools.cache
def store(root: str) -> Any:
    """The store behind `s3://bucket`; its connections are shared by all threads. Raises UserError."""
    obstore = extra("obstore.store")
    try:
        return obstore.from_url(root)
    except Exception as error:  # each store has its own, of what its environment variables lack
        raise UserError(f"{root} cannot be opened: {_line(error)}") from None


def split(url: str) -> tuple[Any, str]:
    """The store and the key of an object's URL. Raises UserError."""
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    if not re.fullmatch(r"[\w.$-]+", bucket):
        raise ReadError("missing", "the URL names no bucket")
    return store(f"{scheme}://{bucket}"), key


@contextmanager
def reading(*, listed: bool = False) -> Iterator[None]:
    """Turn what files and stores raise into ReadError; what had been `listed` and is gone has vanished."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise ReadError("vanished" if listed else "missing", error.strerror or "no such object") from None
    except PermissionError as error:
        raise ReadError("forbidden", error.strerror or "") from None
    except OSError as error:
        raise ReadError("unreadable", error.strerror or _line(error)) from None
    except ValueError as error:  # a key that no store has, a path with a null byte
        raise ReadError("missing", _line(error)) from None
    except Exception as error:
        if not type(error).__module__.startswith("obstore"):
            raise
        denied = type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError")
        raise ReadError("forbidden" if denied else UNAVAILABLE, _line(error)) from None


@contextmanager
def failing(what: str) -> Iterator[None]:
    """`reading` that says of what, for errors that end more than a photo."""
    try:
        with reading():
            yield
    except ReadError as error:
        kind = "" if error.kind == "unreadable" else f"{error.kind}: "  # it may be written
        raise UserError(f"{what}: {kind}{error}") from None


@contextmanager
def parsing(location: str) -> Iterator[None]:
    """Turn what JSON, CSV and Parquet raise of a damaged file into UserError."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, OSError, csv.Error) as error:
        raise UserError(f"{location} is damaged, or of another kind: {error}") from None


def open_file(location: str, ahead: int = 2**20) -> BinaryIO:
    """A file or object to seek in; of an object `ahead` bytes are read at once. Raises ReadError."""
    with reading():
        if not location.startswith(STORES):
            return open(location, "rb")
        reader = extra("obstore").open_reader(*split(location), buffer_size=ahead)
        methods = {name: getattr(reader, name) for name in ("read", "seek", "tell", "close")}
        # Arrow makes Python's own kind of file of it, and asks for `closed`, which obstore's lacks.
        return cast(BinaryIO, extra("pyarrow").PythonFile(SimpleNamespace(**methods, closed=False), mode="r"))


def _line(error: Exception) -> str:
    """The first line, without an answer's XML."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
