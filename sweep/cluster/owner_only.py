"""A folder and a token that nobody else on this machine can read: Ray makes both open to all (sweep/cluster/connect.py)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fairface_core.errors import ConfigError

# A socket's path has at most 107 bytes, of which ours and Ray's folders take 93.
_MAX_TEMP_CHARS = 12
# /dev/shm is memory, of which a session takes a few MiB.
_TEMP_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
_TEMP_PREFIX = "fairface-ray-"
_MAKING_S = 60.0


def ensure_private_token(spare: Path) -> None:
    """Make the token that Ray would make, but readable by its owner alone, and whole from the first moment.

    Args:
        spare: Private folder for the token where there is no home that can be written.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    try:
        path = _token_path()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.is_file() or not path.stat().st_size:
            _write_token(path)
        if path.stat().st_uid == os.getuid():
            path.chmod(0o600)
    except (OSError, RuntimeError):
        _write_token(spare / "token")
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(spare / "token")


def _write_token(path: Path) -> None:
    handle, temp = tempfile.mkstemp(dir=path.parent, prefix=".auth_token-")  # mode 0600
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))
    # Of two drivers that do this at once the second one wins, before either has started Ray.
    Path(temp).replace(path)


def _token_path() -> Path:
    return Path.home() / ".ray" / "auth_token"


def token_hint() -> str:
    """Return the command that prints the token which the dashboard asks for; empty if it asks for none."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return ""
    if os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return f"cat {os.environ['RAY_AUTH_TOKEN_PATH']}"
    with contextlib.suppress(OSError, RuntimeError):
        if _token_path().is_file():
            return "ray get-auth-token"
    return "echo $RAY_AUTH_TOKEN"


def _temp_folder() -> Path:
    """Return TMPDIR or the first of the usual ones that sockets allow and that can be written."""
    named = [os.environ[name] for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)]
    refused = {}
    for place in dict.fromkeys((*named, *_TEMP_FOLDERS)):
        if len(os.fsencode(place)) > _MAX_TEMP_CHARS or not place.startswith("/"):
            refused[place] = f"no absolute path of at most {_MAX_TEMP_CHARS} characters, which sockets allow"
        elif not os.access(place, os.W_OK | os.X_OK):
            refused[place] = "cannot be written" if Path(place).is_dir() else "is no folder"
        else:
            _give_python_one(place)
            return Path(place)
    told = "; ".join(f"{place}: {reason}" for place, reason in refused.items())
    raise ConfigError(f"Ray needs a temporary folder: {told}; set TMPDIR to a short one that can be written")


def _give_python_one(place: str) -> None:
    """Name a temporary folder for Ray's processes and the trials, where Python finds none: its own list has no /dev/shm."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        os.environ["TMPDIR"] = place


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Hold a folder that only we can enter, and remove it at the end; also those of drivers that were killed.

    Raises:
        ConfigError: If no temporary folder can be used.
    """
    parent = _temp_folder()
    for stale in parent.glob(f"{_TEMP_PREFIX}*"):
        with contextlib.suppress(OSError), (stale / "alive").open() as file:
            # One that is being made is not locked yet.
            if time.time() - stale.stat().st_mtime < _MAKING_S:
                continue
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(stale, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_TEMP_PREFIX, dir=parent))
    with (folder / "alive").open("w") as file:
        # The kernel lets go of it when this process ends, however it ends. Where there are no locks, nobody gets one and
        # takes the folder for a stale one.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            # Ray makes its own folder writable by everyone; nobody gets past the one around it.
            yield folder / "r"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
