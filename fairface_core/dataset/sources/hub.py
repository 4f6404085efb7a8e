"""Downloads FairFace from the Hugging Face hub: one margin, as Parquet, each file compared with the hub's own hash.

The library moves a file into its place when it is whole; which files are wanted, whether one that lies there is the
right one, and whether what came is what was promised is decided here.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairface_core.dataset.sources.class_names import CARD
from fairface_core.dataset.sources.margins import margin_of
from fairface_core.errors import DataError, StorageError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

_BLOCK_BYTES = 2**20


def get_from_hub(out: Path, *, repository: str, margin: str, revision: str = "main") -> dict[str, Any]:
    """Download the Parquet files of one margin, and the data card that names their classes.

    Files that are there already and have the right hash are kept, so a download that was stopped goes on with the file
    that it was stopped in; where only the connection broke, the library goes on within the file. The endpoint is the library's (`HF_ENDPOINT`), and so are its tokens and proxies.

    Args:
        out: Folder to put them in, as the repository has them.
        repository: Data set on the hub, `OWNER/NAME`.
        margin: "0.25" or "1.25".
        revision: Branch, tag or commit.

    Returns:
        `commit`, `files` (names in `out`) and `bytes`.

    Raises:
        DataError: If the library is not installed, the repository has no such files, another file lies in the place of
            one, or what came is not what the hub promised.
        StorageError: If the hub cannot be reached, or a file cannot be written.
    """
    try:
        from huggingface_hub import HfApi, hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
        from huggingface_hub.utils import disable_progress_bars, logging
    except ImportError:
        raise DataError(
            'data get --from hub needs the package huggingface_hub: pip install "fairface-sweep[hub]"'
        ) from None
    logging.set_verbosity_error()  # it tells of each attempt, with a traceback
    if not sys.stderr.isatty():
        disable_progress_bars()
    # The library's first base is what its HTTP client raises: another client's in another release.
    broken: type[Exception] = HfHubHTTPError.__bases__[0]
    try:
        info = HfApi().dataset_info(repository, revision=revision, files_metadata=True)
        wanted = _wanted(info.siblings or [], margin)
        if not wanted:
            raise DataError(f"{repository} at {revision} has no Parquet files of margin {margin}; see the repository")
        present = _present(out, wanted)
        for name, file in wanted.items():
            if name in present:
                continue
            hf_hub_download(repository, name, repo_type="dataset", revision=info.sha, local_dir=out)
            if problem := _unlike(out / name, file):
                (out / name).unlink()
                raise DataError(f"{out / name}: {problem}; it was deleted, get it again")
    except HFValidationError as error:
        raise DataError(f"{repository}: {_first_line(error)}") from error
    except HfHubHTTPError as error:
        raise StorageError(f"{repository} at {revision}: the hub refuses it ({_first_line(error)})") from error
    except (OSError, broken) as error:  # no network and no disk are both children of it
        raise StorageError(
            f"{repository}: cannot be fetched into {out} ({_first_line(error)}); the same command goes on"
        ) from error
    return {"commit": info.sha, "files": sorted(wanted), "bytes": sum(file.size or 0 for file in wanted.values())}


def _wanted(siblings: list[RepoSibling], margin: str) -> dict[str, RepoSibling]:
    """Return name -> file: the margin's Parquet files, and the data card."""
    parquet = {
        file.rfilename: file
        for file in siblings
        if file.rfilename.endswith(".parquet")
        and margin in map(margin_of, file.rfilename.split("/")[:-1])
        and ".." not in file.rfilename.split("/")
    }
    card = {file.rfilename: file for file in siblings if file.rfilename == CARD}
    return parquet | card if parquet else {}


def _present(out: Path, wanted: dict[str, RepoSibling]) -> set[str]:
    """Return the files that are there; one that is another is told of before anything is fetched."""
    there = {name for name in wanted if (out / name).exists()}
    problems = [
        f"{out / name}: {problem}; nothing is overwritten: move it away, or name another --out"
        for name in sorted(there)
        if (problem := _unlike(out / name, wanted[name]))
    ]
    if problems:
        raise DataError(problems)
    return there


def _unlike(path: Path, file: RepoSibling) -> str:
    """Say in what a file differs from the hub's; "" if in nothing."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"has {size:,} bytes, the hub's has {file.size:,}"
    # Large files are known by their sha256, small ones by git's hash.
    expected, digest = (
        (file.lfs.sha256, hashlib.sha256())
        if file.lfs is not None
        else (file.blob_id, hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False))
    )
    with path.open("rb") as opened:
        while block := opened.read(_BLOCK_BYTES):
            digest.update(block)
    return "" if digest.hexdigest() == expected else "has another hash than the hub's"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
