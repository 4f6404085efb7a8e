"""Names of images in a CSV: found below the user's folders, or refused; and no other file is ever opened."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairface_core.dataset.image_finder import ImageFinder
from fairface_core.dataset.manifest import load_manifest
from fairface_core.errors import DataError
from tests.fairface_core.small_data import DataRoot

# {root} is the data folder, {out} the folder around it, which holds secret.jpg, and {more} a folder named with
# --image_root, which holds more.jpg.
ODD = "val/großes Bild #1 (é).jpg"
FOUND: dict[str, tuple[str, str, str]] = {
    # text, path below {root} or {more}, name in the digest
    "plain": ("val/1.jpg", "{root}/val/1.jpg", "val/1.jpg"),
    "bare": ("9.jpg", "{root}/train/9.jpg", "9.jpg"),
    "bare_of_val": ("80.jpg", "{root}/val/80.jpg", "80.jpg"),
    "spaces_around": ("  val/1.jpg\t", "{root}/val/1.jpg", "val/1.jpg"),
    "spaces_and_unicode_inside": (ODD, f"{{root}}/{ODD}", ODD),
    "dot": ("./val/./1.jpg", "{root}/val/1.jpg", "val/1.jpg"),
    "doubled_slash": ("val//1.jpg", "{root}/val/1.jpg", "val/1.jpg"),
    "backslash": ("val\\1.jpg", "{root}/val/1.jpg", "val/1.jpg"),
    "dot_dot_that_stays": ("val/../train/1.jpg", "{root}/train/1.jpg", "train/1.jpg"),
    "absolute_below_the_root": ("{root}/val/1.jpg", "{root}/val/1.jpg", "val/1.jpg"),
    "absolute_below_an_image_root": ("{more}/more.jpg", "{more}/more.jpg", "more.jpg"),
    "bare_in_an_image_root": ("more.jpg", "{more}/more.jpg", "more.jpg"),
    "link_within_the_root": ("val/link.jpg", "{root}/train/3.jpg", "val/link.jpg"),
    "absolute_link_within_the_root": ("val/absolute_link.jpg", "{root}/train/3.jpg", "val/absolute_link.jpg"),
    "link_to_a_link": ("val/link_to_link.jpg", "{root}/train/3.jpg", "val/link_to_link.jpg"),
    "link_into_an_image_root": ("val/to_more.jpg", "{more}/more.jpg", "val/to_more.jpg"),
    "linked_folder_within_the_root": ("also/1.jpg", "{root}/train/1.jpg", "also/1.jpg"),
    "link_out": ("val/out.jpg", "{out}/secret.jpg", "val/out.jpg"),
    "relative_link_out": ("val/relative_out.jpg", "{out}/secret.jpg", "val/relative_out.jpg"),
    "link_to_a_link_out": ("val/to_out.jpg", "{out}/secret.jpg", "val/to_out.jpg"),
    "linked_folder_out": ("away/secret.jpg", "{out}/secret.jpg", "away/secret.jpg"),
    "through_a_linked_folder_out": ("away/root/val/1.jpg", "{root}/val/1.jpg", "away/root/val/1.jpg"),
    "link_that_dots_reach_within_the_root": ("train/../val/link.jpg", "{root}/train/3.jpg", "val/link.jpg"),
    "hidden": (".hidden.jpg", "{root}/.hidden.jpg", ".hidden.jpg"),
    "colon": ("val/IMG:1.jpg", "{root}/val/IMG:1.jpg", "val/IMG:1.jpg"),
    "colon_like_a_scheme": ("IMG:1.jpg", "{root}/val/IMG:1.jpg", "IMG:1.jpg"),
    "leading_dash": ("-rf.jpg", "{root}/-rf.jpg", "-rf.jpg"),
}  # fmt: skip

NOWHERE = "is in none of the searched folders ({root}/, {root}/train/, {root}/val/, {root}/images/)"
BY_DOTS = "leads by .. and a link into {out}, outside {root} and {more}; --image_root DIR adds a folder"
URL = "is a URL; only files below the root are read"
HOME = "starts with ~, which is not expanded; write the path relative to the root"
LEADS_OUT = "leads out of {root} and {more}; --image_root DIR adds a folder"
OUTSIDE = "is outside {root} and {more}; --image_root DIR adds a folder"

REFUSED: dict[str, tuple[str, str, str]] = {
    # text, kind, reason
    "empty": ("", "rows without an image", "is empty; each row needs the path of its image, relative to the root"),
    "only_spaces": (
        "  ",
        "rows without an image",
        "is empty; each row needs the path of its image, relative to the root",
    ),
    "the_root_itself": (".", "rows without an image", "is a folder; each row needs the path of its image"),
    "back_to_the_root": ("val/..", "rows without an image", "is a folder; each row needs the path of its image"),
    "dot_dot": ("../secret.jpg", "refused paths", LEADS_OUT),
    "dot_dot_inside": ("val/../../secret.jpg", "refused paths", LEADS_OUT),
    "dot_dot_many": ("../" * 40 + "etc/passwd", "refused paths", LEADS_OUT),
    "dot_dot_with_backslashes": ("..\\..\\secret.jpg", "refused paths", LEADS_OUT),
    "absolute": ("/etc/passwd", "refused paths", OUTSIDE),
    "absolute_back_out": ("{root}/../secret.jpg", "refused paths", OUTSIDE),
    "absolute_beside": ("{root}-twin/1.jpg", "refused paths", OUTSIDE),
    "windows_drive": ("C:\\Users\\me\\1.jpg", "refused paths", OUTSIDE),
    "windows_share": ("\\\\server\\share\\1.jpg", "refused paths", OUTSIDE),
    "home": ("~/1.jpg", "refused paths", HOME),
    "home_of_another": ("~root/1.jpg", "refused paths", HOME),
    "nul": ("val/1.jpg\0.png", "refused paths", "holds a NUL character"),
    "file_url": ("file:///etc/passwd", "refused paths", URL),
    "file_url_of_an_image": ("file://{root}/val/1.jpg", "refused paths", URL),
    "file_url_in_capitals": ("FILE:etc/passwd", "refused paths", URL),
    "web_url": ("https://example.com/1.jpg", "refused paths", URL),
    "data_url": ("data:image/png;base64,AAAA", "refused paths", URL),
    "link_out_by_dots": ("val/../val/out.jpg", "refused paths", BY_DOTS),
    "linked_folder_out_by_dots": ("away/root/../secret.jpg", "refused paths", BY_DOTS),
    "backslashes_out_by_dots": ("away\\root\\..\\secret.jpg", "refused paths", BY_DOTS),
    "missing": ("val/absent.jpg", "missing images", NOWHERE),
    "missing_folder": ("absent/1.jpg", "missing images", NOWHERE),
    "below_a_file": ("val/1.jpg/2.jpg", "missing images", NOWHERE),
    "too_long_a_name": ("val/" + "x" * 5000, "missing images", NOWHERE),
    "dead_link": ("val/dead.jpg", "missing images", "is a link to {root}/val/nothing.jpg, which does not exist"),
    "link_to_nowhere": ("val/nowhere.jpg", "missing images", "is a link to {root}/no/such/1.jpg, which does not exist"),
    "a_folder": ("val", "unreadable images", "is a folder, not a regular file"),
    "a_folder_named_jpg": ("val/folder.jpg/", "unreadable images", "is a folder, not a regular file"),
    "a_link_to_a_folder": ("also", "unreadable images", "is a folder, not a regular file"),
    "link_to_a_device": ("val/zero.jpg", "unreadable images", "is a FIFO, a socket or a device, not a regular file"),
    "a_link_to_this_folder": ("val/here.jpg", "unreadable images", "is a link to a folder, not a regular file"),
    "fifo": ("val/fifo.jpg", "unreadable images", "is a FIFO, a socket or a device, not a regular file"),
    "link_to_itself": ("val/self.jpg", "unreadable images", "is a link that leads round in a circle"),
    "links_in_a_circle": ("val/ring_a.jpg", "unreadable images", "is a link that leads round in a circle"),
    "folders_in_a_circle": ("round/1.jpg", "missing images", NOWHERE),
}


@pytest.fixture
def places(data_root: DataRoot, tmp_path: Path) -> dict[str, str]:
    """The data folder with every odd file in it."""
    root, out, more = data_root.path.resolve(), data_root.path.parent.resolve(), tmp_path.resolve() / "more"
    more.mkdir()
    image = (root / "val/1.jpg").read_bytes()
    for path in (
        out / "secret.jpg",
        more / "more.jpg",
        root / ".hidden.jpg",
        root / "-rf.jpg",
        root / "val/IMG:1.jpg",
        root / "val/großes Bild #1 (é).jpg",
    ):
        path.write_bytes(image)
    (root / "val/folder.jpg").mkdir()
    os.mkfifo(root / "val/fifo.jpg")
    for name, target in {
        "val/link.jpg": "../train/3.jpg", "val/absolute_link.jpg": f"{root}/train/3.jpg",
        "val/link_to_link.jpg": "link.jpg", "val/to_more.jpg": f"{more}/more.jpg", "also": "train",
        "val/out.jpg": f"{out}/secret.jpg", "val/relative_out.jpg": "../../secret.jpg", "val/to_out.jpg": "out.jpg",
        "away": "..", "val/zero.jpg": "/dev/zero", "val/dead.jpg": "nothing.jpg", "val/here.jpg": ".",
        "val/nowhere.jpg": f"{root}/no/such/1.jpg", "val/self.jpg": "self.jpg",
        "val/ring_a.jpg": "ring_b.jpg", "val/ring_b.jpg": "ring_a.jpg", "round": "round",
    }.items():  # fmt: skip
        (root / name).symlink_to(target)
    return {"root": str(root), "out": str(out), "more": str(more)}


def put(text: str, places: dict[str, str]) -> str:
    for name, path in places.items():
        text = text.replace("{" + name + "}", path)
    return text


def finder(places: dict[str, str]) -> ImageFinder:
    return ImageFinder(Path(places["root"]), [Path(places["more"])])


@pytest.mark.parametrize("case", FOUND)
def test_found(places: dict[str, str], case: str) -> None:
    text, path, name = (put(part, places) for part in FOUND[case])
    location = finder(places).find(text)
    assert location.refusal is None
    assert (location.path, location.name) == (path, name)


@pytest.mark.parametrize("case", REFUSED)
def test_refused(places: dict[str, str], case: str) -> None:
    text, kind, reason = (put(part, places) for part in REFUSED[case])
    location = finder(places).find(text)
    assert location.refusal is not None
    assert location.refusal[:2] == (kind, reason)
    assert location.path == ""


@pytest.mark.parametrize("case", [case for case in REFUSED if REFUSED[case][1] == "refused paths" and case != "nul"])
def test_no_policy_lets_a_refused_path_pass(data_root: DataRoot, places: dict[str, str], case: str) -> None:
    text, _, reason = (put(part, places) for part in REFUSED[case])
    cell = '"' + text + '"'
    data_root.edit_val(lambda lines: [*lines, f"{cell},20-29,Male,White,True"])
    for policy in ("error", "skip"):
        with pytest.raises(DataError) as caught:
            load_manifest(data_root.config(on_bad_image=policy, image_root=(places["more"],)))
        (problem,) = caught.value.problems
        assert problem.startswith("fairface_label_val.csv line 92: file ")
        assert problem.endswith(reason)


@pytest.mark.parametrize(
    "case", [case for case in REFUSED if REFUSED[case][1] in ("missing images", "unreadable images")]
)
def test_what_is_no_image_follows_the_policy(data_root: DataRoot, places: dict[str, str], case: str) -> None:
    text = put(REFUSED[case][0], places)
    data_root.edit_val(lambda lines: [*lines, f"{text},20-29,Male,White,True"])
    with pytest.raises(DataError, match="line 92: file"):
        load_manifest(data_root.config())
    manifest = load_manifest(data_root.config(on_bad_image="skip"))
    assert manifest.counts["missing_images_skipped"] == 1
    assert (
        manifest.counts["rows"] == {"train": 36, "val": 72, "test": 18} or len(manifest.val) + len(manifest.test) == 90
    )


def test_unicode_forms_of_one_name_are_one_name(data_root: DataRoot) -> None:
    """macOS stores é as two characters, Linux as typed."""
    composed, decomposed = (unicodedata.normalize(form, "val/é.jpg") for form in ("NFC", "NFD"))
    for stored, written in ((composed, decomposed), (decomposed, composed)):
        (data_root.path / "val/1.jpg").rename(data_root.path / stored)
        location = ImageFinder(data_root.path).find(written)
        assert location.path == str(data_root.path.resolve() / stored)
        (data_root.path / stored).rename(data_root.path / "val/1.jpg")


def test_a_linked_root_is_the_users_own_word(data_root: DataRoot, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(data_root.path)
    clean = load_manifest(data_root.config())
    aliased = load_manifest(data_root.config(root=str(tmp_path / "alias")))
    assert aliased.digest == clean.digest
    assert aliased.test.path.tolist() == clean.test.path.tolist()
    data_root.edit_val(lambda lines: [line.replace("val/", f"{tmp_path}/alias/val/") for line in lines])
    assert load_manifest(data_root.config(root=str(tmp_path / "alias"))).digest == clean.digest


def test_a_linked_folder_is_followed(data_root: DataRoot, tmp_path: Path) -> None:
    clean = load_manifest(data_root.config())
    (data_root.path / "val").rename(tmp_path / "disk")
    (data_root.path / "val").symlink_to(tmp_path / "disk")
    linked = load_manifest(data_root.config())
    assert linked.digest == clean.digest
    assert linked.test.path.tolist() == [
        path.replace(f"{data_root.path.resolve()}/val", str((tmp_path / "disk").resolve())) for path in clean.test.path
    ]


def test_a_link_to_a_disk_that_is_not_there_is_told_once(data_root: DataRoot) -> None:
    shutil.rmtree(data_root.path / "val")
    (data_root.path / "val").symlink_to("/no/such/disk")
    root = data_root.path.resolve()
    with pytest.raises(DataError) as caught:
        load_manifest(data_root.config())
    assert list(caught.value.problems) == [
        f"fairface_label_val.csv line 2: file 'val/1.jpg' {put(NOWHERE, {'root': str(root)})}; {root}/val is a link to "
        "/no/such/disk, which is not there (a disk that is not mounted?); add the file, correct the row, or use "
        "--on_bad_image skip (the same for 89 more rows: line 3, line 4, line 5, line 6, line 7, ...)"
    ]


def test_a_folder_that_has_the_images_is_named(data_root: DataRoot) -> None:
    root = data_root.path.resolve()
    (root / "faces/padded").mkdir(parents=True)
    for split in ("train", "val"):
        (root / split).rename(root / f"faces/padded/{split}")
    with pytest.raises(DataError) as caught:
        load_manifest(data_root.config())
    assert len(caught.value.problems) == 2
    assert f"; {root}/faces/padded has it: --image_root {root}/faces/padded; add the file" in caught.value.problems[0]
    assert load_manifest(data_root.config(image_root=(f"{root}/faces/padded",))).counts["rows"]["test"] == 18


def test_a_name_that_one_listing_knows_is_asked_of_no_other(data_root: DataRoot) -> None:
    """97,698 names cost one listing a folder, and no system call each."""
    finder = ImageFinder(data_root.path)
    listed: list[str] = []
    real_scandir = os.scandir

    def counting(path: str) -> os._ScandirIterator[str]:
        listed.append(path)
        return real_scandir(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", counting)
        for number in range(1, 91):
            assert finder.find(f"val/{number}.jpg").refusal is None
    # One attempt for each place where val/ might lie: root/, root/train/, root/val/, root/images/.
    assert len(listed) == 4
    assert listed[0] == str(data_root.path.resolve() / "val")


def test_a_folder_that_may_be_entered_but_not_listed(data_root: DataRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    real_scandir: Callable[..., object] = os.scandir

    def refusing(path: str) -> object:
        if path.endswith("/val"):
            raise PermissionError(13, "Permission denied", path)
        return real_scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    finder = ImageFinder(data_root.path)
    assert finder.find("val/1.jpg").path == str(data_root.path.resolve() / "val/1.jpg")
    assert finder.find("val/absent.jpg").refusal is not None


PIECES = (
    "..", ".", "", "val", "train", "1.jpg", "away", "also", "out.jpg", "secret.jpg", "root", "data", "~", "etc", "C:",
    "\\", "é",
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(
    st.lists(
        st.sampled_from(PIECES),
        max_size=7,
    ).map("/".join)
    | st.text(max_size=30)
)  # fmt: skip
def test_whatever_is_written_only_the_users_folders_are_reached(places: dict[str, str], text: str) -> None:
    location = finder(places).find(text)
    if location.refusal is None:
        real = os.path.realpath(location.path)
        assert real == location.path
        # What the root's own links lead to is reached by their names alone, never by way of `..`.
        linked = () if ".." in re.split(r"[/\\]", text) else (places["out"] + "/",)
        assert real.startswith((places["root"] + "/", places["more"] + "/", *linked))
        assert Path(real).is_file()
    else:
        assert location.path == ""


AUDITED = """
import json, sys
from pathlib import Path
from PIL import Image
from fairface_core.images.cache import open_cache
from fairface_core.dataset.check import check_data
from fairface_core.config.train_config import TrainConfig
from fairface_core.errors import DataError
from fairface_core.dataset.manifest import load_manifest

