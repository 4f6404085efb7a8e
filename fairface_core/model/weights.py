"""Pretrained weights: where torch keeps them, and fetching them once. Imports torch only where it must."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

from fairface_core.backbones import BACKBONES
from fairface_core.errors import WeightsError
from fairface_core.files.locks import locked_file


def weights_file(backbone: str) -> tuple[Path, str]:
    """Return where torch keeps this backbone's ImageNet weights, and their address."""
    import torch
    import torchvision

    enum = torchvision.models.get_model_weights(backbone)
    url = enum[BACKBONES[backbone].weights_name].url
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2], url


def ensure_weights(backbone: str, weights: str) -> Path | None:
    """Make sure that a run can load its weights: fetch ImageNet's once, under a lock, and check their hash.

    Args:
        backbone: A key of `BACKBONES`.
        weights: `imagenet`, `none`, or the path of a `.pth` file.

    Returns:
        The file to load, or None for random weights.

    Raises:
        WeightsError: Naming the file, where to put it, and `--weights none`.
    """
    if weights == "none":
        return None
    if weights != "imagenet":
        path = Path(weights).expanduser()
        if not path.is_file():
            raise WeightsError(
                f"weights {weights!r}: no such file; accepted: imagenet, none, or the path of a .pth file"
            )
        return path
    path, url = weights_file(backbone)
    digest_prefix = path.stem.rpartition("-")[2]
    if not path.is_file():
        _download(backbone, path, url, digest_prefix)
    return path


def _download(backbone: str, path: Path, url: str, digest_prefix: str) -> None:
    from urllib.error import URLError

    import torch

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked_file(f"{path}.lock"):
            if not path.is_file():
                torch.hub.download_url_to_file(url, str(path), hash_prefix=digest_prefix, progress=False)
    except (URLError, OSError, RuntimeError) as error:
        # RuntimeError: torch.hub's word for a hash that does not match.
        raise WeightsError(
            f"weights of {backbone}: {path.name} is not here and cannot be downloaded ({error}); put the file at "
            f"{path}, or give --weights PATH.pth, or train from random weights with --weights none"
        ) from error


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, in hex; one that has not changed since is not read again (340 MB take half a second)."""
    facts = path.stat()
    return _file_digest(path, facts.st_size, facts.st_mtime_ns, facts.st_ino)


@functools.lru_cache(maxsize=32)
def _file_digest(path: Path, *facts: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    # Python 3.10 has no hashlib.file_digest.
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
