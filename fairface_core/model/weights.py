"""Pretrained weights: where torch keeps them, and fetching them once. Imports torch only where it must."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path
from typing import Any

from fairface_core.backbones import TIMM, spec_of
from fairface_core.config.train_config import PACKAGE
from fairface_core.errors import WeightsError, one_line
from fairface_core.files.locks import locked_file
from fairface_core.timm_models import INSTALL, entry


def weights_file(backbone: str) -> tuple[Path, str]:
    """Return where torch keeps this backbone's ImageNet weights, and their address."""
    import torch
    import torchvision

    enum = torchvision.models.get_model_weights(backbone)
    url = enum[spec_of(backbone).weights_name].url
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2], url


def ensure_weights(backbone: str, weights: str) -> Path | None:
    """Make sure that a run can load its weights: fetch ImageNet's once, under a lock, and check their hash.

    Args:
        backbone: A key of `BACKBONES`, or `timm/NAME`.
        weights: `imagenet` (of timm's: the pretrained weights of that name, whatever they were trained on), `none`, or
            a file; see `named_file`.

    Returns:
        The file to load, or None for random weights.

    Raises:
        WeightsError: Naming the file, where to put it, and `--weights none`.
    """
    if weights == "none":
        return None
    if weights != "imagenet":
        return named_file(weights, "weights", "imagenet, none, or ")
    if backbone.startswith(TIMM):
        return _timm_file(backbone)
    path, url = weights_file(backbone)
    digest_prefix = path.stem.rpartition("-")[2]
    if not path.is_file():
        _download(backbone, path, url, digest_prefix)
    return path


def named_file(value: str, field: str, besides: str = "") -> Path:
    """Return the file that a field names: a path, or `package:NAME/inner/path` inside an installed Python package.

    Of a package nothing is imported.

    Raises:
        WeightsError: If there is no such file.
    """
    accepted = f"accepted: {besides}the path of a file, or package:NAME/FILE inside an installed package"
    path = Path(value).expanduser()
    if value.startswith(PACKAGE):
        name, _, inner = value.removeprefix(PACKAGE).partition("/")
        found = importlib.util.find_spec(name) if name.isidentifier() else None
        if found is None or not found.submodule_search_locations:
            raise WeightsError(f"{field} {value!r}: no package {name!r} is installed; {accepted}")
        path = Path(found.submodule_search_locations[0]) / inner
    if not path.is_file():
        raise WeightsError(f"{field} {value!r}: no such file; {accepted}")
    return path


def _timm_file(backbone: str) -> Path:
    """Return the pretrained weights of one of timm's names, from the hub's cache or the hub itself."""
    found = entry(backbone.removeprefix(TIMM))
    instead = "give --weights PATH of a .safetensors or .pth file, or train from random weights with --weights none"
    if found.hub_id is None:
        more = f" (timm names {found.url})" if found.url else ""
        raise WeightsError(f"weights of {backbone}: there are none on the hub{more}; {instead}")
    try:
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
        from huggingface_hub.utils import disable_progress_bars, logging
    except ImportError:
        raise WeightsError(
            f"weights of {backbone}: the package huggingface_hub is not installed; run: {INSTALL}"
        ) from None
    repository, _, revision = found.hub_id.partition("@")
    files = (found.hub_file,) if found.hub_file else ("model.safetensors", "pytorch_model.bin")
    for file in files:
        # Each trial asks: what is there already needs no network.
        if isinstance(there := try_to_load_from_cache(repository, file, revision=revision or None), str):
            return Path(there)
    disable_progress_bars()
    logging.set_verbosity_error()  # it tells of each attempt
    # The library's first base is what its HTTP client raises: another client's in another release.
    broken: type[Exception] = HfHubHTTPError.__bases__[0]
    cause: BaseException | None = None
    for file in files:
        try:
            return Path(hf_hub_download(repository, file, revision=revision or None))
        except (OSError, ValueError, broken) as error:
            cause = error
            if isinstance(error, LocalEntryNotFoundError) or not isinstance(error, EntryNotFoundError):
                break  # no network, or a refusal: the next name would fare no better
    while cause and cause.__cause__:
        cause = cause.__cause__
    raise WeightsError(
        f"weights of {backbone}: {files[0]} of {repository} is not in the hub's cache and cannot be downloaded "
        f"({one_line(str(cause))[:160]}); {instead}"
    )


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
