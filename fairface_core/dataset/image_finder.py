"""Finds the images that a CSV names, and refuses every name that leads out of the folders the user gave.

Links that lie in those folders are followed wherever they lead: whoever owns the folders made them. A CSV's own text
leads nowhere: absolute paths to other folders are refused, and so is `..` out of them, also by way of a link.
Each folder is listed once: 97,698 images cost a few listings instead of as many `stat` calls. Nothing here opens a file.

Paths are plain strings here: `pathlib` would take ten times as long for each row.
"""

# ruff: noqa: PTH113, PTH114, PTH115, PTH120

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

# Below each base folder, in the order of the original script.
SEARCHED = ("", "train/", "val/", "images/")
_MAX_LINKS = 40  # what Linux allows in one lookup
# How far a folder is looked for that would have the images.
_HINT_DEPTH, _HINT_FOLDERS = 3, 200
# Names that need no normalization: no ".", "..", "~", scheme, backslash or doubled slash can hide in them.
_PLAIN = re.compile(r"[A-Za-z0-9_][\w. -]*(?:/[A-Za-z0-9_][\w. -]*)*", re.ASCII)
_NO_LEAF = frozenset({"", ".", ".."})
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|(?:data|file):", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:")


class Refusal(NamedTuple):
    """Why a name was not accepted.

    Attributes:
        kind: Plural noun to count it under; "missing images" and "unreadable images" follow `on_bad_image`, any other
            kind is always an error.
        text: The reason, to stand after the name.
        cause: What rows that are refused alike have in common; "" where it is the text.
    """

    kind: str
    text: str
    cause: str = ""


class Location(NamedTuple):
    """Where a name leads.

    Attributes:
        name: The name in normal form, relative to its base folder: what enters the digest of the data.
        place: The path before links are followed: two rows with one place name the same file twice.
        path: Place of the image (`fairface_core.images.places`): for a file its absolute path with all links resolved;
            "" where there is a refusal.
        refusal: None where the image was found.
    """

    name: str
    place: str
    path: str
    refusal: Refusal | None


@dataclass(frozen=True)
class _Folder:
    """A folder without links in its path, listed once.

    Attributes:
        prefix: Its path with a slash at the end.
        kinds: Name -> "file", "link", or what else it is; empty where the folder may be entered but not listed.
    """

    prefix: str
    kinds: dict[str, str]


