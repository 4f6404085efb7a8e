"""A run folder in a real MLflow server, in W&B's offline folders and in Trackio's database: what stands there, and that a
second run changes nothing.

The packages are in no extra of the tests: they take a minute to install, and change the versions of others.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fairface_core.files.folder import open_folder, read_json, write_json
from sweep.report import main
from tests.sweep.run_folders import Shape, make_run

SHAPE = Shape(
    spaces={"resnet50": (1e-4, 3e-4), "convnext_tiny": (3e-4,)},
    seeds=(1, 2), epochs=4, num_val=90, num_test=90, asha=False, ends={1: "failed", 3: "diverged"},
)  # fmt: skip
FAILED, DIVERGED = 1, 3
NUM_TRIALS = 6


def needs(package: str) -> Any:
    there = importlib.util.find_spec(package) is not None
    return pytest.mark.skipif(not there, reason=f"{package} is not installed")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("drawn") / "faces", SHAPE)


@pytest.fixture
def run(drawn: Path, tmp_path: Path) -> Path:
    """A run that is in the middle: one trial has trained two of four epochs and waits."""
    copy = Path(shutil.copytree(drawn, tmp_path / "faces"))
    trial = cut_trial(copy)
    lines = (trial / "history.csv").read_text().splitlines(keepends=True)
    (trial / "full.csv").write_text("".join(lines))
    (trial / "history.csv").write_text("".join(lines[:3]))
    (trial / "report.json").rename(trial / "full.json")
    write_json(open_folder(trial), "status.json", {**status(trial), "status": "planned", "epochs_trained": 2})
    return copy


def cut_trial(run: Path) -> Path:
    return run / "trials" / planned(run)[0]["trial_id"]


def planned(run: Path) -> list[dict[str, Any]]:
    return read_json(open_folder(run), "plan.json")["trials"]


def status(trial: Path) -> dict[str, Any]:
    return read_json(open_folder(trial), "status.json")


def goes_on(run: Path) -> None:
    """The rest of the cut trial is trained."""
    trial = cut_trial(run)
    (trial / "full.csv").replace(trial / "history.csv")
    (trial / "full.json").replace(trial / "report.json")
    write_json(open_folder(trial), "status.json", {**status(trial), "status": "completed", "epochs_trained": 4})


def mirror(run: Path, tracker: str) -> None:
    assert main([str(run), "--to", tracker]) == 0


def history(run: Path, position: int) -> list[dict[str, str]]:
    import csv

    with (run / "trials" / planned(run)[position]["trial_id"] / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
               "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "art")]  # fmt: skip
    with (folder / "server.txt").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    uri = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{uri}/health", timeout=2).close()
                break
            assert server.poll() is None and time.monotonic() < deadline, (folder / "server.txt").read_text()[-3000:]
            time.sleep(0.2)
        yield uri
    finally:
        import psutil

        for process in [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]:
            with contextlib.suppress(psutil.Error):
                process.kill()
        server.wait()


def rows(database: Path) -> dict[str, list[Any]]:
    """Everything that a database holds."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: sorted(map(repr, connection.execute(f'SELECT * FROM "{name}"'))) for name in names}


