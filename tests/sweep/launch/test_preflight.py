"""What is found wrong before the first trial: all of it, in one message, with nothing changed."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from fairface_core.errors import ConfigError
from fairface_core.files.folder import open_folder
from fairface_core.machine.resources import free_memory_bytes, local_cpus, local_gpus
from sweep.cluster.connect import Node
from sweep.driving.worker import FIT, Task, demo_folder
from sweep.launch.preflight import Launch, check, check_name, look_at_node, name_problems
from sweep.plan.expand import make_plan
from sweep.space.load import load_space
from tests.sweep import fake_sweeps

HERE = (Node("", "127.0.0.1", 4, 0),)


def request(
    tmp_path: Path, *, root: str = "/", fit: str = fake_sweeps.FAKE, nodes: tuple[Node, ...] = HERE, **changes: Any
) -> Launch:
    spec = load_space(fake_sweeps.write_space(tmp_path, **changes))
    plan = make_plan(spec, auto_gpu=0.0)
    run = open_folder(tmp_path / "runs" / "run")
    own = {"root": root, "results_csv": None, "resume": True}
    tasks = {
        trial.trial_id: Task(
            trial.trial_id, {**trial.config, **own, "out_dir": run.sub("trials", trial.trial_id).uri}, fit=fit
        )
        for trial in plan.trials
    }
    return Launch(run, plan, tasks, nodes, None, spec.resources.max_concurrent, plan.trials)


def problems_of(launch: Launch, **options: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check(launch, **options)
    return list(caught.value.problems)


def test_what_is_right_passes_and_leaves_nothing(tmp_path: Path) -> None:
    launch = request(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert check(launch) == []
    assert sorted(tmp_path.iterdir()) == before


def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    (line,) = problems_of(request(tmp_path, resources={"gpu": 0.5, "per_backbone": {"resnet18": {"gpu": 0}}}))
    assert line == (
        "resources: a trial of mobilenet_v3_small asks for 1 CPU and 0.5 GPU; this machine has 4 CPUs and no GPU; "
        "use --gpus-per-trial 0"
    )


def test_weeks_on_a_cpu_are_announced(tmp_path: Path) -> None:
    space = {"backbone": {"grid": ["resnet50", "vit_b_16"]}, "lr": {"grid": [1e-4]}, "seed": {"grid": [1]}}
    benchmark: dict[str, Any] = {"space": space, "fixed": {"epochs": 20}}
    (note,) = check(request(tmp_path, **benchmark), yes=True)
    # 20 epochs x 86,744 images x (4.09 + 17.56) GMAC over 4 cores x 14 GMAC/s: 186 h.
    assert note.startswith("no GPU for 2 trials: on 4 CPU cores they may take 8 days")
    assert check(request(tmp_path, **benchmark, data={"limit_train": 200}), yes=True) == []
    assert check(request(tmp_path, **benchmark, nodes=(Node("a", "", 8, 2),), resources={"gpu": 1}), yes=True) == []


def test_the_largest_machine_counts(tmp_path: Path) -> None:
    nodes = (Node("a", "10.0.0.1", 8, 1), Node("b", "10.0.0.2", 16, 0))
    assert check(request(tmp_path, nodes=nodes, resources={"cpu": 8, "gpu": 1})) == []
    (line,) = problems_of(request(tmp_path, nodes=nodes, resources={"cpu": 12, "gpu": 1}))
    assert "asks for 12 CPU and 1 GPU" in line
    assert "24 CPUs and 1 GPU, 8 CPUs and 1 GPU on its largest machine" in line


def test_cuda_without_a_gpu_for_the_trial(tmp_path: Path) -> None:
    nodes = (Node("a", "", 8, 2),)
    (line,) = problems_of(request(tmp_path, nodes=nodes, fixed={"device": "cuda"}))
    assert "device = 'cuda' for resnet18 and mobilenet_v3_small, whose trials ask for no GPU" in line


def test_disk_and_memory_are_estimates_that_yes_overrides(tmp_path: Path) -> None:
    launch = request(
        tmp_path,
        nodes=(Node("", "", 4096, 0),),
        space={"backbone": {"grid": ["vit_b_16"]}, "seed": {"grid": list(range(300))}, "lr": {"grid": [1e-4, 3e-4, 1e-3]}},
        resources={"cpu": 0.5},
    )  # fmt: skip
    disk, memory = problems_of(launch)
    assert disk.startswith("disk: 900 trials may need up to 2,") or "GiB for states and weights" in disk
    assert "trials at a time need at least" in memory
    assert "--max-concurrent" in memory
    assert all(line.endswith("--yes to go on regardless") for line in (disk, memory))
    notes = check(launch, yes=True)
    assert [note.partition(":")[0] for note in notes] == ["disk", "memory", "no GPU for 900 trials"]
    # What holds its state already needs no more.
    assert check(dataclasses.replace(launch, todo=())) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_storage_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir(mode=0o555)
    (line,) = problems_of(request(tmp_path))
    assert "cannot be written" in line


def test_a_storage_in_the_working_folder_of_a_ray_job_would_be_deleted(tmp_path: Path) -> None:
    copy = tmp_path / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    (line,) = problems_of(dataclasses.replace(request(tmp_path), run=open_folder(copy / "runs" / "run")))
    assert "which is deleted after the job; give an absolute path" in line
    assert not copy.exists()


def test_an_object_store_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    launch = dataclasses.replace(request(tmp_path), run=open_folder("s3://nobody-has-this-bucket/runs/run"))
    assert any(line.startswith("--storage") for line in problems_of(launch))


def test_everything_is_told_together(tmp_path: Path) -> None:
    """A GPU, a storage, a data folder and a name: four lines, and no image is decoded for them."""
    (tmp_path / "runs").write_text("")
    launch = request(tmp_path, root=str(tmp_path / "faces"), fit=FIT, resources={"gpu": 1})
    lines = problems_of(launch, known=["the name is taken"])
    for text in ("the name is taken", "asks for 1 CPU and 1 GPU", "is a file", str(tmp_path / "faces")):
        assert sum(text in line for line in lines) == 1, text


def test_each_problem_is_told_once_however_many_trials_have_it(tmp_path: Path) -> None:
    lines = problems_of(request(tmp_path, root="missing"))
    assert lines == ["--root missing: no such folder"]


def test_images_are_decoded_once_for_all_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRFACE_CACHE_DIR", str(tmp_path / "cache"))
    root = demo_folder({"num_train": 36, "num_val": 36, "image_px": 32, "seed": 1})
    progress: list[tuple[int, int]] = []
    launch = request(tmp_path, root=str(root), fit=FIT, fixed={"image_size": 32, "num_workers": 1})
    assert check(launch, progress=lambda done, total: progress.append((done, total))) == []
    assert progress[-1] == (72, 72)
    assert len(list((tmp_path / "cache").glob("32px-*"))) == 1
    progress.clear()
    assert check(launch, progress=lambda done, total: progress.append((done, total))) == []
    assert progress == [], "the cache is there"


def test_weights_that_cannot_be_fetched_are_one_line_a_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    lines = problems_of(request(tmp_path, fit=FIT, fixed={"weights": "imagenet"}))
    assert len(lines) == 2
    assert all("cannot be downloaded" in line and "--weights none" in line for line in lines)


def test_names(tmp_path: Path) -> None:
    run = open_folder(tmp_path / "run")
    check_name(run, resume=False)
    with pytest.raises(ConfigError, match="nothing to resume"):
        check_name(run, resume=True)
    run.write(".driver.json", b"{}")
    check_name(run, resume=False)
    run.write("plan.json", b"{}")
    check_name(run, resume=True)
    assert "exists already" in name_problems(run, resume=False)[0]


def test_what_a_worker_sees(tmp_path: Path) -> None:
    from fairface_core.machine.provenance import code_digest

    seen = look_at_node(str(tmp_path), str(tmp_path / "absent"), False)
    assert (seen["problems"], seen["root"], seen["code"]) == ([], False, code_digest())
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert look_at_node(str(tmp_path / "file" / "x"), None, False)["problems"]


def test_this_machine_is_measured() -> None:
    assert 1 <= local_cpus() <= (os.cpu_count() or 1)
    assert local_gpus() >= 0
    assert 0 < free_memory_bytes() < 2**50
