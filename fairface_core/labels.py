"""The 9 age groups and 2 genders. `dataset/spelling.py` reads what people write for them."""

from __future__ import annotations

AGE_GROUPS: tuple[str, ...] = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
GENDERS: tuple[str, ...] = ("Male", "Female")
