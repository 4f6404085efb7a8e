"""Logits of a whole split, read from the device once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from fairface_core.config.train_config import TrainConfig
from fairface_core.machine.pulse import beat
from fairface_core.scoring.metrics import Logits
from fairface_core.training.augment import prepare_eval
from fairface_core.training.batches import eval_batches

if TYPE_CHECKING:
    from fairface_core.dataset.prepare import Split
    from fairface_core.images.cache import ImageCache

# The batch that a checkpoint was trained with may fit no memory.
MAX_BATCH = 256


def eval_batch_size(config: TrainConfig, device: torch.device) -> int:
    """Return how many images are scored at a time.

    Without gradients a pass holds far less: a larger batch keeps a GPU busy. A CPU gains nothing by it.
    """
    return config.eval_batch_size or config.batch_size * (4 if device.type == "cuda" else 1)


def checkpoint_batch_size(config: TrainConfig, device: torch.device) -> int:
    """Return the same for a checkpoint, wherever it comes from: at most `MAX_BATCH`, unless the caller says more."""
    return config.eval_batch_size or min(eval_batch_size(config, device), MAX_BATCH)


def predict(
    model: nn.Module,
    cache: ImageCache,
    split: Split,
    *,
    image_size: int,
    batch_size: int,
    device: torch.device,
    amp_dtype: torch.dtype | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Logits:
    """Run the model over a split without gradients.

    Args:
        model: Returns (age logits, gender logits).
        cache: Decoded images.
        split: Which of them.
        image_size: Square input, pixels.
        batch_size: Images per pass.
        device: Where the model is.
        amp_dtype: Autocast type, or None for float32.
        memory_format: Layout of the input batch.
    """
    was_training = model.training
    model.eval()
    age, gender = [], []
    with torch.inference_mode(), torch.autocast(device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
        for batch in eval_batches(cache, split, batch_size=batch_size, device=device):
            images = prepare_eval(batch.images, image_size, memory_format)
            age_logits, gender_logits = model(images)
            age.append(age_logits.float())
            gender.append(gender_logits.float())
            beat()
        # One read for the split: a read per batch would wait for the device each time.
        logits = Logits(torch.cat(age).cpu().numpy(), torch.cat(gender).cpu().numpy())
    model.train(was_training)
    return logits
