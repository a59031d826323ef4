"""params.yaml -> one frozen, checked object per stage.

A stage declares the keys it reads as the fields of a `Params` class, in `params.py` of its package or, where the stage
is one module, in that module:

    @strict
    class TrainParams: epochs: int ...          # the section `train`

    @strict
    class Params: model: str; train: TrainParams

`load(Params)` hands it those keys and no others, so a stage cannot read what dvc.yaml does not declare: the `params:`
of the stage there are the names of these fields, which tests/test_pipeline.py checks. `data` and `runtime` change no
output, and are not declared; but for `data.car_regex`, of split_check.
"""

import difflib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

import yaml
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from stages.common.base.errors import StageError

T = TypeVar("T")

PARAMS_FILE = Path("params.yaml")

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]  # a share or probability, both ends allowed
OpenShare = Annotated[float, Field(gt=0, lt=1)]
ImageSize = Annotated[int, Field(ge=32, le=1024)]
ModelName = Annotated[str, Field(min_length=1)]


class ParamsError(StageError):
    """params.yaml is missing, damaged, or a key of it is; the message names the keys and what they should be."""


@dataclass_transform(frozen_default=True)
def strict(cls: type[T]) -> type[T]:
    """A frozen dataclass that refuses unknown, missing and wrong-typed keys. An int is a fine float, not vice versa."""
    rules = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return dataclass(frozen=True, config=rules)(cls)  # type: ignore[return-value]  # pydantic types it as a protocol


def _with_group(pattern: str) -> str:
    """Raises ValueError for a regular expression that is broken or has no group to read an id from."""
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from error
    if not groups:
        raise ValueError("needs a group in brackets around the id, as in 'car_([0-9]+)'")
    return pattern


IdRegex = Annotated[str, AfterValidator(_with_group)]


@strict
class Data:
    """The section `data`: where the photos are, which are of one car, and where their pixels are kept once decoded."""

    root: Annotated[str, Field(min_length=1)]
    cache: Literal["none", "ram", "disk"]
    cache_gb: Annotated[float, Field(gt=0)]
    car_regex: IdRegex | None


@strict
class Runtime:
    """The section `runtime`: what changes no output, so that dvc.yaml declares it for no stage."""

    num_workers: NonNegative
    save_every: Annotated[float, Field(ge=0)]  # seconds
    tensorboard: bool


class _Yaml12(yaml.SafeLoader):
    """PyYAML reads the 1e-05 that DVC writes as a string; YAML 1.2, and this loader, read it as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{', '.join(twice)} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Yaml12.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load(cls: type[T], path: Path = PARAMS_FILE) -> T:
    """Read the keys of `cls` from params.yaml. Raises ParamsError naming every key that is wrong."""
    try:
        content = yaml.load(path.read_text(), Loader=_Yaml12)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParamsError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise ParamsError(f"{path} must be a mapping with the keys {', '.join(keys(cls))}")
    wanted = {name: content[name] for name in keys(cls) if name in content}
    try:
        # Of strict JSON, objects may be dataclasses.
        return TypeAdapter(cls).validate_json(json.dumps(wanted, default=str))
    except ValidationError as error:
        lines = [_say(problem, [str(key) for key in content]) for problem in error.errors()]
        raise ParamsError("\n".join([f"{path}:", *lines])) from error


def keys(cls: type[Any]) -> list[str]:
    """The top-level keys of params.yaml that a `Params` class reads."""
    return list(cls.__dataclass_fields__)


def _say(problem: Any, found: list[str]) -> str:
    """One line for one pydantic error: the dotted key, what is wrong, what was found. `found`: the top-level keys."""
    # Pydantic adds the branch of a union that it tried, such as `literal['auto']` or `int`, behind the key itself.
    key = ".".join(str(part) for part in problem["loc"] if re.fullmatch(r"[a-z_0-9]+", str(part)) and part != "int")
    if problem["type"] == "missing":
        close = difflib.get_close_matches(key, found, n=1)
        return f"  {key}: missing" + (f"; is {close[0]} a misspelling of it?" if close else "")
    if problem["type"] == "unexpected_keyword_argument":
        return f"  {key}: unknown key"
    return f"  {key}: {problem['msg']}, found {problem['input']!r}"
