"""FairFace is published with two margins around the face: names of folders and archives say which one they hold."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from fairface_core.errors import Problems, shown

_NAMED = {"0.25": re.compile(r"margin[-_]?0?\.?25|^0\.25$"), "1.25": re.compile(r"margin[-_]?1\.?25|^1\.25$")}


def margin_of(name: str) -> str:
    """Return the margin that a file or folder name tells of: "0.25", "1.25", or "" where it says nothing."""
    found = [margin for margin, pattern in _NAMED.items() if pattern.search(name.casefold())]
    return found[0] if len(found) == 1 else ""


def choose_margin(
    holders: Iterable[tuple[str, Path]], wanted: str | None, root: Path, problems: Problems
) -> list[Path] | None:
    """Keep what holds the one margin that is meant.

    Args:
        holders: (margin or "", folder or archive).
        wanted: The margin that the user named, if any.
        root: The data folder; its own name may say the margin.
        problems: Gets one line if the choice is not clear.

    Returns:
        The holders to use, maybe none; None after a problem.
    """
    known = [(margin or margin_of(root.name), path) for margin, path in holders]
    margins = sorted({margin for margin, _ in known})
    if wanted is None and len(margins) > 1:
        there = ", ".join(f"{path.name or path} ({margin or 'margin not said'})" for margin, path in known)
        problems.add(
            "unclear margins",
            f"{shown(str(root), 300)}: holds images with more than one margin: {there}; "
            'choose one: --margin 0.25 or --margin 1.25 (in a space, data: {margin: "0.25"})',
        )
        return None
    if wanted is not None and known and wanted not in margins:
        there = ", ".join(f"{path.name or path} ({margin or 'its name says no margin'})" for margin, path in known)
        problems.add(
            "unclear margins",
            f"{shown(str(root), 300)}: --margin {wanted}: nothing there says that it has this margin; found: {there}; "
            "leave --margin out, or name the folder that has it as --root; where a checkpoint says the margin, rename "
            f"the folder so that it says it too, such as margin{wanted.replace('.', '')}",
        )
        return None
    return [path for margin, path in known if wanted in (None, margin)]
