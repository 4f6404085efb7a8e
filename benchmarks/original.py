"""The original script's way of training, written anew from its description: the peer of `input_path` and `step`.

One image at a time through Pillow and torchvision in 8 worker processes that are started again each epoch; NCHW,
eager, default AdamW; fp16 autocast with a GradScaler in training and fp32 in evaluation at the training batch on CUDA,
fp32 on the CPU; deterministic cuDNN without autotuning; `.item()` and four `.cpu()` copies every step. Before
the first step the whole training set is decoded and augmented twice to count its labels.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

NUM_WORKERS = 8
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

Item = tuple[Tensor, int, int]


def train_transform(image_size: int) -> Callable[[Image.Image], Tensor]:
    """Return the training transforms: PIL image -> float32 [3, S, S], normalized."""
    return transforms.Compose(
        [
            transforms.Resize((image_size, image_size)),
            transforms.RandomResizedCrop(image_size),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(0.2, 0.2, 0.1, 0.02),
            transforms.ToTensor(),
            transforms.Normalize(_MEAN, _STD),
        ]
    )


def eval_transform(image_size: int) -> Callable[[Image.Image], Tensor]:
    """Return the evaluation transforms: PIL image -> float32 [3, S, S], normalized."""
    return transforms.Compose(
        [
            transforms.Resize((image_size, image_size)),
            transforms.ToTensor(),
            transforms.Normalize(_MEAN, _STD),
        ]
    )


class FaceDataset(Dataset[Item]):
    """Decodes and transforms one image per call.

    Args:
        paths: Image files, N of them.
        age: 0..8, N of them.
        gender: 0..1, N of them.
        transform: PIL image -> float32 [3, S, S].
    """

    def __init__(
        self,
        paths: Sequence[str],
        age: Sequence[int],
        gender: Sequence[int],
        transform: Callable[[Image.Image], Tensor],
    ) -> None:
        assert len(paths) == len(age) == len(gender)
        self.paths, self.age, self.gender, self.transform = list(paths), list(age), list(gender), transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Item:
        image = Image.open(self.paths[index]).convert("RGB")
        return self.transform(image), int(self.age[index]), int(self.gender[index])


def count_labels(dataset: FaceDataset) -> tuple[np.ndarray, np.ndarray]:
    """Count the labels as the original did: two passes over decoded, augmented images.

    Returns:
        Ages, int64 [9], and genders, int64 [2].
    """
    age = [dataset[i][1] for i in range(len(dataset))]
    gender = [dataset[i][2] for i in range(len(dataset))]
    return np.bincount(age, minlength=9), np.bincount(gender, minlength=2)


def class_weights(counts: np.ndarray) -> Tensor:
    """Return inverse-frequency weights, sum / count divided by their mean: float32 [K]."""
    weights = counts.sum() / np.maximum(counts, 1)
    return torch.tensor(weights / weights.mean(), dtype=torch.float32)


def seed_everything(seed: int) -> None:
    """Seed all generators and make cuDNN deterministic, without autotuning."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - as the original did
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


@dataclass
class OriginalLoop:
    """The original's epoch.

    Attributes:
        model: Returns (age logits [B, 9], gender logits [B, 2]).
        train: Training images.
        evaluation: Validation images, or None.
        batch_size: Images per step, in evaluation too.
        device: Where to train.
        lr: Learning rate.
        weight_decay: AdamW's.
        epochs: Length of the cosine.
        num_workers: Worker processes; 0 loads in this one.
        age_weights: float32 [9]; None for equal weights, which skips the two label passes.
        gender_weights: float32 [2] or None.
    """

    model: nn.Module
    train: FaceDataset
    evaluation: FaceDataset | None
    batch_size: int
    device: torch.device
    lr: float = 3e-4
    weight_decay: float = 1e-4
    epochs: int = 20
    num_workers: int = NUM_WORKERS
    age_weights: Tensor | None = None
    gender_weights: Tensor | None = None

    def __post_init__(self) -> None:
        self.amp = self.device.type == "cuda"
        self.model.to(self.device)
        self.age_loss = nn.CrossEntropyLoss(weight=self._on_device(self.age_weights))
        self.gender_loss = nn.CrossEntropyLoss(weight=self._on_device(self.gender_weights))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=self.epochs)
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.amp)
        self.train_loader = self._loader(self.train, shuffle=True)

    def train_epoch(self, *, max_steps: int | None = None) -> tuple[float, float, float]:
        """Train one epoch, or its first steps.

        Returns:
            Mean loss, age accuracy and gender accuracy on the training batches.
        """
        self.model.train()
        totals = _Totals()
        for step, (images, age, gender) in enumerate(self.train_loader):
            if step == max_steps:
                break
            images, age, gender = self._to_device(images, age, gender)
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cuda", dtype=torch.float16, enabled=self.amp):
                age_logits, gender_logits = self.model(images)
                loss = 0.5 * self.age_loss(age_logits, age) + 0.5 * self.gender_loss(gender_logits, gender)
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            totals.add(loss, age_logits, gender_logits, age, gender)
        return totals.means()

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float, float]:
        """Evaluate in float32 at the training batch; returns what `train_epoch` returns."""
        assert self.evaluation is not None
        self.model.eval()
        totals = _Totals()
        for images, age, gender in self._loader(self.evaluation, shuffle=False):
            images, age, gender = self._to_device(images, age, gender)
            age_logits, gender_logits = self.model(images)
            loss = 0.5 * self.age_loss(age_logits, age) + 0.5 * self.gender_loss(gender_logits, gender)
            totals.add(loss, age_logits, gender_logits, age, gender)
        return totals.means()

    def run(self) -> Iterator[tuple[float, float, float]]:
        """Train and evaluate epoch after epoch; yields what `evaluate` returns."""
        for _ in range(self.epochs):
            self.train_epoch()
            yield self.evaluate()
            self.scheduler.step()

    def _loader(self, dataset: FaceDataset, *, shuffle: bool) -> DataLoader[Item]:
        # persistent_workers is left at its default: the workers start again each epoch.
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            pin_memory=self.amp,
        )

    def _to_device(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.to(self.device, non_blocking=True) for tensor in tensors)

    def _on_device(self, weights: Tensor | None) -> Tensor | None:
        return None if weights is None else weights.to(self.device)


class _Totals:
    """Loss and counts, copied to the host every step: one `.item()` and four `.cpu()`."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.age_true: list[Tensor] = []
        self.age_pred: list[Tensor] = []
        self.gender_true: list[Tensor] = []
        self.gender_pred: list[Tensor] = []

    def add(self, loss: Tensor, age_logits: Tensor, gender_logits: Tensor, age: Tensor, gender: Tensor) -> None:
        self.loss += loss.item() * len(age)
        self.age_pred.append(age_logits.argmax(1).cpu())
        self.gender_pred.append(gender_logits.argmax(1).cpu())
        self.age_true.append(age.cpu())
        self.gender_true.append(gender.cpu())

    def means(self) -> tuple[float, float, float]:
        age = torch.cat(self.age_pred) == torch.cat(self.age_true)
        gender = torch.cat(self.gender_pred) == torch.cat(self.gender_true)
        return self.loss / len(age), age.float().mean().item(), gender.float().mean().item()