EVENTS = {"open", "os.listdir", "os.scandir", "os.chdir", "os.rename", "os.remove", "os.mkdir", "os.link", "os.symlink",
          "os.truncate", "os.rmdir", "shutil.rmtree", "socket.connect", "subprocess.Popen", "os.exec", "os.system"}
touched, watching = [], False

def watch(event, args):
    if watching and event in EVENTS:
        touched.append(str(args[0]))

def use(config):
    refused = []
    for policy in ("error", "skip"):
        for duplicates in ("none", "all"):
            config = config.model_copy(update={"on_bad_image": policy, "drop_duplicates": duplicates})
            try:
                manifest = load_manifest(config)
                paths = [*manifest.train.path, *manifest.test.path]
                open_cache(paths, 8, cache_dir=Path(config.cache_dir), num_workers=1)
            except DataError as error:
                refused += error.problems
            check_data(config)
    return refused

sys.addaudithook(watch)
clean, odd = (TrainConfig(**values) for values in json.loads(sys.argv[1]))
Image.init()
use(clean)  # loads what Python loads late
watching = True
refused = use(odd)
watching = False
print(json.dumps({"touched": touched, "refused": refused}))
"""


@pytest.mark.parametrize("hostile", [True, False])
def test_no_file_outside_the_users_folders_is_opened(
    data_root: DataRoot, clean_root: Path, places: dict[str, str], tmp_path: Path, hostile: bool
) -> None:
    """An audit hook sees every open, listing and change of a process that loads, checks and decodes a data set."""
    if hostile:
        # What leads out by the root's own links is followed, and would be opened.
        cases = [*REFUSED.values(), *(case for case in FOUND.values() if "{out}" not in case[1])]
        texts = [text for text, _, _ in cases if "\0" not in text]
        data_root.edit_val(lambda lines: [*lines, *(f'"{put(text, places)}",20-29,Male,White,True' for text in texts)])
        (data_root.path / "val/2.jpg").write_bytes(b"<html>")
    odd = {
        "root": places["root"],
        "image_root": [places["more"]],
        "cache_dir": str(tmp_path / "cache"),
        "num_workers": 1,
    }
    clean = {"root": str(clean_root), "cache_dir": str(tmp_path / "clean_cache"), "num_workers": 1}
    run = subprocess.run(
        [sys.executable, "-c", AUDITED, json.dumps([clean, odd])],
        capture_output=True, text=True, check=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    seen = json.loads(run.stdout)
    # The last one says how many processors a container has.
    allowed = (places["root"], places["more"], str(tmp_path / "cache"), "/sys/fs/cgroup/cpu.max")
    # Numbers are files that are open already.
    strangers = {path for path in seen["touched"] if not path.isdigit() and not path.startswith(allowed)}
    # Listed, not opened: the folders that the root's own links lead to.
    assert strangers <= {"/dev", places["out"]}
    assert any(path.endswith("fairface_label_val.csv") for path in seen["touched"])
    assert not any("secret" in path for path in seen["touched"])
    assert bool(seen["refused"]) == hostile
