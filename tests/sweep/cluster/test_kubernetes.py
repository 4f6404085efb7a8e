"""The RayJob: its pods against Kubernetes' own schema, KubeRay's fields by name and type, and the script that it starts.

No package registry has KubeRay's CRD as a file. `RAY_JOB` says of the fields that we use what KubeRay 1.5.1's API
reference says (names, types, what is required); a field that is not in it is refused. Not held: KubeRay's own webhooks.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from sweep.run import make_parser
from tests.sweep import fake_sweeps

TEMPLATES = fake_sweeps.PROJECT / "sweep" / "templates"
KUBERNETES = "1.31"
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}


def record(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


HEAD = record(["template"], rayStartParams=TEXTS, template={"type": "object"}, serviceType={"type": "string"})
WORKERS = record(
    ["groupName", "maxReplicas", "minReplicas", "template"],
    groupName={"type": "string"}, replicas=COUNT, minReplicas=COUNT, maxReplicas=COUNT, rayStartParams=TEXTS,
    template={"type": "object"},
)  # fmt: skip
RAY_JOB = record(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"}, kind={"const": "RayJob"}, metadata=record(["name"], name={"type": "string"}),
    spec=record(
        [], entrypoint={"type": "string"}, backoffLimit=COUNT, shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=COUNT, submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        rayClusterSpec=record(
            ["headGroupSpec"], rayVersion={"type": "string"}, headGroupSpec=HEAD,
            authOptions=record([], mode={"enum": ["disabled", "token"]}),
            workerGroupSpecs={"type": "array", "items": WORKERS},
        ),
    ),
)  # fmt: skip


@pytest.fixture
def job() -> dict[str, Any]:
    return yaml.safe_load((TEMPLATES / "rayjob.yaml").read_text())


def groups(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def as_pod(template: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **template}


def test_its_fields_are_kuberays_and_its_pods_are_kubernetes(job: dict[str, Any]) -> None:
    jsonschema.validate(job, RAY_JOB)
    for group in groups(job):
        kubernetes_validate.validate(as_pod(group["template"]), KUBERNETES, strict=True)


def test_a_misspelled_field_is_refused(job: dict[str, Any]) -> None:
    """The checks can fail: of KubeRay's part and of Kubernetes'."""
    pod = as_pod(groups(job)[1]["template"])
    pod["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replica"] = 2
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, RAY_JOB)


def test_ray_sees_the_gpus_of_the_workers_and_no_cpu_of_the_head(job: dict[str, Any]) -> None:
    cluster = {"metadata": {"name": "x", "namespace": "x"}, "spec": job["spec"]["rayClusterSpec"]}
    types = _derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["gpus"]["resources"] | {"CPU": 8, "GPU": 1} == types["gpus"]["resources"]
    assert types["gpus"]["min_workers"] == types["gpus"]["max_workers"] == 2
    ours, oldest = (
        tuple(map(int, text.split("."))) for text in (job["spec"]["rayClusterSpec"]["rayVersion"], "2.54.0")
    )
    assert ours >= oldest, "what pyproject.toml asks for, and KubeRay gives no token below 2.52"
    assert job["spec"]["rayClusterSpec"]["authOptions"]["mode"] == "token"


def test_every_pod_runs_as_the_images_user_and_sees_what_the_command_names(job: dict[str, Any]) -> None:
    dockerfile = (fake_sweeps.PROJECT / "Dockerfile").read_text()
    _, script, storage, _, *flags = job["spec"]["entrypoint"].split()
    arguments = make_parser().parse_args(flags)
    mounted = {storage, arguments.root, "/cache"}
    for group in groups(job):
        pod = group["template"]["spec"]
        assert f"USER {pod['securityContext']['runAsUser']}\n" in dockerfile
        (container,) = pod["containers"]
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == mounted
        assert {mount["name"] for mount in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    for path in (script, str(arguments.space)):
        inside = Path(path).relative_to("/app")
        assert (fake_sweeps.PROJECT / inside).is_file()
        assert f"COPY {inside.parts[0]} {inside.parts[0]}\n" in dockerfile


def test_the_image_caches_and_writes_where_it_is_told_to_mount(job: dict[str, Any]) -> None:
    lines = (fake_sweeps.PROJECT / "Dockerfile").read_text().splitlines()
    (volumes,) = [yaml.safe_load(line.partition(" ")[2]) for line in lines if line.startswith("VOLUME")]
    words = yaml.safe_load(next(line for line in lines if line.startswith("ENTRYPOINT")).partition(" ")[2])
    words += yaml.safe_load(next(line for line in lines if line.startswith("CMD")).partition(" ")[2])
    assert words[:3] == ["python", "-m", "sweep.run"]
    arguments = make_parser().parse_args(words[3:])
    assert volumes == ["/cache", arguments.storage]
    assert (fake_sweeps.PROJECT / arguments.space).is_file()
    assert "    TORCH_HOME=/cache/torch \\" in lines


def test_the_script_resumes_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)
    words = ["bash", str(TEMPLATES / "start_or_resume.sh"), str(tmp_path), "run", "--space", "a b.yaml"]

    def started() -> str:
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    assert started() == f"-m sweep.run --storage {tmp_path} --name run --space a b.yaml"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plan.json").write_text("{}")
    assert started().endswith("a b.yaml --resume")
