"""What every command line does alike: flags in either spelling, streams, words for errors, exit codes, a progress bar."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from fairface_core.errors import FairfaceError, is_text, not_utf8, one_line, ran_out_of_memory

MAX_PROBLEMS = 20
_MAX_CHARS = 4_000
# What a wrong name causes: bad input. Anything else that a system refuses is a failed run.
_NAMES = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some quota",
    errno.EFBIG: "raise the limit on the size of files",
    errno.EROFS: "name a place that can be written",
    errno.EACCES: "name a place that you may use, or change its permissions",
    errno.EPERM: "name a place that you may use, or change its permissions",
    errno.ENOENT: "check the name",
    errno.ENOTDIR: "check the name",
    errno.EISDIR: "name a file",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}


class Parser(argparse.ArgumentParser):
    """Takes each flag with `_` and with `-` between its words, and no abbreviation of it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse words; those of a subcommand come by here too, in the parser of the subcommand."""
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([self._respelled(word) for word in words], namespace)

    def _respelled(self, word: str) -> str:
        flag, mark, value = word.partition("=")
        if not flag.startswith("--") or flag in self._option_string_actions:
            return word
        body = flag[2:]
        known = (f"--{body.replace(*pair)}" for pair in (("-", "_"), ("_", "-")))
        return next((one for one in known if one in self._option_string_actions), flag) + mark + value


class _PrintCompletion(argparse.Action):
    """Prints what a shell needs to complete a command; a shell knows the installed name, not `python -m`."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: object, shell: Any, *_: object) -> None:
        try:
            import shtab
        except ImportError:
            raise FairfaceError(
                'completion needs the package shtab: pip install "fairface-sweep[completion]"'
            ) from None
        _mark_paths(parser, shtab.FILE, shtab.DIRECTORY)
        parser.prog = installed_name(parser.prog)
        print(shtab.complete(parser, shell=shell))
        parser.exit()


def installed_name(prog: str) -> str:
    """Return the name that pip installs a door under: `fairface-data` of `python -m fairface_core.data`."""
    door = prog.rpartition(".")[2]
    return f"fairface-{'sweep' if door == 'run' else door}"


def _mark_paths(parser: argparse.ArgumentParser, file: object, folder: object) -> None:
    for action in parser._actions:
        if "DIR" in str(action.metavar):
            action.complete = folder  # type: ignore[attr-defined]
        elif action.type is Path:
            action.complete = file  # type: ignore[attr-defined]
        for sub in action.choices.values() if isinstance(action.choices, dict) else ():
            _mark_paths(sub, file, folder)


def run_door(
    parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int], argv: Sequence[str] | None = None
) -> int:
    """Parse a command line, run its command and return the exit code; see `run_command`.

    Args:
        parser: Knows `--debug`.
        command: Takes the parsed flags and returns the exit code.
        argv: Words of the command line; None for those of this process.

    Raises:
        SystemExit: argparse's own, after `--help` or a word that it refuses.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser.add_argument("--print-completion", action=_PrintCompletion, choices=("bash", "zsh", "tcsh"),
                        help=f"print what this shell needs to complete {installed_name(parser.prog)}")  # fmt: skip

    def parsed() -> int:
        problems = [not_utf8(repr(word)) for word in words if not is_text(word)]
        if problems:
            raise FairfaceError(problems)
        return command(parser.parse_args(words))

    known = [flag for flag in ("--micro_batch_size", "--batch_size") if flag in parser._option_string_actions]
    fewer = f"take fewer images at a time by a smaller {known[0]}, or " if known else ""
    return run_command(parsed, debug="--debug" in words, fewer=fewer)


def run_command(command: Callable[[], int], *, debug: bool, fewer: str = "") -> int:
    """Run a command and turn what the user or the machine can cause into `error:` lines and an exit code.

    Args:
        command: Returns the exit code.
        debug: Let the traceback through.
        fewer: What to do where memory ran out, before "free some memory".

    Returns:
        The command's code; 2 for bad input, 1 for a failed run, 130 after Ctrl-C, 141 if nobody reads the output
        (`| head`) and the output was all that was asked for (`go_on_without_stdout`).
    """
    with _streams():
        try:
            return _flushed(command)
        except _OutputLostError as lost:
            if lost.broken_pipe:
                return 128 + 13
            print_problems(lost)
            return lost.exit_code
        except FairfaceError as error:
            if debug:
                raise
            print_problems(error)
            return error.exit_code
        except KeyboardInterrupt:
            print("interrupted" + ("; go on with --resume" if _is_optional(sys.stdout) else ""), file=sys.stderr)
            return 130
        except (OSError, UnicodeError, MemoryError, RuntimeError) as error:
            no_memory = ran_out_of_memory(error)
            if debug or (isinstance(error, RuntimeError) and not no_memory):
                raise
            sentence = f"{_no_memory(error)}; {fewer}free some memory" if no_memory else _sentence(error)
            print_problems(FairfaceError(f"{sentence}; --debug shows where"))
            name_is_wrong = isinstance(error, UnicodeError) or getattr(error, "errno", None) in _NAMES
            return 2 if name_is_wrong and not _is_optional(sys.stdout) else 1


def go_on_without_stdout() -> None:
    """Say that from here on a run writes files: it is not ended by an output that is full or that nobody reads."""
    if isinstance(sys.stdout, _Output):
        sys.stdout.optional = True


def stdout_is_lost() -> bool:
    """Whether standard output refused something; what a person must hear goes to stderr then."""
    return isinstance(sys.stdout, _Output) and sys.stdout.lost


class _OutputLostError(FairfaceError):
    """Standard output refused what was the command's only product."""

    exit_code = 1

    def __init__(self, problem: str, broken_pipe: bool) -> None:
        super().__init__(problem)
        self.broken_pipe = broken_pipe


