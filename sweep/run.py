"""`python -m sweep.run`: train a search space under Ray Tune, or go on with it.

Exit codes: 0 done; 1 a trial failed, or none was completed; 2 bad input, nothing was changed; 130 and 143 stopped by
SIGINT and SIGTERM, 128 + N by any other signal that ends a process.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fairface_core.config.train_config import TrainConfig, data_fields
from fairface_core.console import Parser, go_on_without_stdout, print_json, run_door
from fairface_core.errors import ConfigError, FairfaceError

if TYPE_CHECKING:
    from rich.console import Console

    from sweep.space.spec import SweepSpec

_LOG_COLUMNS = 140
_EPILOG = """Whatever ends a sweep, the same command with --resume (and --name) goes on where it was."""


class _PrintSchema(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import json

        from sweep.space.spec import json_schema

        print(json.dumps(json_schema(), indent=1))
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = Parser(
        prog="python -m sweep.run",
        description="Train every configuration of a search space under Ray Tune, stop what falls behind and rank the rest.",
        epilog=_EPILOG,
    )
    what = parser.add_argument_group("what to run")
    asked = what.add_mutually_exclusive_group(required=True)
    asked.add_argument("--space", type=Path, metavar="YAML", help="search space, see search_spaces/")
    asked.add_argument("--rerun", metavar="RUN/TRIAL",
                       help="train one trial again, in RUN/reruns/; --set changes it, such as lr=1e-4")  # fmt: skip
    asked.add_argument("--refit", metavar="RUN",
                       help="train the winner on train and validation for its best epoch's length, in RUN/refit")  # fmt: skip
    asked.add_argument("--list", metavar="DIR", dest="listed",
                       help="list the runs of a storage folder: state, age, best, what to type to go on; run nothing")  # fmt: skip
    what.add_argument("--root", metavar="DIR", help="data folder: label CSVs and images")
    what.add_argument("--protocol", choices=("seed", "official"),
                      help="seed: 20 %% of the val CSV is the test set; official: all of it")  # fmt: skip
    what.add_argument("--on-bad-image", choices=("error", "skip"), help="what to do with missing or unreadable images")
    what.add_argument("--drop-duplicates", choices=("none", "cross_split", "all"),
                      help="byte-identical images: keep, drop those shared by train and val, or drop all but one")  # fmt: skip
    what.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE",
                      help="change a key of the space, such as fixed.epochs=3; may be given several times")  # fmt: skip
    what.add_argument(
        "--scheduler",
        choices=("asha", "race", "fifo"),
        help="stop trials that fall behind, race configurations seed by seed, or run every trial in full",
    )
    where = parser.add_argument_group("where to")
    where.add_argument(
        "--name", help="run folder below --storage [the space's name, or its file's, the time and six digits]"
    )
    where.add_argument("--storage", default="runs", metavar="DIR", help="folder, or object-store URI [%(default)s]")
    how = parser.add_argument_group("on what")
    how.add_argument("--gpus-per-trial", type=float, metavar="X", help="0 to 1, for every backbone")
    how.add_argument("--cpus-per-trial", type=float, metavar="X", help="for every backbone")
    how.add_argument("--max-concurrent", type=int, metavar="N", help="most trials at a time [as many as fit]")
    how.add_argument("--address", metavar="HOST:PORT",
                     help="join this Ray cluster; auto: this machine's; local: start Ray here [$RAY_ADDRESS, else local]")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print the plan and what it can cost; run nothing")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped or killed")
    parser.add_argument("--extend", action="store_true",
                        help="go on with a run, with a larger space: more values, seeds, backbones or samples")  # fmt: skip
    parser.add_argument("--retry-failed", action="store_true",
                        help="go on with a run; also run again what diverged (what failed, --resume does)")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="resume even if the program has changed since")
    parser.add_argument("--yes", action="store_true", help="go on though an estimate says it may not fit, or is huge")
    parser.add_argument("--open", action="store_true",
                        help="open the page in a browser and keep it fresh while the sweep runs")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object, and all else on standard error")
    parser.add_argument("--print-schema", action=_PrintSchema, nargs=0, help="print the JSON Schema of a search space")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def main(argv: Sequence[str] | None = None, *, fit: str | None = None) -> int:
    """Run the command.

    Args:
        argv: Words of the command line; None for those of this process.
        fit: `module:function` that trains, for tests; None for the real one.

    Returns:
        The exit code.
    """
    return run_door(make_parser(), lambda flags: _in_own_words(lambda: _run(flags, fit)), argv)


def _list(flags: argparse.Namespace) -> int:
    from sweep.console.run_list import list_runs, print_runs

    runs = list_runs(flags.listed)
    if flags.json:
        print_json({"schema_version": 1, "storage": flags.listed, "runs": runs})
    else:
        print_runs(_console(to_stderr=False), runs)
    return 0


def _console(*, to_stderr: bool) -> Console:
    """Return where a person reads: standard error where standard output is for a program."""
    from rich.console import Console

    if (sys.stderr if to_stderr else sys.stdout).isatty():
        return Console(highlight=False, stderr=to_stderr)
    # A log file or a pipe has no width, 80 columns would fold every table; nor can it be drawn over, though
    # FORCE_COLOR asks for colors.
    return Console(highlight=False, stderr=to_stderr, width=_LOG_COLUMNS, force_interactive=False)


def _in_own_words(command: Callable[[], int]) -> int:
    try:
        return command()
    except FairfaceError as error:
        error.problems = tuple(map(own_advice, error.problems))
        raise


def own_advice(problem: str) -> str:
    """Word the core's advice for this command, which sets most of the core's flags as keys of the space."""
    known = {word for action in make_parser()._actions for word in action.option_strings}

    def reworded(found: re.Match[str]) -> str:
        name, value = found["name"], found["value"]
        if name not in TrainConfig.model_fields or f"--{name.replace('_', '-')}" in known:
            return found[0]
        key = f"{'data' if name in data_fields() else 'fixed'}.{name}"
        return f"--set {key}={value}" if value else f"--set {key}=..."

    return re.sub(
        r"--(?P<name>[a-z]+(?:_[a-z]+)*)(?![\w-])(?: (?P<value>none|cpu|\d+\.\d+|[A-Z]+(?:\.\w+)?\b|/\S+))?",
        reworded,
        problem,
    )


def _run(arguments: argparse.Namespace, fit: str | None) -> int:
    # Imported late: --help is answered at once.
    if arguments.listed is not None:
        return _list(arguments)
    if arguments.rerun or arguments.refit:
        from sweep.launch.again import Wish, refit, rerun

        _refuse_sweep_flags(arguments)
        wish = Wish(arguments.root, arguments.sets, arguments.name, arguments.resume)
        return rerun(arguments.rerun, wish) if arguments.rerun else refit(arguments.refit, wish)
    from sweep.cluster.signals import Interrupted, StopSignals
    from sweep.space.load import load_space
    from sweep.space.overrides import FLAGS

    console = _console(to_stderr=arguments.json)
    spec = load_space(arguments.space, sets=arguments.sets, **{flag: getattr(arguments, flag) for flag in FLAGS})
    if arguments.dry_run:
        from sweep.console.dry_run import describe_plan, plan_values
        from sweep.plan.expand import make_plan
        from sweep.plan.search import at_random

        plan = make_plan(spec, yes=arguments.yes)
        whole = make_plan(at_random(spec), yes=arguments.yes) if plan.to_come else plan
        if arguments.json:
            print_json(plan_values(plan, whole))
        else:
            console.print(describe_plan(plan, epoch_s=_pace(spec, arguments.storage), whole=whole))
        return 0
    from sweep.launch.session import Options, launch

    options = Options(
        storage=arguments.storage,
        address=_address(arguments.address),
        resume=arguments.resume or arguments.extend or arguments.retry_failed,
        extend=arguments.extend,
        retry_failed=arguments.retry_failed,
        force=arguments.force,
        yes=arguments.yes,
        json=arguments.json,
        open_page=arguments.open,
        **({} if fit is None else {"fit": fit}),
    )
    go_on_without_stdout()
    with StopSignals() as signals:
        try:
            return launch(spec, options, signals, console)
        except Interrupted as stop:
            return stop.exit_code


def _refuse_sweep_flags(arguments: argparse.Namespace) -> None:
    """Say which flags mean nothing to a single training."""
    taken = ("rerun", "refit", "root", "sets", "name", "resume", "debug")
    parser = make_parser()
    given = [key for key, value in vars(arguments).items() if key not in taken and value != parser.get_default(key)]
    if given:
        flags = ", ".join(f"--{key.replace('_', '-')}" for key in given)
        raise ConfigError(f"{flags}: --rerun and --refit take --root, --set, --name and --resume alone")


def _address(typed: str | None) -> str | None:
    address = typed or os.environ.get("RAY_ADDRESS") or "local"
    return None if address == "local" else address


def _pace(spec: SweepSpec, storage: str) -> dict[str, float]:
    """Return the seconds of an epoch by group, as the run of this name has trained some; empty without one."""
    from fairface_core.files.folder import open_folder
    from sweep.run_folder.records import read_run

    if spec.name is None:
        return {}
    run = open_folder(storage).sub(spec.name)
    return read_run(run).epoch_s if run.exists("plan.json") else {}


if __name__ == "__main__":
    sys.exit(main())
