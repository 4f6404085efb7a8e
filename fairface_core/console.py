"""What every command line does alike: words for errors, exit codes, a progress bar."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fairface_core.errors import FairfaceError, one_line

MAX_PROBLEMS = 20
_MAX_CHARS = 4_000


def run_command(command: Callable[[], int], *, debug: bool) -> int:
    """Run a command and turn what the user can cause into `error:` lines and an exit code.

    Args:
        command: Returns the exit code.
        debug: Let the traceback through.

    Returns:
        The command's code; 2 for bad input, 1 for a failed run, 130 after Ctrl-C, 141 if nobody reads the output (`| head`).
    """
    try:
        code = command()
        sys.stdout.flush()
        return code
    except FairfaceError as error:
        if debug:
            raise
        print_problems(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; go on with --resume", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python flushes once more at exit and would tell of it with a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13


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
