"""Starts a Ray of our own on this machine, or joins a running cluster.

`prepare(address)` comes before anything imports ray: Ray reads its environment when it is imported. Then
`with connected(address) as cluster:` holds Ray for as long as the sweep runs and leaves no process behind.

Traps of Ray 2.60 that this module guards against (tests/sweep/cluster/test_cluster_network.py):

- GCS, raylet and workers listen on every interface, whatever `dashboard_host` and `_node_ip_address` say. With
  `RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0`, set before `import ray`, the node's own address is the loopback one. It must
  not be set when joining: this driver would then be 127.0.0.1 to other machines.
- `ray.init()` without an address joins whatever cluster it finds on this machine. Only `address="local"` starts one.
- The token that guards dashboard and Jobs API is written world-readable, and session folders under /tmp/ray are
  writable by everyone. Here the token is 0600 and the session lies in a private folder that is removed at the end.
- Token authentication is the default for `ray.init` since 2.60 alone; here it is asked for.
- Workers are started in advance, one a CPU, and never used: trials have an environment of their own.
- `ray.init` replaces the SIGTERM handler. Ours is installed after it (sweep/cluster/signals.py).
- `ray.init` that is interrupted forgets what it started, and a raylet's two agents outlive it by a minute.
- With 0 GPUs a worker still sees every GPU of its node; sweep/driving/worker.py hides them.
- 30 % of memory is reserved for an object store that a sweep does not use; a small /dev/shm makes it a screen of
  warnings. Ours has 100 MiB.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from fairface_core.errors import ConfigError
from fairface_core.machine.resources import local_cpus, local_gpus
from sweep.cluster.head_watch import greets
from sweep.cluster.owner_only import ensure_private_token, private_folder, token_hint
from sweep.cluster.ray_log import last_words

# Set for the life of this process. What a joined cluster's workers need of it is in WORKER_ENVIRONMENT.
DRIVER_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Also silences a warning; worker.py hides GPUs from trials without any.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Ray prints the death of a worker to the console even with log_to_driver=False; the driver tells it in its own words.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    # Our own loggers, handlers and tables do what Tune's would.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # How many trials wait is decided in placement.py; a limit here would hold back a small trial behind a big one.
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",
    # A worker that does not end when it is asked to is killed after this long.
    "TUNE_FORCE_TRIAL_CLEANUP_S": "60",
    # Tune's own state is never read back: once at the start is enough.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    # A trial's last report holds no metric when it says how the trial ended.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_THRESHOLD_S": "3600",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000000",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S_AUTOSCALER": "1000000000",
    # Under `uv run` Ray would send the working folder to itself and refuses one of more than 500 MiB.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
LOCAL_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}
# Lead a Ray of our own to somebody's cluster, or through somebody's code.
_FOREIGN = ("RAY_ADDRESS", "RAY_RUNTIME_ENV_HOOK", "RAY_NAMESPACE")
WORKER_ENVIRONMENT = {"RAY_CHDIR_TO_TRIAL_DIR": "0", "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0"}
OBJECT_STORE_BYTES = 100 * 2**20
# Set to 0: our own Ray is started without its dashboard.
NO_DASHBOARD = "FAIRFACE_DASHBOARD"
_KNOCK_S = 10.0
_MAX_CHARS = 500


@dataclass(frozen=True)
class Node:
    """One live machine of a cluster: what Ray may give away on it."""

    node_id: str
    address: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Cluster:
    """The Ray that this process is connected to.

    Attributes:
        joined: Whether it was there before us.
        address: Of its GCS.
        nodes: Its live machines.
        dashboard: URL of the dashboard, None where there is none.
        token_hint: How to get the token that the dashboard asks for.
    """

    joined: bool
    address: str
    nodes: tuple[Node, ...]
    dashboard: str | None
    token_hint: str

    @property
    def cpus(self) -> float:
        """CPUs in all."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs in all."""
        return sum(node.gpus for node in self.nodes)


def prepare(address: str | None) -> None:
    """Set what Ray reads from the environment. Call it before anything imports ray.

    Args:
        address: Of a cluster to join, `auto` for the one that this machine belongs to, or None to start one.

    Raises:
        ConfigError: If the address is one of Ray Client.
    """
    if address and "://" in address:
        raise ConfigError(
            f"{_named(address)}: Ray Client is not supported; accepted: HOST:PORT or auto, "
            "on a machine of the cluster (or submit the same command with `ray job submit`)"
        )
    os.environ.update(DRIVER_ENVIRONMENT)
    if address is None:
        os.environ.update(LOCAL_ENVIRONMENT)
        for name in _FOREIGN:
            os.environ.pop(name, None)
    else:
        for name in LOCAL_ENVIRONMENT.keys() - {"RAY_AUTH_MODE"}:
            os.environ.pop(name, None)
    if "ray" in sys.modules:
        # Imported earlier in this process, by a notebook or a test: the switches were read then.
        from ray._private import ray_constants
        from ray._raylet import Config  # type: ignore[attr-defined]

        ray_constants.ENABLE_RAY_CLUSTER = address is not None
        Config.initialize("")


