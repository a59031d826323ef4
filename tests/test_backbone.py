"""Pretrained weights: the package's, mapped by name; fallbacks that say what they are."""

import json
import os
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from stages.backbone import sources
from stages.backbone.__main__ import REPORT, find_weights, main
from stages.backbone.fit import without_head
from stages.backbone.params import BackboneParams
from stages.backbone.sources import Unavailable, from_file, from_hub, from_package
from stages.common.base.errors import StageError
from stages.common.base.paths import BACKBONE
from stages.common.network.model import Checkpoint, create
from tests.support.workspace import Workspace
from tools import summary


def test_the_packages_weights_load_strictly_and_see_like_imagenet() -> None:
    name = "tf_efficientnet_lite0"
    model = timm.create_model(name, pretrained=False)
    model.load_state_dict(from_package(name), strict=True)
    model.eval()
    with torch.inference_mode():
        # Smooth vertical stripes of black and white: whatever they are called, a trained net is sure of little noise.
        stripes = torch.sin(torch.arange(224) / 6).sign().expand(1, 3, 224, 224)
        assert model(stripes).softmax(1).max() > 0.05  # fifty times a uniform guess
    assert model.state_dict()["bn1.running_var"].std() > 0.1


def test_lite0_comes_from_the_package(workspace: Workspace) -> None:
    workspace.set(**{"model": "tf_efficientnet_lite0", "backbone.source": "auto"})
    main()
    assert json.loads(REPORT.read_text())["source"] == "package"
    first = BACKBONE.read_bytes()
    main()
    assert BACKBONE.read_bytes() == first
    assert not any(key.startswith("classifier") for key in load_file(BACKBONE))


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub at a port where nobody listens, and an empty cache: the same with and without a network."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(sources, "RETRY_SECONDS", 0.01)


@pytest.mark.usefixtures("no_network")
def test_without_network_auto_takes_what_fits_of_a_packaged_relative(workspace: Workspace) -> None:
    workspace.set(**{"model": "efficientnet_b0", "backbone.source": "auto"})
    main()
    report = json.loads(REPORT.read_text())
    assert (report["source"], report["relative"]) == ("partial", "tf_efficientnet_lite0")
    assert report["tensors"] < report["of_tensors"] and 0.8 < report["parameter_share"] < 0.9
    ours, theirs = load_file(BACKBONE), from_package("tf_efficientnet_lite0")
    own = {key for key in create("efficientnet_b0").state_dict() if not key.startswith("classifier")}
    assert set(ours) == own
    assert {key for key in own if key not in theirs} == {key for key in own if ".se." in key}
    assert all(torch.equal(ours[key], theirs[key]) for key in own & set(theirs) if ours[key].shape == theirs[key].shape)
    biases = [value for key, value in ours.items() if key.endswith("se.conv_expand.bias")]
    assert biases and all(torch.sigmoid(bias).min() > 0.95 for bias in biases), "gates start open, as if absent"
    assert "84.1 %" in summary.weights(report) and "tf_efficientnet_lite0" in summary.weights(report)


@pytest.mark.usefixtures("no_network")
def test_too_little_that_fits_is_refused_with_the_remedy() -> None:
    with pytest.raises(StageError, match=r"resnet18.*backbone\.source: file.*backbone\.source: random"):
        find_weights("resnet18", BackboneParams("auto", None, 0))


class Hub:
    """A hub that answers, and gives weights after so many failures."""

    def __init__(self, failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failures, self.asked = failures, 0
        monkeypatch.setattr(sources, "_hub_answers", lambda: True)
        monkeypatch.setattr(sources, "RETRY_SECONDS", 0.0)
        monkeypatch.setattr(timm, "create_model", self.create)

    def create(self, name: str, pretrained: bool) -> torch.nn.Module:
        assert name == "resnet18" and pretrained
        self.asked += 1
        if self.asked <= self.failures:
            raise ConnectionError("reset by peer")
        return torch.nn.Linear(1, 1)


def test_the_hub_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(failures=2, monkeypatch=monkeypatch)
    assert set(from_hub("resnet18")) == {"weight", "bias"} and hub.asked == 3


def test_the_hub_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(failures=99, monkeypatch=monkeypatch)
    with pytest.raises(Unavailable, match="reset by peer"):
        from_hub("resnet18")
    assert hub.asked == sources.HUB_TRIES


def test_a_source_that_was_asked_for_must_answer() -> None:
    with pytest.raises(StageError, match=r"backbone\.source: package.*no installed package"):
        find_weights("resnet18", BackboneParams("package", None, 0))
    with pytest.raises(StageError, match=r"backbone\.file"):
        find_weights("resnet18", BackboneParams("file", None, 0))


def test_a_file(workspace: Workspace) -> None:
    model = create("resnet18")
    save_file(dict(model.state_dict()), "mine.safetensors")
    workspace.set(**{"model": "resnet18", "backbone.source": "file", "backbone.file": "mine.safetensors"})
    main()
    assert torch.equal(load_file(BACKBONE)["conv1.weight"], model.state_dict()["conv1.weight"])
    workspace.set(model="resnet34")
    with pytest.raises(StageError, match="the weights do not fit resnet34"):
        main()
    Path("mine.safetensors").write_bytes(b"junk")
    with pytest.raises(StageError, match=r"mine\.safetensors is not a state dict"):
        main()


def test_weights_of_another_shape_are_refused() -> None:
    model = create("resnet18")
    weights = dict(model.state_dict())
    weights["conv1.weight"] = torch.zeros(1)
    with pytest.raises(StageError, match=r"do not fit .* first conv1\.weight"):
        without_head(weights, model, "resnet18")


def test_an_unknown_model_is_named(workspace: Workspace) -> None:
    workspace.set(model="efficientnt_b0")
    with pytest.raises(StageError, match=r"efficientnt_b0.*did you mean.*efficientnet_b0"):
        main()


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
    monkeypatch.setattr(sources, "LITE0_SHA256", "0" * 64)
    with pytest.raises(StageError, match=r"is not the published file"):
        from_package("tf_efficientnet_lite0")
