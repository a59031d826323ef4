"""What one would write in an hour: ImageFolder, DataLoader, timm. The baseline of training.py.

    python benchmarks/plain_recipe.py DATA MODEL SIZE BATCH EPOCHS LR WEIGHT_DECAY SEED BACKBONE HELD_OUT

Same photos, backbone, batch, optimiser, schedule, sampling of classes and epochs as the train stage; it scores the
held-out photos after each epoch, keeps the best, and prints one line of JSON.
"""

import json
import re
import resource
import sys
import time
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader, Subset, WeightedRandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def score(model: torch.nn.Module, loader: DataLoader) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of clean and labels, float32 and int64 `[N]`."""
    model.eval()
    scores, labels = [], []
    with torch.inference_mode():
        for images, targets in loader:
            scores.append(model(images.to(DEVICE)).diff(dim=1)[:, 0].cpu())
            labels.append(targets)
    return torch.cat(scores), torch.cat(labels)


def auc(model: torch.nn.Module, loader: DataLoader) -> float:
    scores, labels = score(model, loader)
    return float(roc_auc_score(labels, scores))


def main() -> None:
    data, name, size, batch, epochs, lr, decay, seed, backbone, held_out = sys.argv[1:]
    torch.manual_seed(int(seed))
    model = timm.create_model(name, num_classes=2)
    model.load_state_dict(load_file(backbone), strict=False)
    model.to(DEVICE)
    config = model.pretrained_cfg
    fixed = [transforms.ToTensor(), transforms.Normalize(config["mean"], config["std"])]
    square = transforms.Resize((int(size), int(size)))
    crop = transforms.RandomResizedCrop(int(size), scale=(0.5, 1.0))
    augment = transforms.Compose(
        [crop, transforms.RandomHorizontalFlip(), transforms.ColorJitter(0.2, 0.2, 0.2), *fixed]
    )
    plain = transforms.Compose([square, *fixed])
    # ImageFolder takes the classes in alphabetical order: clean 0, dirty 1.
    flipped = {"target_transform": lambda label: 1 - label}
    train, still = (ImageFolder(Path(data, "train"), transform, **flipped) for transform in (augment, plain))
    held = set(json.loads(Path(held_out).read_text()))
    names = [Path(path).relative_to(data).as_posix() for path, _ in train.samples]
    fit = [index for index, path in enumerate(names) if path not in held]
    kept_back = Subset(still, [index for index, path in enumerate(names) if path in held])
    targets = torch.tensor([train.targets[index] for index in fit])
    weights = (1.0 / torch.bincount(targets))[targets]
    loader = DataLoader(
        Subset(train, fit), int(batch), sampler=WeightedRandomSampler(weights.tolist(), len(fit)), num_workers=2
    )
    check = DataLoader(kept_back, 64, num_workers=2)
    optimizer = torch.optim.AdamW(model.parameters(), float(lr), weight_decay=float(decay))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, int(epochs) * len(loader))
    start, best, weights_of_best = time.perf_counter(), -1.0, {}
    for _ in range(int(epochs)):
        model.train()
        for images, labels in loader:
            loss = torch.nn.functional.cross_entropy(model(images.to(DEVICE)), labels.to(DEVICE))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if (found := auc(model, check)) >= best:
            best, weights_of_best = found, {key: value.clone() for key, value in model.state_dict().items()}
    seconds = time.perf_counter() - start
    model.load_state_dict(weights_of_best)
    test = ImageFolder(Path(data, "test"), plain, **flipped)
    scores, labels = score(model, DataLoader(test, 64, num_workers=2))
    by_path = {
        Path(path).relative_to(data).as_posix(): value
        for (path, _), value in zip(test.samples, scores.tolist(), strict=True)
    }
    # Not the usage's maximum: that counts what the process that started this one held.
    peak = int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    found = {
        "seconds": seconds,
        "auc": float(roc_auc_score(labels, scores)),
        "peak_mb": peak,
        "worker_peak_mb": workers,
    }
    print(json.dumps(found | {"scores": by_path}))


if __name__ == "__main__":
    main()
