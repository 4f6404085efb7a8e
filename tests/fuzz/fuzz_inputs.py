"""Feeds made-up search spaces and label CSVs to their readers, guided by the code that each input reaches.

    python -m tests.fuzz.fuzz_inputs --seconds 600

A third of the time goes to texts for the YAML reader, a third to edits of the project's own spaces (both through
`load_space` and `make_plan`), a third to the CSV reader (`load_manifest`). An input is a finding if a reader raises
anything but its own error, words a problem in more than one printable line, opens a file that it was not given, takes
more than 5 s, or accepts something that fails the checks in targets.py. Every finding is saved; the exit code is 1 if
there is one. Atheris (`pip install atheris`) is used where it is installed, else hypothesis, which tries less.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.fuzz.targets import INSTRUMENTED, TARGETS, TOKENS, Finding, seeds

SLOW_S = 5.0
MAX_INPUT_BYTES = 8192


# One target, in a process of its own.


class Judge:
    """Runs a target, keeps count, and keeps what is found."""

    def __init__(self, one_input: Callable[[bytes], str], folder: Path, findings: Path) -> None:
        self.one_input, self.folder, self.findings = one_input, str(folder), findings
        self.executions = 0
        self.outcomes: Counter[str] = Counter()
        self.found: dict[str, str] = {}
        self.slowest_s = 0.0
        self.started = time.monotonic()
        self.touched: list[str] = []
        self.watching = False

    def watch(self) -> None:
        """Note every file that is opened outside of the folder and everything that is started, from here on."""
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.watching or event not in (
            "open",
            "os.system",
            "subprocess.Popen",
            "os.exec",
            "import",
            "os.remove",
        ):
            return
        subject = str(arguments[0])
        if subject.isdigit():  # a descriptor that was opened before
            return
        if event != "open" or (not subject.startswith(self.folder) and subject != "/dev/null"):
            self.touched.append(f"{event} {subject}")

    def __call__(self, payload: bytes) -> None:
        begun = time.process_time()
        self.executions += 1
        try:
            self.touched.clear()
            self.watching = True
            try:
                outcome = self.one_input(payload)
            finally:
                self.watching = False
            if self.touched:
                raise Finding(f"touches {self.touched[0]}")
            self.outcomes[outcome] += 1
        except Exception as error:  # noqa: BLE001  (the search is for errors of any kind)
            frame = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__}: {error}"[:200] if isinstance(error, Finding) else type(error).__name__
            self.keep(f"{what} at {Path(frame.filename).name}:{frame.lineno}", payload)
        took = time.process_time() - begun
        self.slowest_s = max(self.slowest_s, took)
        if took > SLOW_S:
            self.keep("slow", payload)

    def keep(self, what: str, payload: bytes) -> None:
        if what not in self.found:
            name = f"finding-{len(self.found)}.bin"
            (self.findings / name).write_bytes(payload)
            self.found[what] = name

    def summary(self) -> dict[str, Any]:
        seconds = time.monotonic() - self.started
        return {
            "executions": self.executions,
            "seconds": round(seconds, 1),
            "accepted": self.outcomes["accepted"],
            "kinds_of_refusal": len(self.outcomes) - ("accepted" in self.outcomes),
            "slowest_s": round(self.slowest_s, 2),
            "findings": self.found,
        }


def run_target(target: str, seconds: float, engine: str, findings: Path, summary_path: Path) -> None:
    """Fuzz one target until the time is over; libFuzzer never returns, so the summary goes to a file."""
    with tempfile.TemporaryDirectory() as scratch, instrumented(target, engine):
        folder = Path(scratch).resolve()
        judge = Judge(TARGETS[target](folder), folder, findings)
        for seed in seeds(target):  # loads what is loaded late, before opened files are watched
            judge(seed)
        judge.watch()

        def one_input(payload: bytes) -> None:
            if time.monotonic() - judge.started > seconds:
                summary_path.write_text(json.dumps(judge.summary()))
                shutil.rmtree(scratch)
                sys.stderr.flush()
                os._exit(0)  # libFuzzer cannot be left in another way
            judge(payload)

        if engine == "atheris":
            run_atheris(one_input, target, seconds, findings / "corpus")
        else:
            run_hypothesis(one_input, target)


@contextlib.contextmanager
def instrumented(target: str, engine: str) -> Iterator[None]:
    if engine != "atheris":
        yield
        return
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED[target]):
        for name in ("fairface_core.dataset.manifest", "sweep.plan.expand", "sweep.space.load"):
            importlib.import_module(name)
    yield


def run_atheris(one_input: Callable[[bytes], None], target: str, seconds: float, corpus: Path) -> None:
    import atheris

    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(seeds(target)):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = corpus.with_suffix(".dict")
    escaped = ["".join(f"\\x{byte:02x}" for byte in token.encode()) for token in TOKENS[target]]
    words.write_text("\n".join(f'"{token}"' for token in escaped))
    options = [
        f"-dict={words}",
        f"-max_len={MAX_INPUT_BYTES}",
        "-timeout=60",
        "-len_control=0",
        f"-max_total_time={int(seconds) + 30}",
    ]
    atheris.Setup([sys.argv[0], str(corpus), *options], one_input)
    atheris.Fuzz()


def run_hypothesis(one_input: Callable[[bytes], None], target: str) -> None:
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st
    from hypothesis import target as aim_at

    files = tuple(f"/{name.rpartition('.')[2]}" for name in INSTRUMENTED[target])
    token = st.sampled_from(TOKENS[target]) | st.text(max_size=4)
    pieces = st.lists(token, max_size=40).map("".join).map(str.encode)
    mutated = st.tuples(st.sampled_from(seeds(target)), st.integers(0, 2000), st.integers(0, 20), pieces).map(
        lambda part: part[0][: part[1]] + part[3] + part[0][part[1] + part[2] :]
    )

    def lines_reached(payload: bytes) -> int:
        reached: set[tuple[str, int]] = set()

        def trace(frame: Any, event: str, _: Any) -> Any:
            if not any(name in frame.f_code.co_filename for name in files):
                return None
            if event == "line":
                reached.add((frame.f_code.co_filename, frame.f_lineno))
            return trace

        sys.settrace(trace)
        try:
            one_input(payload)
        finally:
            sys.settrace(None)
        return len(reached)

    @settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(mutated | pieces | st.binary(max_size=200))
    def batch(payload: bytes) -> None:
        aim_at(lines_reached(payload))

    while True:  # one_input ends the process when the time is over
        batch()


# Both targets, one after the other.


def main() -> int:
    """Fuzz both readers and print what came out; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="for all targets together [%(default)s]")
    parser.add_argument("--target", choices=[*TARGETS, "all"], default="all")
    found = "atheris" if importlib.util.find_spec("atheris") else "hypothesis"
    parser.add_argument("--engine", choices=["atheris", "hypothesis"], default=found, help="[%(default)s]")
    parser.add_argument("--findings", type=Path, default=None, help="folder for findings [a new one in /tmp]")
    parser.add_argument("--summary", type=Path, default=None, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.summary:
        run_target(flags.target, flags.seconds, flags.engine, flags.findings, flags.summary)
        return 1
    findings = flags.findings or Path(tempfile.mkdtemp(prefix="fuzz-findings-"))
    targets = list(TARGETS) if flags.target == "all" else [flags.target]
    failed = False
    for target in targets:
        kept = findings / target
        kept.mkdir(parents=True, exist_ok=True)
        log, summary = kept / "log.txt", kept / "summary.json"
        command = [
            sys.executable,
            "-m",
            "tests.fuzz.fuzz_inputs",
            "--target",
            target,
            "--seconds",
            str(flags.seconds / len(targets)),
        ]
        command += ["--engine", flags.engine, "--findings", str(kept), "--summary", str(summary)]
        with log.open("w") as out:
            subprocess.run(command, stdout=out, stderr=out, check=False)
        if not summary.exists():
            print(f"{target}: the fuzzer itself ended early; see {log}")
            failed = True
            continue
        result = json.loads(summary.read_text())
        reached = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", log.read_text(errors="replace"))
        result["coverage"] = (
            dict(zip(("edges", "features", "corpus"), map(int, reached[-1]), strict=True)) if reached else None
        )
        print(json.dumps({"target": target, "engine": flags.engine, **result}, indent=2), flush=True)
        failed |= bool(result["findings"])
    print(f"findings and logs: {findings}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
