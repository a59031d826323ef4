"""Training: loss and schedule, augmentation, precision rule; repeatable runs (of several processes: test_resume.py)."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from serving.inference.photo.cores import vector_instructions
from stages.backbone.fit import without_head
from stages.common.base.errors import StageError
from stages.common.base.files import write_bytes
from stages.common.base.params import Data, load
from stages.common.base.paths import BACKBONE, CHECKPOINT
from stages.common.base.photos import CLEAN_LABEL, DIRTY_LABEL, Origin, list_photos
from stages.common.network.model import Checkpoint, check_image_size, create
from stages.common.network.scoring import loader
from stages.train import augment, devices
from stages.train.distributed import Ranks, launch, process_count, process_group
from stages.train.params import AugmentParams, Params
from stages.train.precision import depthwise_share, pick_precision
from stages.train.reporter import Reporter
from stages.train.sampling import Batches, Positioned
from stages.train.trainer import Trainer, build, class_weights, compiled, loss, lr_factor
from tests.support.ranks import fail_in_one_process
from tests.support.workspace import ROOT, SMALL_MODEL, Workspace, full_disk

PARAMS = load(Params, Path(__file__).parents[1] / "params.yaml").train
OUTPUTS = torch.tensor([[2.0, -1.0], [0.5, 0.3], [-1.0, 3.0]])
LABELS = torch.tensor([DIRTY_LABEL, CLEAN_LABEL, CLEAN_LABEL])
EVEN = torch.ones(2)


def test_cross_entropy_is_torchs() -> None:
    params = replace(PARAMS, loss="ce", label_smoothing=0.1)
    expected = nn.CrossEntropyLoss(label_smoothing=0.1)(OUTPUTS, LABELS)
    assert torch.isclose(loss(OUTPUTS, LABELS, EVEN, params), expected)


def test_focal_without_gamma_is_cross_entropy_and_with_it_forgives_easy_photos() -> None:
    plain = loss(OUTPUTS, LABELS, EVEN, replace(PARAMS, loss="ce"))
    assert torch.isclose(loss(OUTPUTS, LABELS, EVEN, replace(PARAMS, loss="focal", focal_gamma=0.0)), plain)
    p_true = OUTPUTS.softmax(1)[torch.arange(3), LABELS]
    by_hand = ((1 - p_true) ** 2 * -p_true.log()).mean()
    assert torch.isclose(loss(OUTPUTS, LABELS, EVEN, replace(PARAMS, loss="focal", focal_gamma=2.0)), by_hand)


@pytest.mark.parametrize("gamma", [0.01, 0.5])
def test_focal_loss_of_a_certain_photo_has_a_gradient(gamma: float) -> None:
    outputs = torch.tensor([[40.0, -40.0], [0.5, 0.3]], requires_grad=True)
    focal = replace(PARAMS, loss="focal", focal_gamma=gamma)
    loss(outputs, torch.tensor([DIRTY_LABEL, CLEAN_LABEL]), EVEN, focal).backward()
    assert outputs.grad is not None and bool(torch.isfinite(outputs.grad).all())


def test_class_weights() -> None:
    labels = np.array([CLEAN_LABEL] * 30 + [DIRTY_LABEL] * 10)
    auto = class_weights(labels, replace(PARAMS, class_weights="auto"))
    assert auto[DIRTY_LABEL] == 2 and torch.isclose(auto[CLEAN_LABEL], torch.tensor(2 / 3))
    pair = class_weights(labels, replace(PARAMS, class_weights=(1.0, 5.0)))
    assert (pair[CLEAN_LABEL], pair[DIRTY_LABEL]) == (1, 5)
    params = replace(PARAMS, class_weights="none")
    assert (class_weights(labels, params) == 1).all()
    heavier = loss(OUTPUTS, LABELS, pair, params) - loss(OUTPUTS, LABELS, EVEN, params)
    alone = loss(OUTPUTS[:1], LABELS[:1], EVEN, params)
    assert torch.isclose(heavier, 4 * alone / 3)


def test_learning_rate_rises_then_falls_to_zero() -> None:
    factors = [lr_factor(step, 100, 0.1) for step in range(101)]
    assert factors[0] > 0 and factors[10] == 1 and factors[100] == pytest.approx(0)
    assert factors[:10] == sorted(factors[:10]) and factors[10:] == sorted(factors[10:], reverse=True)


def only(**strengths: float) -> AugmentParams:
    return replace(PARAMS.augment, **(dict.fromkeys(PARAMS.augment.__dataclass_fields__, 0.0) | strengths))


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_augmentation_of_strength_zero_changes_nothing_and_a_certain_flip_mirrors(flip: float) -> None:
    images = torch.randint(0, 256, (3, 3, 32, 32)).float()
    moved, labels = augment.apply(images, LABELS, augment.draw(0, 0, range(3)), only(flip=flip))
    assert torch.allclose(moved, images.flip(3) if flip else images, atol=1e-2) and (labels == LABELS).all()


def test_grey_takes_the_colour_away() -> None:
    grey, _ = augment.apply(torch.rand(3, 3, 32, 32) * 255, LABELS, augment.draw(0, 0, range(3)), only(grey=1.0))
    assert torch.allclose(grey.std(1), torch.zeros(3, 32, 32), atol=1e-3)


def test_dirt_is_painted_on_clean_photos_only_and_makes_them_dirty() -> None:
    images, labels = torch.full((64, 3, 64, 64), 200.0), torch.tensor([CLEAN_LABEL, DIRTY_LABEL] * 32)
    painted, found = augment.apply(images, labels, augment.draw(0, 0, range(64)), only(dirt=0.5))
    changed = (painted != images).flatten(1).any(1)
    assert (changed == (labels != found)).all() and not changed[labels == DIRTY_LABEL].any() and 8 < changed.sum() < 24
    assert painted.min() >= 0 and painted.max() <= 255
    corner, middle = painted[changed][..., :4, :4], painted[changed][..., 28:48, 20:44]
    assert torch.allclose(corner, torch.tensor(200.0)) and (middle - 200).abs().mean() > 20


def test_a_photo_is_changed_by_its_place_in_the_epoch_alone() -> None:
    together, alone = augment.draw(7, 2, [5, 6, 7]), augment.draw(7, 2, [6])
    assert (together[1] == alone[0]).all()
    assert (augment.draw(7, 3, [6]) != alone).any()
    assert together.min() >= -1 and together.max() < 1


def test_augmented_pixels_stay_in_range() -> None:
    images = torch.randint(0, 256, (16, 3, 32, 32)).float()
    moved, _ = augment.apply(images, torch.ones(16), augment.draw(0, 0, range(16)), PARAMS.augment)
    assert moved.min() >= 0 and moved.max() <= 255 and moved.shape == images.shape


@pytest.mark.parametrize(
    ("name", "mostly_depthwise"),
    [("resnet50", False), ("convnext_tiny", False), ("efficientnet_b0", True), ("tf_efficientnet_lite0", True)],
)
def test_the_precision_rule_on_a_cpu(name: str, mostly_depthwise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = create(name)
    check_image_size(model, name, 64)
    assert (depthwise_share(model, 64) > 0.05) == mostly_depthwise
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    expected = torch.float32 if mostly_depthwise else torch.bfloat16
    free = replace(PARAMS, amp="auto", deterministic=False)
    assert pick_precision(model, 64, cpu, free) is expected
    assert pick_precision(model, 64, cpu, replace(free, deterministic=True)) is torch.float32
    assert pick_precision(model, 64, cpu, replace(PARAMS, amp="off")) is torch.float32
    assert pick_precision(model, 64, cpu, replace(PARAMS, amp="bf16")) is torch.bfloat16


def test_more_devices_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert process_count("auto") == 2
    with pytest.raises(StageError, match=r"train\.devices: 3 asked for, 2 GPUs"):
        process_count(3)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert (process_count("auto"), process_count(2)) == (1, 2)


def test_an_unknown_model_is_named_with_what_is_close() -> None:
    with pytest.raises(StageError, match=r"no model 'resnet5O'; did you mean .*resnet50"):
        create("resnet5O")


def test_an_image_size_a_model_cannot_take_is_named() -> None:
    with pytest.raises(StageError, match="img_size: vit_tiny_patch16_224 cannot take 128 x 128"):
        check_image_size(create("vit_tiny_patch16_224"), "vit_tiny_patch16_224", 128)


def train(workspace: Workspace, **changes: object) -> bytes:
    workspace.set(**changes)
    workspace.must("train")
    return CHECKPOINT.read_bytes()


def test_a_run_repeats_and_reports_itself(trainable: Workspace) -> None:
    first = train(trainable)
    report = json.loads(Path("reports/train.json").read_text())
    assert report["processes"] == 1 and report["precision"] == "float32" and report["epoch"] == 2
    held_out = Path("artifacts/holdout.csv").read_text().split()
    assert held_out[0] == "path"
    assert len(held_out) - 1 == sum(report["held_out"].values()) == 24 - sum(report["fit"].values())
    assert len(Path("reports/train/plots/metrics/holdout_auc.tsv").read_text().splitlines()) == 3
    assert train(trainable) == first


@pytest.mark.slow
def test_a_run_repeats_to_the_bit_on_fewer_cores(trainable: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    process = Workspace(trainable.folder)
    first = train(process, **{"train.threads": 2})
    monkeypatch.setenv("NPY_DISABLE_CPU_FEATURES", "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL")
    with one_core():
        assert train(process) == first


@contextmanager
def one_core() -> Iterator[None]:
    """What is started in here sees a single core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@pytest.mark.parametrize(
    ("flags", "changes", "limited"),
    [
        ("avx2 avx512f", {}, True),
        ("avx2", {"amp": "off"}, True),
        ("sse4_2 avx", {}, False),
        ("avx2", {"deterministic": False}, False),
        ("avx2 avx512_bf16", {"amp": "bf16"}, False),
        ("avx2", {"compile": True}, False),
    ],
)
def test_kernels_are_limited_where_bits_shall_be_the_same(
    flags: str, changes: dict[str, Any], limited: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: A Processor\nflags\t\t: fpu {flags} sse\n")
    monkeypatch.setattr(devices, "vector_instructions", partial(vector_instructions, tmp_path / "cpuinfo"))
    monkeypatch.setattr(os, "environ", {})
    devices.limit_kernels(replace(PARAMS, **changes))
    assert os.environ == (devices.COMMON_KERNELS if limited else {})


@pytest.mark.parametrize("changes", [{}, {"loss": "focal", "focal_gamma": 0.5}, {"loss": "focal", "focal_gamma": 1.5}])
def test_a_step_computes_nothing_that_processors_approximate(trainable: Workspace, changes: dict[str, Any]) -> None:
    trainable.set(**{f"train.{name}": value for name, value in changes.items()})
    trainer = Trainer(load(Params), np.array([CLEAN_LABEL, DIRTY_LABEL]), 10, Ranks(0, 1, torch.device("cpu")))
    images = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    with Operations() as used:
        trainer.step(images, torch.tensor([CLEAN_LABEL, DIRTY_LABEL]), torch.arange(2), 0, 0)
    assert not used.seen & {"sqrt", "log2", "log10", "acos", "asin", "atan", "_cdist_forward", "pow 0.5"}


class Operations(TorchDispatchMode):
    """The names of the operations that run, and the exponents of powers."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.seen.add(f"{name} {args[1]}" if name == "pow" else name)
        return func(*args, **kwargs or {})


def test_kernels_are_limited_before_torch_looks_at_the_processor() -> None:
    program = "import sys, stages.train.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"train.sampler": "oversample", "train.loss": "focal", "train.class_weights": "auto", "train.ema_horizon": 0.0},
        {"train.sampler": "none", "train.amp": "bf16", "train.class_weights": [1.0, 3.0], "train.label_smoothing": 0.1},
    ],
)
def test_every_kind_of_run_makes_a_usable_checkpoint(trainable: Workspace, changes: dict[str, object]) -> None:
    train(trainable, **changes, **{"train.epochs": 1})
    checkpoint = Checkpoint.load(CHECKPOINT)
    assert checkpoint.model == SMALL_MODEL
    outputs = checkpoint.network()(torch.zeros(1, 3, 64, 64))
    assert outputs.shape == (1, 2) and bool(torch.isfinite(outputs).all())


def test_one_failing_process_neither_hangs_nor_hides_its_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(socket, "getfqdn", lambda *_: "no.such.host.invalid")  # and a host name that does not resolve
    monkeypatch.setattr(socket, "gethostname", lambda: "no.such.host.invalid")
    start = time.monotonic()
    with pytest.raises(StageError, match="a training process failed"):
        launch(fail_in_one_process, 2)
    assert time.monotonic() - start < 300
    assert "the second process fails; mean of the ranks 0.5" in capfd.readouterr().err


@pytest.mark.parametrize("error", [StageError("a photo is broken"), OSError("the disk is full"), KeyError("a defect")])
def test_a_child_says_what_went_wrong_and_ends_at_once(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    launch(fail, 2)
    said = capsys.readouterr().err
    assert codes == [1] and str(error) in said and ("Traceback" in said) == isinstance(error, KeyError)


def test_after_a_failure_the_group_is_not_destroyed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}.items():
        monkeypatch.setenv(name, value)
    destroyed: list[None] = []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: destroyed.append(None))
    with pytest.raises(ValueError, match="defect"), process_group():
        raise ValueError("defect")
    assert not destroyed
    with process_group():
        pass
    assert destroyed


def test_a_card_that_torch_cannot_use_is_named_with_driver_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256.02  Thu May  2 14:37:44 UTC 2024\n")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "find_card", partial(devices.find_card, driver, tmp_path))
    with pytest.raises(StageError, match=r"470\.256\.02.*torch 2\..*train\.device: cpu"):
        devices.choose_device("auto")
    driver.unlink()
    devices.choose_device("auto")  # no card
    with pytest.raises(StageError, match=r"no NVIDIA driver"):
        devices.choose_device("cuda")
    (tmp_path / "nvidia0").touch()
    with pytest.raises(StageError, match=r"nvidia0 without a loaded driver"):
        devices.choose_device("auto")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    devices.choose_device("cpu")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    devices.choose_device("auto")  # hidden on purpose


def test_accumulating_gives_the_same_gradient(workspace: Workspace) -> None:
    workspace.set(model="convnext_atto")  # without batch norm, whose statistics are those of each part
    write_backbone("convnext_atto")
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (8, 64, 64, 3), np.uint8))
    labels, positions = torch.tensor([DIRTY_LABEL, CLEAN_LABEL] * 4), torch.arange(8)

    def step(parts: int) -> tuple[float, torch.Tensor]:
        workspace.set(**{"train.accumulate": parts})
        trainer = Trainer(load(Params), labels.numpy(), 10, Ranks(0, 1, torch.device("cpu")))
        value = float(trainer.step(images, labels, positions, 0, 0))
        return value, torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()])

    value, gradient = step(1)
    for parts in (2, 8):
        other, split = step(parts)
        assert other == pytest.approx(value, rel=1e-5)
        assert float((split - gradient).norm() / gradient.norm()) < 1e-3


def test_a_batch_beyond_a_cards_memory_is_said_with_the_remedy(
    trainable: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Trainer, "step", step)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA")
    trainable.refuses("train", "8 photos at once do not fit into the memory of NVIDIA", "train.accumulate")


def test_a_batch_that_cannot_be_shared_out_is_named(trainable: Workspace) -> None:
    trainable.set(**{"train.accumulate": 3})
    trainable.refuses("train", "train.batch_size: 8", "train.accumulate: 3", "a multiple of 3")
    assert not Path(".scratch/pixels").exists(), "nothing is decoded before"


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "levit_128s"])
def test_a_network_with_two_classifiers_can_be_trained(name: str, workspace: Workspace) -> None:
    workspace.set(model=name, img_size=224)
    body = write_backbone(name)
    built = build(load(Params), torch.device("cpu")).state_dict()
    assert all(torch.equal(built[key], value) for key, value in body.items())


def write_backbone(name: str) -> dict[str, torch.Tensor]:
    """A random backbone for the current folder."""
    model = create(name)
    body = without_head(model.state_dict(), model, name)
    BACKBONE.parent.mkdir()
    save_file(body, BACKBONE)
    return body


def test_every_seed_starts_from_another_classifier(workspace: Workspace) -> None:
    write_backbone(SMALL_MODEL)
    params, cpu = load(Params), torch.device("cpu")
    first, again, other = (
        build(replace(params, train=replace(params.train, seed=seed)), cpu).state_dict()["classifier.weight"]
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_backbone_of_another_network_is_named(workspace: Workspace) -> None:
    body = write_backbone(SMALL_MODEL)
    save_file({key: value for key, value in body.items() if not key.startswith("conv_stem")}, BACKBONE)
    with pytest.raises(StageError, match=f"is not of {SMALL_MODEL}; run `dvc repro backbone`"):
        build(load(Params), torch.device("cpu"))


@pytest.mark.parametrize("cache", ["disk", "none"])
@pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")
def test_readers_beside_a_gpu_give_the_same_batches(workspace: Workspace, cache: str) -> None:
    params = replace(load(Params), data=Data("data_cars", cache, 1.0, None))  # type: ignore[arg-type]
    photos = Positioned(params.data, list_photos(workspace.data, "train"), 64)
    batches = Batches(photos.labels, [Origin(photo.name) for photo in photos.photos], params.train, 0, 1)
    here = list(loader(photos, batches, torch.device("cpu"), 2))
    beside = loader(photos, batches, torch.device("cuda"), 2)
    for _ in range(2):
        for mine, theirs in zip(here, beside, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert len(here[0]) == 3 and here[0][0].shape == (8, 64, 64, 3) and here[0][0].dtype == torch.uint8


def test_where_nothing_compiles_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(StageError, match=r"train\.compile: .*no C\+\+ compiler"):
        compiled(nn.Linear(1, 1), torch.device("cpu"))


def test_tensorboard_without_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(StageError, match="pip install tensorboard"):
        Reporter(Ranks(0, 1, torch.device("cpu")), 10, 0, tensorboard=True)


def test_a_full_disk_leaves_no_half_checkpoint(workspace: Workspace) -> None:
    checkpoint = Checkpoint("m", 64, (0.5,), (0.5,), "v", 1, {"weight": torch.zeros(1000)})
    with full_disk(), pytest.raises(StageError, match=r"cannot write artifacts/best\.pt: File too large"):
        write_bytes(CHECKPOINT, checkpoint.content())
    assert list(Path("artifacts").iterdir()) == []