class ImageFinder:
    """Looks names up in the user's folders.

    Args:
        root: The data folder; `root/`, `root/train/`, `root/val/` and `root/images/` are searched in this order.
        image_roots: Further folders, searched in the same way after it.
    """

    def __init__(self, root: Path, image_roots: Sequence[Path] = ()) -> None:
        given = [str(folder.absolute()) for folder in (root, *image_roots)]
        real = list(dict.fromkeys(os.path.realpath(folder) for folder in given))
        self._bases = tuple(_slashed(folder) for folder in real)
        # An absolute name in a CSV may be spelled with the links that the user typed.
        self._typed = tuple(dict.fromkeys(_slashed(folder) for folder in (*given, *real)))
        self._searched = [base + sub for base in self._bases for sub in SEARCHED]
        self._listed: dict[str, _Folder | None] = {}
        self._candidates: dict[str, list[tuple[str, _Folder]]] = {}
        self._link_heads: dict[str, _Folder | None] = {}
        self._missing: Refusal | None = None

    def find(self, text: str) -> Location:
        """Find one image.

        Args:
            text: The cell of the image column.
        """
        plain = _PLAIN.fullmatch(text) is not None
        if plain and (found := self._search(text, text, True)) is not None:  # all of FairFace ends here
            return found
        name = text if plain else self._normal(text)
        if isinstance(name, Refusal):
            return Location(text, text, "", name)
        # Below a link `..` is another folder than it reads.
        strict = not plain and ".." in re.split(r"[/\\]", text)
        for spelling in (name,) if name.isascii() else _unicode_forms(name):
            for listed in (True, False):
                if (found := self._search(name, spelling, listed)) is not None:
                    return self._inside(found) if strict else found
        if self._missing is None:
            self._missing = Refusal("missing images", self._where_missing(name))
        return Location(name, name, "", self._missing)

    def holds(self, real: str) -> bool:
        """Whether a path without links is, or lies in, one of the user's folders."""
        return _slashed(real).startswith(self._bases)

    def _search(self, name: str, spelling: str, listed: bool) -> Location | None:
        """Try one spelling in every searched folder.

        Args:
            name: The name in normal form.
            spelling: The same name in one Unicode form.
            listed: Whether to believe the listings. If not, the file system is asked for the very name: some find
                names in other capitals, and some folders may be entered but not listed.
        """
        head, _, leaf = spelling.rpartition("/")
        candidates = self._candidates.get(head)
        if candidates is None:
            candidates = self._candidates[head] = self._candidates_for(head)
        for prefix, folder in candidates:
            kind = folder.kinds.get(leaf) if listed else _kind_of(folder.prefix + leaf)
            if kind == "file":
                return Location(name, prefix + leaf, folder.prefix + leaf, None)
            if kind is not None:
                path, refusal = self._follow(folder.prefix + leaf, kind)
                return Location(name, prefix + leaf, path, refusal)
        return None

    def _candidates_for(self, head: str) -> list[tuple[str, _Folder]]:
        """Return the folders that may hold names of the form `head/...`, with their paths before links."""
        places = [_slashed(base + head) for base in self._searched]
        found = [(place, self._open(os.path.realpath(place))) for place in places]
        return [(place, folder) for place, folder in found if folder is not None]

    def _open(self, real: str) -> _Folder | None:
        """Return the listing of a folder without links in its path; None where there is no such folder."""
        if real not in self._listed:
            prefix = _slashed(real)
            try:
                with os.scandir(real) as entries:
                    self._listed[real] = _Folder(prefix, {entry.name: _entry_kind(entry) for entry in entries})
            except (FileNotFoundError, NotADirectoryError):
                self._listed[real] = None
            except OSError:
                self._listed[real] = _Folder(prefix, {})
        return self._listed[real]

    def _follow(self, first: str, kind: str) -> tuple[str, Refusal | None]:
        """Follow a link, or a chain of them, to a regular file.

        Args:
            first: Path whose folder holds no links.
            kind: What is there; not "file".

        Returns:
            The file's path and None, or "" and why there is none.
        """
        path = first
        for _ in range(_MAX_LINKS):
            if kind == "file":
                return path, None
            if kind != "link":
                return "", Refusal("unreadable images", f"is {kind}, not a regular file")
            try:
                target = os.readlink(path)
            except OSError as error:
                return "", Refusal("unreadable images", f"is a link that cannot be read ({error.strerror})")
            if target[:1] != "/":
                target = path[: path.rindex("/") + 1] + target
            head, _, leaf = target.rpartition("/")
            if head in self._link_heads:
                folder = self._link_heads[head]
            else:
                folder = self._link_heads[head] = self._open(os.path.realpath(head + "/"))
            if leaf in _NO_LEAF:
                return "", Refusal("unreadable images", "is a link to a folder, not a regular file")
            path = "" if folder is None else folder.prefix + leaf
            found = None if folder is None else folder.kinds.get(leaf) or _kind_of(path)
            if found is None:
                return "", Refusal(
                    "missing images", f"is a link to {target}, which does not exist", "a link to nothing"
                )
            kind = found
        return "", Refusal("unreadable images", "is a link that leads round in a circle")

    def _normal(self, text: str) -> str | Refusal:
        """Return the name relative to a base folder, with `/`, without `.` and `..`; or why it is refused."""
        name = text.strip().replace("\\", "/")
        if not name:
            return Refusal(
                "rows without an image", "is empty; each row needs the path of its image, relative to the root"
            )
        if "\0" in name:
            return Refusal("refused paths", "holds a NUL character")
        if name.startswith("~"):
            return Refusal("refused paths", "starts with ~, which is not expanded; write the path relative to the root")
        if _SCHEME.match(name):
            return Refusal("refused paths", "is a URL; only files below the root are read")
        absolute = name.startswith("/") or _DRIVE.match(name) is not None
        name = os.path.normpath(name)
        if name == ".":
            return Refusal("rows without an image", "is a folder; each row needs the path of its image")
        if absolute:
            for base in self._typed:
                if name.startswith(base):
                    return name[len(base) :]
            return Refusal("refused paths", f"is outside {self._allowed()}")
        if name == ".." or name.startswith("../"):
            return Refusal("refused paths", f"leads out of {self._allowed()}")
        return name

    def _allowed(self) -> str:
        return f"{' and '.join(base.rstrip('/') or '/' for base in self._bases)}; --image_root DIR adds a folder"

    def _inside(self, found: Location) -> Location:
        """Refuse what a text with `..` reached through a link that leaves the user's folders."""
        if not found.path or self.holds(os.path.dirname(found.path)):
            return found
        refusal = Refusal(
            "refused paths",
            f"leads by .. and a link into {os.path.dirname(found.path)}, outside {self._allowed()}",
            "a link through ..",
        )
        return found._replace(path="", refusal=refusal)

    def _where_missing(self, name: str) -> str:
        """Say where images were looked for, and what may be the matter, told by the first that is missing."""
        text = f"is in none of the searched folders ({', '.join(self._searched[: len(SEARCHED)])})"
        for folder in filter(None, {*SEARCHED, f"{name.rpartition('/')[0]}/"} - {"/"}):
            link = f"{self._bases[0]}{folder}".rstrip("/")
            if os.path.islink(link) and not os.path.lexists(os.path.realpath(link)):
                return (
                    f"{text}; {link} is a link to {os.readlink(link)}, which is not there (a disk that is not mounted?)"
                )
        for folder in _folders_below(self._bases[0]):
            if any(os.path.isfile(f"{folder}/{sub}{name}") for sub in SEARCHED):
                return f"{text}; {folder} has it: --image_root {folder}"
        return text


def _folders_below(base: str) -> Iterator[str]:
    """Yield folders up to three below, breadth first; not without end."""
    level = [base.rstrip("/")]
    for _ in range(_HINT_DEPTH):
        below = []
        for folder in level[:_HINT_FOLDERS]:
            try:
                with os.scandir(folder) as entries:
                    below += sorted(entry.path for entry in entries if entry.is_dir())
            except OSError:
                continue
        yield from below[:_HINT_FOLDERS]
        level = below


def _slashed(folder: str) -> str:
    return folder if folder.endswith("/") else f"{folder}/"


def _unicode_forms(name: str) -> tuple[str, ...]:
    """Return a name with accents in its forms: macOS and Linux store different ones."""
    return tuple(dict.fromkeys((name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))))


def _entry_kind(entry: os.DirEntry[str]) -> str:
    if entry.is_file(follow_symlinks=False):
        return "file"
    if entry.is_symlink():
        return "link"
    if entry.is_dir(follow_symlinks=False):
        return "a folder"
    return "a FIFO, a socket or a device"


def _kind_of(path: str) -> str | None:
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):
        return None
    if stat.S_ISLNK(mode):
        return "link"
    if stat.S_ISREG(mode):
        return "file"
    return "a folder" if stat.S_ISDIR(mode) else "a FIFO, a socket or a device"
