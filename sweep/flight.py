"""A leg in Ray's hands, and what the death of its worker means."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweep.ledger import ERROR_FILE
from sweep.trials import Leg
from sweep.worker import Ending

# Ray's own memory monitor. Its text on any other death guesses at "the OOM killer" too.
_MEMORY_WORDS = ("running low on memory", "NODE_OUT_OF_MEMORY")


@dataclass(eq=False)
class Flight:
    """A leg in Ray's hands.

    Attributes:
        leg: The leg.
        pulse_key: Where its worker leaves signs of life.
        beats: The last sign seen.
        alive_at: When something last moved, monotonic seconds.
        actor: Ray's handle of the worker, once it runs.
        ending: How the worker says that the leg ended.
        killed: Why we ended its worker, if we did.
    """

    leg: Leg
    pulse_key: bytes
    beats: bytes | None = None
    alive_at: float = field(default_factory=time.monotonic)
    actor: Any = None
    ending: Ending | None = None
    killed: Ending | None = None


def death(error_file: str | None) -> Ending:
    """Word the death of a worker from what Ray wrote about it; its pickled exception is left alone."""
    try:
        text = Path(error_file or "").read_text(encoding="utf-8", errors="replace")
    except (OSError, TypeError):
        text = ""
    if any(words in text for words in _MEMORY_WORDS):
        return Ending("oom", "the machine ran low on memory, Ray ended the worker", retry=True, traceback=text)
    if text and ("creation task" in text or "The actor" not in text):
        # It could not even begin, such as for want of a package on that machine.
        last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
        return Ending("error", last.strip(), traceback=text)
    what = "its machine is gone" if "node has died" in text else f"its process was killed or died; see {ERROR_FILE}"
    return Ending("crash", what, retry=True, traceback=text)
