"""The same folder rules against an S3 server on this machine (moto's)."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fairface_core import fit, make_config
from fairface_core.errors import StorageError
from fairface_core.files.folder import Folder, open_folder, read_json, write_json
from fairface_core.trial.checkpoint import load_state, save_state

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    from pyarrow import fs

    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        options = f"scheme=http&endpoint_override={host}:{port}&region=us-east-1&allow_bucket_creation=true"
        filesystem, _ = fs.FileSystem.from_uri(f"s3://faces?{options}")
        filesystem.create_dir("faces")
        yield f"s3://faces/runs?{options}"
        server.stop()


@pytest.fixture
def folder(bucket: str, request: pytest.FixtureRequest) -> Folder:
    return open_folder(bucket).sub(request.node.name.replace("[", "-").replace("]", ""))


def test_write_read_names_link_remove(folder: Folder) -> None:
    assert folder.path() is None
    assert folder.names() == []
    folder.write("a", b"1")
    folder.write("a", lambda file: file.write(b"2"))
    folder.sub("below").write("c", b"3")
    folder.link("a", "b")
    folder.write("a", b"4")
    assert (folder.read("a"), folder.read("b")) == (b"4", b"2")
    assert folder.names() == ["a", "b", "below"]
    assert pickle.loads(pickle.dumps(folder)).read("b") == b"2"
    folder.remove("b")
    folder.remove("b")
    assert not folder.exists("b")
    with pytest.raises(FileNotFoundError):
        folder.read("b")
    write_json(folder, "x.json", {"a": 1})
    assert read_json(folder, "x.json") == {"a": 1}


def test_states_are_kept_two_deep(folder: Folder) -> None:
    digests = {"config_digest": "a", "data_digest": "b"}
    for epoch in (1, 2):
        save_state(folder, {**digests, "epoch": epoch})
    folder.write("state.pt", folder.read("state.pt")[:50])
    with pytest.warns(UserWarning, match="epoch 1"):
        assert load_state(folder, **digests)["epoch"] == 1


def test_a_store_that_refuses_is_named(bucket: str) -> None:
    absent = open_folder(
        bucket.replace("s3://faces/", "s3://no-such-bucket/").replace("&allow_bucket_creation=true", "")
    )
    with pytest.raises(StorageError, match="cannot write s3://no-such-bucket/runs"):
        absent.write("a", b"1")
    with pytest.raises(StorageError, match=r"cannot open s3://faces/x.*: .*no_such_option"):
        open_folder("s3://faces/x?no_such_option=1").write("a", b"1")


def test_a_run_on_the_store_equals_one_on_disk_and_resumes(folder: Folder, demo_root: Path, tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "root": str(demo_root), "backbone": "mobilenet_v3_small", "weights": "none", "image_size": 32, "epochs": 2,
        "batch_size": 16, "limit_train": 48, "limit_val": 60, "device": "cpu", "results_csv": None, "seed": 3,
    }  # fmt: skip

    class Stop(BaseException):
        pass

    def stop(_: object) -> None:
        raise Stop

    fit(make_config({**values, "out_dir": str(tmp_path)}))
    with pytest.raises(Stop):
        fit(make_config({**values, "out_dir": folder.uri}), on_epoch=stop)
    fit(make_config({**values, "out_dir": folder.uri, "resume": True}))
    for name in ("best.pt", "best_mobilenet_v3_small_seed3.pt", "confusion_matrix_age.csv"):
        assert folder.read(name) == (tmp_path / name).read_bytes(), name
    assert {"state.pt", "report.json", "predictions.parquet", "status.json", "history.csv"} <= set(folder.names())
