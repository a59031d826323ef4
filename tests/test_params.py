"""params.yaml is read strictly, and every complaint names its key."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.common.base.params import ParamsError, load
from stages.train.params import Params

ROOT = Path(__file__).parents[1]


def change(tmp_path: Path, key: str, value: Any, *, remove: bool = False) -> Path:
    """A copy of params.yaml with one key changed."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    place = params
    *sections, name = key.split(".")
    for section in sections:
        place = place[section]
    if remove:
        del place[name]
    else:
        place[name] = value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(params))
    return path


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.epochs", "3"),
        ("train.lr", -1.0),
        ("train.sampler", "weigthed"),
        ("train.class_weights", [1.0]),
        ("train.amp", True),
        ("train.augment.flip", 1.5),
        ("model", None),
        ("train.epoch", 3),
        ("train.augment.blur", 0.5),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ParamsError, match=key.replace(".", r"\.")):
        load(Params, change(tmp_path, key, value))


@pytest.mark.parametrize("key", ["train.lr", "train", "model", "data.root", "train.augment.flip", "data.car_regex"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(ParamsError, match=f"{key}: missing"):
        load(Params, change(tmp_path, key, None, remove=True))


def test_a_misspelt_section_is_named(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text().replace("\ntrain:", "\ntrian:"))
    with pytest.raises(ParamsError, match=r"train: missing.*trian"):
        load(Params, path)


def test_every_wrong_key_is_named_at_once(tmp_path: Path) -> None:
    path = change(tmp_path, "train.lr", "x")
    path.write_text(path.read_text().replace("epochs:", "epoch:"))
    with pytest.raises(ParamsError) as error:
        load(Params, path)
    assert all(word in str(error.value) for word in ("train.lr", "train.epoch:", "train.epochs: missing"))


def test_a_key_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("model: resnet50\nmodel: resnet18\n")
    with pytest.raises(ParamsError, match="model stands twice"):
        load(Params, path)


@pytest.mark.parametrize("content", ["", "- a\n", "model: [", "\x00"])
def test_a_file_that_is_no_mapping_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(content)
    with pytest.raises(ParamsError, match=r"params\.yaml"):
        load(Params, path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="cannot read"):
        load(Params, tmp_path / "params.yaml")


@pytest.mark.parametrize("text", ["1e-05", "1E-5", "1.0e-5", "0.00001", "1.e-5"])
def test_floats_as_dvc_writes_them(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text().replace("lr: 1.0e-3", f"lr: {text}"))
    assert load(Params, path).train.lr == 1e-5


def test_an_int_is_a_float_and_class_weights_take_a_pair(tmp_path: Path) -> None:
    assert load(Params, change(tmp_path, "train.class_weights", [1, 30])).train.class_weights == (1.0, 30.0)
