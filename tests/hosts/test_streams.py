"""Standard streams that are closed, full, broken, or no terminal though colors are forced.

The rule: a run that writes files (train, a sweep that is no dry run) is never ended by its output. The first refusal is
told in one `error:` line on stderr and the run goes on; its exit code says how the run ended. Where the output was all that
was asked for, a refusal ends the command: 1 and one line, or 141 and nothing where the reader left (`| head`). A closed
stream is /dev/null: exit code 0, and no file of a run gets its number. What must be heard (how to go on after a signal)
goes to stderr where stdout is lost.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from fairface_core.console import run_command
from tests.hosts.commands import python, run, train
from tests.sweep.fake_sweeps import PROJECT

QUICKSTART = str(PROJECT / "search_spaces" / "quickstart.yaml")
DRY_RUN = python("sweep.run", "--dry-run", "--space", QUICKSTART)


def whole(out: Path) -> bool:
    return json.loads((out / "status.json").read_text())["status"] == "completed" and (out / "best.pt").is_file()


def test_a_run_with_closed_streams_is_a_run(demo_root: Path, tmp_path: Path) -> None:
    done = run(train(demo_root, tmp_path / "out"), shell='"$@" >&- 2>&- <&-')
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert whole(tmp_path / "out")


@pytest.mark.parametrize(
    ("shell", "cause"), [('"$@" >/dev/full', "No space left on device"), ('"$@" | true', "Broken pipe")]
)
def test_a_run_outlives_its_output(shell: str, cause: str, demo_root: Path, tmp_path: Path) -> None:
    done = run(train(demo_root, tmp_path / "out"), shell=shell)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: standard output cannot be written ({cause})")
    assert whole(tmp_path / "out")


def test_a_closed_stream_is_quiet_where_the_output_is_all(demo_root: Path) -> None:
    check = python("fairface_core.data", "check", "--labels_only", "--root", str(demo_root))
    for command in (DRY_RUN, check):
        done = run(command, shell='"$@" >&-')
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("shell", "code", "lines"), [('"$@" >/dev/full', 1, 1), ('"$@" | true', 141, 0)])
def test_a_refusal_ends_what_only_prints(shell: str, code: int, lines: int) -> None:
    done = run(DRY_RUN, shell=shell)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == lines
    assert "Traceback" not in done.stderr


def test_help_to_a_full_disk_is_one_line() -> None:
    done = run(python("fairface_core.train", "--help"), shell='"$@" >/dev/full')
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.startswith("error: standard output")


def test_bad_input_keeps_its_code_whatever_the_streams_are(tmp_path: Path) -> None:
    command = python("fairface_core.train", "--root", str(tmp_path / "none"), "--weights", "none")
    for shell in ('"$@" >/dev/full', '"$@" 2>/dev/full', '"$@" 2>&-'):
        assert run(command, shell=shell).returncode == 2, shell


def test_forced_colors_do_not_draw_over_a_pipe() -> None:
    done = run(DRY_RUN, FORCE_COLOR="1")
    assert done.returncode == 0
    assert "\x1b[?25l" not in done.stdout, "hides the cursor of a terminal that is not there"


def test_an_encoding_without_a_character_gets_a_question_mark() -> None:
    code = (
        "import sys; from fairface_core.console import run_command;"
        "sys.exit(run_command(lambda: print('\\u2212', '\\udce9') or 0, debug=False))"
    )
    done = run([sys.executable, "-c", code], PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout.split()) == (0, ["?", "?"])


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(28, "No space left on device", "/x/y"), 1, "/x/y: No space left on device; free some space"),
        (PermissionError(13, "Permission denied", "/x"), 1, "/x: Permission denied; name a place that you may use"),
        (FileNotFoundError(2, "No such file or directory", "a"), 2, "a: No such file or directory; check the name"),
        (OSError(36, "File name too long", "a" * 300), 2, "File name too long; choose a shorter name"),
        (OSError(24, "Too many open files"), 1, "Too many open files; raise the limit on open files"),
        (UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid"), 2, "not UTF-8"),
        (MemoryError(), 1, "memory ran out"),
    ],
)
def test_what_the_system_refuses_is_one_line(
    error: Exception, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> int:
        raise error

    assert run_command(command, debug=False) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line
    with pytest.raises(type(error)):
        run_command(command, debug=True)