class _Output:
    """A standard stream whose refusals are told once, as what they are; a library may take them for its own.

    rich 15 ends the process with exit code 1 where a pipe breaks.
    """

    def __init__(self, stream: TextIO, *, optional: bool) -> None:
        self._stream, self.optional, self.lost = stream, optional, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        self._try(lambda: self._stream.writelines(lines))

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        # Python keeps what was refused and would flush it once more at exit, with a traceback.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        if self.lost:
            return
        self.lost = True
        if self._stream is _inner(sys.stderr):
            return
        problem = f"standard output cannot be written ({error.strerror or error})"
        if not self.optional:
            raise _OutputLostError(problem, error.errno == errno.EPIPE) from error
        print_problems(FairfaceError(f"{problem}; the run goes on without it, its files are not concerned"))


def _inner(stream: object) -> object:
    return stream._stream if isinstance(stream, _Output) else stream


def _is_optional(stream: object) -> bool:
    return isinstance(stream, _Output) and stream.optional


@contextmanager
def _streams() -> Iterator[None]:
    """Make the standard streams safe to use: a closed one is /dev/null, and what an encoding lacks becomes `?`."""
    before = sys.stdin, sys.stdout, sys.stderr
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            # The lowest free number, so the closed stream's own: otherwise a file of a run would get it, and whatever a
            # child process prints would land there.
            handle = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(handle, handle == number)
            setattr(sys, name, os.fdopen(handle, mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    sys.stdout, sys.stderr = _Output(sys.stdout, optional=False), _Output(sys.stderr, optional=True)
    try:
        yield
    finally:
        sys.stdout.optional = True
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdin, sys.stdout, sys.stderr = (
            now if was is None else was for was, now in zip(before, (sys.stdin, sys.stdout, sys.stderr), strict=True)
        )


def _flushed(command: Callable[[], int]) -> int:
    try:
        code = command()
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return code


def _no_memory(error: BaseException) -> str:
    # torch's allocator for the CPU wraps the size in places of its own source.
    found = re.search(r"[Tt]ried to allocate [\d.]+ \w+", str(error))
    first = found[0] if found else next(iter(str(error).strip().splitlines()), "")
    return f"memory ran out ({first})" if first else "memory ran out"


def _sentence(error: BaseException) -> str:
    """Return where, why and what to do, of an error that nothing of ours had words for."""
    if isinstance(error, UnicodeError):
        return f"a name or a text is not UTF-8: {error}; rename it or convert the file"
    assert isinstance(error, OSError), "one of the kinds that run_command catches"
    places = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    cause = error.strerror or str(error) or type(error).__name__
    remedy = _REMEDIES.get(error.errno or 0, "")
    return "; ".join(filter(None, (": ".join([*places, cause]), remedy)))


def print_problems(error: FairfaceError) -> None:
    """Print the first problems to stderr, one line each, and the count of the rest.

    One line past the limit is printed too: it may be the count that `fairface_core.errors` closes its list with.
    """
    most = len(error.problems) if len(error.problems) <= MAX_PROBLEMS + 1 else MAX_PROBLEMS
    for problem in error.problems[:most]:
        # A value in it may come from any file, and a terminal obeys what it is shown.
        print(f"error: {one_line(problem)[:_MAX_CHARS]}", file=sys.stderr)
    if len(error.problems) > most:
        print(f"error: and {len(error.problems) - most} more problems", file=sys.stderr)


def print_json(value: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Print the one object that `--json` promises; docs/json.md says what is in it. JSON has no NaN: null stands for it."""
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    print(json.dumps(finite, indent=indent), flush=True)


def tell(text: str) -> None:
    """Print one line to stderr: what will take a while, and how much of what."""
    if sys.stderr is not None:
        print(one_line(text), file=sys.stderr, flush=True)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a bar on stderr while a long step runs; silent where stderr is not a terminal.

    Yields:
        A function of (done, total), the total None if it is not known. The bar appears with its first call.
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)
