"""Every random draw of a run follows from (seed, epoch, purpose), so a resumed run needs no saved generator."""

from __future__ import annotations

import hashlib


def derived_seed(seed: int, epoch: int, purpose: str) -> int:
    """Return a 63-bit seed that is unrelated for every other (seed, epoch, purpose)."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
