"""What Ray's own processes said last: its exception names only what it had waited for (Ray 2.60)."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

# [2026-11-26 15:07:35,854 C 15554 15554] (gcs_server) gcs_server.cc:951: Unsupported GCS storage type: bogus
_SEVERE = re.compile(r"\[[^\]]* [ECF] \d+ \d+\] (?:\(\w+\) )?[\w.]+:\d+: +(?P<words>.+)")
_PYTHON = re.compile(r"(?P<words>(?:[\w.]+(?:Error|Exception)|OSError)\b.*)")
# Its Python processes then take the next port.
_HANDLED = "ddress already in use"
# Without them there is no Ray; the others look at it.
_SERVERS = ("gcs_server", "raylet")
_MAX_BYTES = 2**20
_MAX_LINES = 3
_MAX_CHARS = 300


def last_words(session_dir: Path) -> list[str]:
    """Return the last lines that say why a Ray of our own did not start: `gcs_server: Unsupported storage type`.

    Args:
        session_dir: Its `_temp_dir`, as long as that is there.
    """
    found: dict[str, None] = {}
    logs = session_dir.glob("session_latest/logs/*")
    for path in sorted(logs, key=lambda log: (not log.name.startswith(_SERVERS), log.name)):
        if path.suffix not in (".err", ".out", ".log"):
            continue
        with contextlib.suppress(OSError):
            text = path.read_bytes()[-_MAX_BYTES:].decode(errors="replace")
            said = [match["words"].strip() for line in text.splitlines() if (match := _match(line))]
            if said:
                found.setdefault(f"{path.stem}: {said[-1][:_MAX_CHARS]}")
    return list(found)[:_MAX_LINES]


def _match(line: str) -> re.Match[str] | None:
    return _SEVERE.match(line) or (None if _HANDLED in line else _PYTHON.match(line))
