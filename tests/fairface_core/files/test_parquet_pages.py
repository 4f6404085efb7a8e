"""A Parquet file whose footer lies about its size is refused before anything of it is unpacked."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fairface_core.dataset.sources.parquet import ParquetData, _Shard
from fairface_core.errors import DataError
from fairface_core.files.folder import open_folder
from fairface_core.files.parquet_pages import page_sizes
from fairface_core.trial.stored import read_stored
from sweep.results.predictions import read_scored
from sweep.run_folder.records import read_run
from tests.sweep.results.test_benchmark import trial_folders
from tests.sweep.run_folders import Shape, make_run

HUGE = 2**26
# What the readers accept, for tests: texts of 4 MiB are too large.
MOST_BYTES = 2**21


def parquet(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def sizes(raw: bytes, columns: list[str]) -> list[int]:
    return list(page_sizes(io.BytesIO(raw), pq.read_metadata(io.BytesIO(raw)), columns))


def varint(value: int, length: int) -> bytes:
    """Zigzag as Thrift writes it, drawn out to a length: readers take it all the same."""
    value *= 2
    return bytes((value >> 7 * at & 127) | (128 if at < length - 1 else 0) for at in range(length))


def lying(raw: bytes) -> bytes:
    """The same file, whose footer promises 64 bytes where a column unpacks to more than a MiB."""
    footer = int.from_bytes(raw[-8:-4], "little")
    body, end = raw[: -8 - footer], raw[-8 - footer :]
    metadata = pq.read_metadata(io.BytesIO(raw))
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for size in [
            group.total_byte_size,
            *(group.column(k).total_uncompressed_size for k in range(group.num_columns)),
        ]:
            if size > 2**20:
                length = -(-(2 * size).bit_length() // 7)
                end = end.replace(varint(size, length), varint(64, length))
    told = pq.read_metadata(io.BytesIO(body + end))
    assert max(told.row_group(0).column(k).total_uncompressed_size for k in range(told.num_columns)) < 2**20
    return body + end


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [False, True])
def test_the_pages_add_up_to_what_an_honest_footer_says(compression: str, version: str, dictionary: bool) -> None:
    rng = np.random.default_rng(0)
    columns = {
        "number": pa.array(rng.integers(0, 9, 5000)),
        "score": pa.array(rng.normal(size=5000).astype(np.float32)),
        "text": pa.array([f"image {n}.jpg" if n % 7 else None for n in range(5000)]),
        "image": pa.array([{"bytes": bytes([n % 256]) * 300, "path": str(n)} for n in range(5000)]),
    }
    raw = parquet(pa.table(columns), compression=compression, data_page_version=version, use_dictionary=dictionary,
                  row_group_size=2000, data_page_size=4096)  # fmt: skip
    metadata = pq.read_metadata(io.BytesIO(raw))
    for name in ("number", "score", "text", "image.bytes", "image.path"):
        chunks = [group.column(k) for group in map(metadata.row_group, range(metadata.num_row_groups))
                  for k in range(group.num_columns) if group.column(k).path_in_schema == name]  # fmt: skip
        told = sum(chunk.total_uncompressed_size for chunk in chunks)
        found = sizes(raw, [name])
        # The footer counts the headers too, each with the least and the greatest value of its page.
        assert len(found) >= 3 and 0 < told - sum(found) < 1500 * len(found)


def test_a_lie_does_not_help_and_nothing_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    path.write_bytes(lying(parquet(pa.table({"csv": ["x" * HUGE]}), compression="zstd", use_dictionary=False)))
    assert path.stat().st_size < 100_000
    code = (
        "import io, resource, sys, pyarrow.parquet as pq\n"
        "from fairface_core.files.parquet_pages import page_sizes\n"
        "raw = open(sys.argv[1], 'rb').read()\n"
        "metadata = pq.read_metadata(io.BytesIO(raw))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "found = sum(page_sizes(io.BytesIO(raw), metadata, ['csv']))\n"
        "print(found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    found, grown_kib = map(int, done.stdout.split())
    assert found > HUGE
    assert grown_kib < 20_000


def test_prefixes_and_damaged_headers_are_refused() -> None:
    table = pa.table({"file": [f"a long name that all share {n}" for n in range(50)]})
    raw = parquet(table, use_dictionary=False, column_encoding={"file": "DELTA_BYTE_ARRAY"})
    with pytest.raises(ValueError, match="prefixes"):
        sizes(raw, ["file"])
    raw = parquet(table, use_dictionary=False)
    for broken in (
        raw[:4] + b"\xff" * 40 + raw[44:],
        raw[:4] + b"\x15\x00\x15\x01" + raw[8:],
        raw[:4] + b"\0" * 60 + raw[64:],
    ):
        with pytest.raises(ValueError, match="a page"):
            sizes(broken, ["file"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = Shape(spaces={"resnet50": (3e-4,)}, seeds=(1,), epochs=3, num_val=60, num_test=40, asha=False)
    return make_run(tmp_path_factory.mktemp("bombs") / "run", shape)


def bombed(table: pa.Table, column: str) -> bytes:
    """The table with a text of 4 MiB in its first row."""
    texts = table[column].cast(pa.string()).to_pylist()
    texts[0] = "x" * 2**22
    table = table.set_column(table.column_names.index(column), column, pa.array(texts))
    return lying(parquet(table, compression="zstd", use_dictionary=False))


@pytest.mark.parametrize("column", ["csv", "file"])
def test_a_run_folder_with_such_a_file_is_reported_on(run: Path, column: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.results.predictions._MAX_BYTES", MOST_BYTES)
    monkeypatch.setattr("fairface_core.trial.stored._MAX_COLUMN_BYTES", MOST_BYTES)
    (trial,) = trial_folders(run)
    path = trial / "predictions.parquet"
    honest = path.read_bytes()
    try:
        path.write_bytes(bombed(pq.read_table(path), column))
        told = read_run(open_folder(run))
        if column == "csv":
            assert str(read_scored(told, told.records[0])).startswith("predictions.parquet: pages of 4,20")
        else:
            assert "larger than" in str(read_stored(open_folder(trial), "test"))
    finally:
        path.write_bytes(honest)


def test_a_footer_that_promises_too_much_is_refused_too(run: Path) -> None:
    """The other way round: small data, and a footer of many rows or bytes, for which a reader would make room."""
    (trial,) = trial_folders(run)
    path = trial / "predictions.parquet"
    honest = path.read_bytes()
    table = pq.read_table(path)
    rows = pa.concat_tables([table] * (2_000_000 // len(table) + 1))
    try:
        path.write_bytes(parquet(rows, compression="zstd"))
        told = read_run(open_folder(run))
        assert "rows, accepted up to 2,000,000" in str(read_scored(told, told.records[0]))
    finally:
        path.write_bytes(honest)


def test_a_data_set_of_such_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_MAX_TEXT_BYTES", "_MAX_PAGE_BYTES"):
        monkeypatch.setattr(f"fairface_core.dataset.sources.parquet.{name}", MOST_BYTES)
    labels = {"age": ["0-2"], "gender": ["Male"]}
    for changes, words in (
        ({"age": ["x" * 2**22]}, "labels and names of more than 2 MiB"),
        ({"image": [b"x" * 2**22]}, "pages of images of more than 2 MiB"),
    ):
        path = tmp_path / "train.parquet"
        path.write_bytes(
            lying(parquet(pa.table({"image": [b"x"], **labels, **changes}), compression="zstd", use_dictionary=False))
        )
        with pytest.raises(DataError, match=words):
            _Shard(path, ParquetData(tmp_path, tmp_path, {"train": [path], "val": []}))