@pytest.mark.slow
@needs("mlflow")
def test_mlflow(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    store.mkdir()
    with mlflow_server(store) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        from mlflow.tracking import MlflowClient

        client = MlflowClient()

        def found() -> dict[str, Any]:
            (experiment,) = [one for one in client.search_experiments() if one.name == "faces"]
            return {one.info.run_name: one for one in client.search_runs([experiment.experiment_id])}

        mirror(run, "mlflow")
        runs = found()
        assert set(runs) == {trial["trial_id"] for trial in planned(run)} | {"faces"}
        cut = runs[cut_trial(run).name]
        steps = client.get_metric_history(cut.info.run_id, "mean_f1")
        assert [point.step for point in steps] == [1, 2] and "test_mean_f1" not in cut.data.metrics
        before = rows(store / "mlflow.db")
        mirror(run, "mlflow")
        assert rows(store / "mlflow.db") == before

        goes_on(run)
        mirror(run, "mlflow")
        runs = found()
        assert len(runs) == NUM_TRIALS + 1
        for position, trial in enumerate(planned(run)):
            one = runs[trial["trial_id"]]
            assert one.data.tags["backbone"] == trial["group"] and one.data.params["seed"] == str(trial["seed"])
            if position == FAILED:
                assert one.info.status == "FAILED" and "out of memory" in one.data.tags["reason"]
                continue
            points = client.get_metric_history(one.info.run_id, "mean_f1")
            assert [(p.step, p.value) for p in points] == [
                (int(row["epoch"]), float(row["mean_f1"])) for row in history(run, position)
            ]
            report = read_json(open_folder(run / "trials" / trial["trial_id"]), "report.json")
            assert one.data.metrics["test_mean_f1"] == report["test_metrics"]["mean_f1"]
            assert one.info.status == ("FAILED" if position == DIVERGED else "FINISHED")
            local = client.download_artifacts(one.info.run_id, "report.json", str(tmp_path))
            assert json.loads(Path(local).read_text()) == report
        names = {file.path for file in client.list_artifacts(runs["faces"].info.run_id)}
        assert names >= {"report.html", "leaderboard.csv", "model_card_convnext_tiny.md"}
        before = rows(store / "mlflow.db")
        mirror(run, "mlflow")
        assert rows(store / "mlflow.db") == before

        # Cut off before its last request, which says how far it came: nothing is there twice afterwards.
        cut = runs[cut_trial(run).name].info.run_id
        for tag in ("fairface.digest", "fairface.epochs", "fairface.history"):
            client.delete_tag(cut, tag)
        mirror(run, "mlflow")
        assert rows(store / "mlflow.db") == before

        # Trained anew, with other scores: what was logged cannot be taken back, so the run is another.
        path = cut_trial(run) / "history.csv"
        text = path.read_text().splitlines()
        fields = text[0].split(",")
        first = text[1].split(",")
        first[fields.index("train_loss")] = "9.5"
        path.write_text("\n".join([text[0], ",".join(first), *text[2:]]) + "\n")
        mirror(run, "mlflow")
        one = found()[cut_trial(run).name]
        assert one.info.run_id != runs[cut_trial(run).name].info.run_id
        assert client.get_metric_history(one.info.run_id, "train_loss")[0].value == 9.5
        assert len(found()) == NUM_TRIALS + 1


@pytest.mark.slow
@needs("wandb")
def test_wandb_offline(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for name, value in {"MODE": "offline", "DIR": home, "CACHE_DIR": home / "c", "DATA_DIR": home / "d"}.items():
        monkeypatch.setenv(f"WANDB_{name}", str(value))
    # Each in its own process: W&B keeps its settings for the life of one.
    command = [sys.executable, "-m", "sweep.report", str(run), "--to", "wandb"]

    def mirrored_once() -> dict[str, bytes]:
        subprocess.run(command, check=True, capture_output=True, timeout=200)
        return {str(path): path.read_bytes() for path in home.rglob("*.wandb")}

    first = mirrored_once()
    assert len(first) == NUM_TRIALS + 1
    assert mirrored_once() == first
    goes_on(run)
    second = mirrored_once()
    assert len(second) == NUM_TRIALS + 1
    # The trial that went on and the sweep's own run; the others' folders were left alone.
    assert len(second.keys() - first.keys()) == 2
    assert mirrored_once() == second
    runs = {run_of.display_name: (run_of, points) for run_of, points in (offline(Path(path)) for path in second)}
    assert set(runs) == {trial["trial_id"] for trial in planned(run)} | {"faces"}
    for position, trial in enumerate(planned(run)):
        run_of, points = runs[trial["trial_id"]]
        assert run_of.run_group == trial["group"] and run_of.project == "faces"
        expected = [] if position == FAILED else history(run, position)
        assert [point["_step"] for point in points] == [int(row["epoch"]) for row in expected]
        assert [point["mean_f1"] for point in points] == [float(row["mean_f1"]) for row in expected]


def offline(path: Path) -> tuple[Any, list[dict[str, Any]]]:
    """The run of an offline folder and its history, as `wandb sync` would read them."""
    from wandb.proto import wandb_internal_pb2

    points, run_of = [], None
    for data in log_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            run_of = record.run
        if record.HasField("history"):
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            points.append({**items, "_step": record.history.step.num})
    return run_of, points


def log_records(raw: bytes) -> Iterator[bytes]:
    """Records of LevelDB's log format (its doc/log_format.md), which W&B's files have behind a head of 7 bytes."""
    whole, at, block = b"", 7, 2**15
    while at + 7 <= len(raw):
        if block - at % block < 7:
            at += block - at % block
            continue
        length, kind = int.from_bytes(raw[at + 4 : at + 6], "little"), raw[at + 6]
        whole += raw[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield whole
            whole = b""


@pytest.mark.slow
@needs("trackio")
def test_trackio(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("TRACKIO_DIR", str(home))
    command = [sys.executable, "-m", "sweep.report", str(run), "--to", "trackio", "--json"]

    def mirrored_once() -> dict[str, list[Any]]:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=200)
        assert json.loads(done.stdout)["run"] == "faces"
        return rows(home / "faces.db")

    first = mirrored_once()
    assert mirrored_once() == first
    goes_on(run)
    second = mirrored_once()
    assert second != first
    assert mirrored_once() == second
    with contextlib.closing(sqlite3.connect(home / "faces.db")) as connection:
        points = connection.execute(
            "SELECT step, metrics FROM metrics WHERE run_name = ? ORDER BY id", (cut_trial(run).name,)
        ).fetchall()
        configs = {
            name: json.loads(config) for name, config in connection.execute("SELECT run_name, config FROM configs")
        }
    values = [(step, json.loads(metrics)) for step, metrics in points]
    assert [step for step, _ in values] == [1, 2, 3, 4, 4]
    assert [value["mean_f1"] for _, value in values[:4]] == [float(row["mean_f1"]) for row in history(run, 0)]
    assert "test_mean_f1" in values[4][1]
    assert set(configs) == {trial["trial_id"] for trial in planned(run)} | {"faces"}
    for trial in planned(run):
        assert configs[trial["trial_id"]]["_Group"] == trial["group"]
        assert configs[trial["trial_id"]]["seed"] == trial["seed"]


@pytest.mark.parametrize("tracker", ["mlflow", "wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_one_line(
    tracker: str, drawn: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # As Python itself marks what cannot be imported.
    monkeypatch.setitem(sys.modules, tracker, None)
    before = sorted(drawn.iterdir())
    assert main([str(drawn), "--to", tracker]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --to {tracker} needs the package {tracker} (")
    assert line.endswith(f'pip install "fairface-sweep[{tracker}]"')
    assert sorted(drawn.iterdir()) == before
