"""Images beside the label CSVs that are not in the usual folders: zip archives as downloaded, or folders named like them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from fairface_core.dataset.image_finder import SEARCHED, ImageFinder, Location
from fairface_core.dataset.sources.margins import choose_margin, margin_of
from fairface_core.errors import Problems
from fairface_core.files.regular import open_regular
from fairface_core.images.places import in_zip

# Rows that tell whether the usual folders hold the images at all.
_TRIED = 200
_NOT_IMAGES = "__MACOSX/"


def finder_for(
    root: Path, image_roots: Sequence[Path], margin: str | None, texts: Sequence[Sequence[str]], problems: Problems
) -> ImageFinder | None:
    """Return what finds the images of label CSVs.

    The usual folders come first, as they always did. Where they hold none of the images, or a margin is named, archives
    and folders beside the CSVs do. Never both: half of an archive may have been unpacked, or one of another margin.

    Args:
        root: The data folder.
        image_roots: Further folders that the user named.
        margin: The margin that the user named, if any.
        texts: Image names of each CSV.
        problems: Gets a line where the choice is not clear, or an archive cannot be read.

    Returns:
        A finder; None after a problem.
    """
    usual = ImageFinder(root, image_roots)
    if image_roots or not any(texts):
        return usual
    in_folders = any(usual.find(text).path for column in texts for text in column[:_TRIED])
    if in_folders and margin is None:
        return usual
    holders = [(margin_of(path.name), path) for path in sorted(root.iterdir()) if _may_hold_images(path)]
    if in_folders:
        holders.append(("", root))
    chosen = choose_margin(holders, margin, root, problems)
    if not chosen:
        return None if chosen is None else usual
    folders = [path for path in chosen if path.is_dir()]
    if folders:
        return ImageFinder(root, folders) if folders != [root] else usual
    return ArchiveFinder(root, chosen, problems)


def _may_hold_images(path: Path) -> bool:
    return path.suffix.lower() == ".zip" or (bool(margin_of(path.name)) and path.is_dir())


class ArchiveFinder(ImageFinder):
    """Looks names up in zip archives, below the folders that an archive may begin with.

    Args:
        root: The data folder, in which the archives lie.
        archives: Zip files.
        problems: Gets a line for each archive that cannot be read.
    """

    def __init__(self, root: Path, archives: Iterable[Path], problems: Problems) -> None:
        super().__init__(root)
        self._archives = list(archives)
        self._members: dict[str, str] = {}
        for archive in self._archives:
            try:
                with open_regular(archive) as file, zipfile.ZipFile(file) as opened:
                    names = [info.filename for info in opened.infolist() if not info.is_dir()]
            except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                problems.add("unreadable archives", f"{archive}: is no whole zip archive ({reason}); download it again")
                continue
            names = [name for name in names if not name.startswith(_NOT_IMAGES)]
            top = _top_folder(names)
            for name in names:
                self._members.setdefault(name.removeprefix(top), in_zip(str(archive), name))

    def _search(self, name: str, spelling: str, listed: bool) -> Location | None:
        for sub in SEARCHED:
            place = self._members.get(sub + spelling)
            if place is not None:
                return Location(name, place, place, None)
        return None

    def _where_missing(self, name: str) -> str:
        archives = " or ".join(archive.name for archive in self._archives)
        return f"is neither in {archives} nor in the searched folders"


def _top_folder(names: list[str]) -> str:
    """Return the one folder that holds everything, with its slash; nothing where that is a split."""
    tops = {name.partition("/")[0] + "/" if "/" in name else "" for name in names}
    top = tops.pop() if len(tops) == 1 else ""
    return "" if top in SEARCHED else top