@contextlib.contextmanager
def connected(
    address: str | None, *, num_cpus: float | None = None, num_gpus: float | None = None
) -> Iterator[Cluster]:
    """Start or join Ray, and let go of it at the end whatever happens.

    Args:
        address: As for `prepare`, which has been called.
        num_cpus: CPUs that Ray may give away; default: those of this machine. Not for a joined cluster.
        num_gpus: The same for GPUs. Tests give numbers that are not there.

    Raises:
        ConfigError: If the cluster cannot be joined or Ray does not start.
    """
    import ray

    warnings.filterwarnings("ignore", module=r"ray\..*")
    with contextlib.ExitStack() as stack:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        if address is None:
            session_dir = stack.enter_context(private_folder())
            ensure_private_token(session_dir.parent)
            stack.enter_context(_no_survivors(session_dir))
            options |= {
                "address": "local",
                "num_cpus": local_cpus() if num_cpus is None else num_cpus,
                "num_gpus": local_gpus() if num_gpus is None else num_gpus,
                "include_dashboard": _has_dashboard(),
                "dashboard_host": "127.0.0.1",
                "object_store_memory": OBJECT_STORE_BYTES,
                "_temp_dir": str(session_dir),
            }
        else:
            _knock(address)
            stack.callback(leave)
            options |= {"address": address, "runtime_env": {"env_vars": WORKER_ENVIRONMENT}}
        try:
            context = ray.init(**options)
        except Exception as error:
            # Not narrower: Ray 2.60 raises a bare Exception where a process of its own does not start.
            said = last_words(session_dir) if address is None else []
            raise ConfigError(_why_not(address, error, said)) from error
        for name in ("ray", "ray.tune", "ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        info = context.address_info  # type: ignore[attr-defined]  # Ray Client's context has none; ours is no client
        if address is None:
            _assert_loopback(info["node_ip_address"])
        url = context.dashboard_url
        yield Cluster(
            joined=address is not None,
            address=str(info["gcs_address"]),
            nodes=live_nodes(),
            dashboard=f"http://{url}" if url else None,
            token_hint=token_hint(),
        )


@contextlib.contextmanager
def _no_survivors(session_dir: Path) -> Iterator[None]:
    """End what is left of our own Ray at the end. An interrupted `ray.init` does not know what it had started."""
    try:
        yield
    finally:
        family = psutil.Process().children(recursive=True)
        leave()
        for process in family:
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if line.startswith("ray") or str(session_dir) in line:
                    process.kill()


def leave() -> None:
    """Let go of Ray now: our own ends with all its processes, a joined cluster ends our workers."""
    import ray

    ray.shutdown()


def this_machine() -> Node:
    """Return what a Ray of our own will have."""
    return Node("", "127.0.0.1", local_cpus(), local_gpus())


def live_nodes() -> tuple[Node, ...]:
    """Return the machines that are up, with what Ray may give away on each."""
    import ray

    return tuple(
        Node(
            node_id=node["NodeID"],
            address=node["NodeManagerAddress"],
            cpus=float(node["Resources"].get("CPU", 0)),
            gpus=float(node["Resources"].get("GPU", 0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    )


def on_every_node(function: Callable[..., Any], arguments: Sequence[Any], *, timeout_s: float) -> dict[Node, Any]:
    """Run a function once on each machine of the cluster, in a worker, and return what each said.

    A machine that does not answer in time, or whose worker cannot run the function, has the error as its answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = {}
    for node in live_nodes():
        here_only = NodeAffinitySchedulingStrategy(node_id=node.node_id, soft=False)
        asked[node] = task.options(scheduling_strategy=here_only).remote(*arguments)
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=timeout_s)
    answers: dict[Node, Any] = {}
    for node, reference in asked.items():
        try:
            answers[node] = ray.get(reference, timeout=0.1)
        except ray.exceptions.RayError as error:
            answers[node] = error
    return answers


def _has_dashboard() -> bool:
    """Whether there is one (`ray[tune]` alone has none) and it is wanted: it is half a dozen processes."""
    from importlib.util import find_spec

    return os.environ.get(NO_DASHBOARD) != "0" and all(
        find_spec(name) for name in ("aiohttp", "aiohttp_cors", "opencensus", "prometheus_client")
    )


def _assert_loopback(address: str) -> None:
    if not ipaddress.ip_address(address).is_loopback:
        raise ConfigError(
            f"Ray would listen on {address}, where others can reach it; "
            "import sweep before ray, or leave RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER at 0"
        )


def _knock(address: str) -> None:
    """Raise ConfigError if no Ray listens there; it would try for minutes, with a screen of warnings or none."""
    if address == "auto":
        return
    try:
        is_head = greets(address, timeout_s=_KNOCK_S) or os.environ.get("RAY_USE_TLS", "0") not in ("0", "")
    except (OSError, ValueError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(_why_not(address, ConnectionError(reason))) from error
    if not is_head:
        reason = (
            "what answers there is no Ray head: its port is 6379 if `ray start` named no other, 8265 the dashboard's"
        )
        raise ConfigError(_why_not(address, ConnectionError(reason)))


def _why_not(address: str | None, error: Exception, said: Sequence[str] = ()) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # Ray says what failed in the first line and why in the last one, behind a traceback of another process.
    reason = "; ".join(dict.fromkeys((lines[0], lines[-1][:_MAX_CHARS])))
    if address is None:
        return "; ".join([f"Ray does not start on this machine: {reason}", *said])
    own = "" if _typed(address) else "; unset RAY_ADDRESS, or give --address local, to start Ray on this machine"
    return (
        f"{_named(address)}: cannot join ({reason}); check `ray status` there, that this machine belongs to the "
        f"cluster, and that both have the same Ray and Python{own}"
    )


def _typed(address: str) -> bool:
    return os.environ.get("RAY_ADDRESS") != address


def _named(address: str) -> str:
    """Return what the user gave: nobody looks for a flag that was not typed."""
    return f"--address {address}" if _typed(address) else f"RAY_ADDRESS={address}"
