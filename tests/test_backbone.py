"""Pretrained weights: the package's, mapped by name; fallbacks that say what they are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import timm
import torch
from conftest import Workspace
from safetensors.torch import load_file, save_file

from stages import backbone
from stages.backbone import from_file, from_package, without_head
from stages.common.errors import StageError
from stages.common.model import Checkpoint, create

REPORT, WEIGHTS = Path("reports/backbone.json"), Path("artifacts/backbone.safetensors")


def test_the_packages_weights_load_strictly_and_see_like_imagenet() -> None:
    name = "tf_efficientnet_lite0"
    model = timm.create_model(name, pretrained=False)
    model.load_state_dict(from_package(name), strict=True)
    model.eval()
    with torch.inference_mode():
        # Smooth vertical stripes of black and white: whatever they are called, a trained net is sure of little noise.
        stripes = torch.sin(torch.arange(224) / 6).sign().expand(1, 3, 224, 224)
        assert model(stripes).softmax(1).max() > 0.05  # fifty times a uniform guess
    assert model.bn1.running_var.std() > 0.1


def test_lite0_comes_from_the_package(workspace: Workspace) -> None:
    workspace.set(**{"model": "tf_efficientnet_lite0", "backbone.source": "auto"})
    workspace.must("backbone")
    assert json.loads(REPORT.read_text())["source"] == "package"
    first = WEIGHTS.read_bytes()
    workspace.must("backbone")
    assert WEIGHTS.read_bytes() == first
    assert not any(key.startswith("classifier") for key in load_file(WEIGHTS))


def test_without_network_auto_is_random_and_loud(workspace: Workspace) -> None:
    workspace.set(**{"backbone.source": "auto"})
    # A port nobody listens on, so that the test is the same with and without a network.
    done = workspace.run("backbone", HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_CACHE=str(workspace.folder / "hub"))
    assert done.returncode == 0, done.stderr
    assert "NO PRETRAINED WEIGHTS" in done.stderr
    report = json.loads(REPORT.read_text())
    assert report["source"] == "random" and report["pretrained"] is False


def test_a_source_that_was_asked_for_must_answer(workspace: Workspace) -> None:
    workspace.set(**{"backbone.source": "package"})
    workspace.refuses("backbone", "backbone.source: package", "no installed package")
    workspace.set(**{"backbone.source": "file"})
    workspace.refuses("backbone", "backbone.file")


def test_a_file(workspace: Workspace) -> None:
    model = create("resnet18")
    save_file(dict(model.state_dict()), "mine.safetensors")
    workspace.set(**{"model": "resnet18", "backbone.source": "file", "backbone.file": "mine.safetensors"})
    workspace.must("backbone")
    assert torch.equal(load_file(WEIGHTS)["conv1.weight"], model.state_dict()["conv1.weight"])
    workspace.set(model="resnet34")
    workspace.refuses("backbone", "the weights do not fit resnet34")
    Path("mine.safetensors").write_bytes(b"junk")
    workspace.refuses("backbone", "mine.safetensors is not a state dict")


def test_weights_of_another_shape_are_refused() -> None:
    model = create("resnet18")
    weights = dict(model.state_dict())
    weights["conv1.weight"] = torch.zeros(1)
    with pytest.raises(StageError, match=r"do not fit .* first conv1\.weight"):
        without_head(weights, model, "resnet18")


def test_an_unknown_model_is_named(workspace: Workspace) -> None:
    workspace.set(model="efficientnt_b0")
    workspace.refuses("backbone", "efficientnt_b0", "did you mean", "efficientnet_b0")


class Bomb:
    """What unpickling must not do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_no_weights_file_can_run_code(tmp_path: Path) -> None:
    file, traces = tmp_path / "weights.pth", tmp_path / "executed"
    torch.save({"conv1.weight": Bomb(traces)}, file)
    with pytest.raises(StageError, match=r"weights\.pth is not a state dict"):
        from_file(str(file))
    with pytest.raises(StageError, match=r"weights\.pth is not a usable checkpoint"):
        Checkpoint.load(file)
    assert not traces.exists()


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {"conv1.weight": torch.zeros(1)}}])
def test_a_file_of_something_else_is_named(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(StageError, match=r"weights\.pth is not a state dict: it holds other things"):
        from_file(str(tmp_path / "weights.pth"))


def test_a_package_with_another_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "LITE0_SHA256", "0" * 64)
    with pytest.raises(StageError, match=r"is not the published file"):
        from_package("tf_efficientnet_lite0")
