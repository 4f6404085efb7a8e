"""What the pages of a Parquet file unpack to, by their own headers.

A footer can say anything of sizes, and no reader holds the pages against it: of 34 kB whose footer promised 64 bytes
pyarrow 26 unpacked 1 GiB (tests/fairface_core/files/test_parquet_pages.py). A page's header cannot lie: a decoder makes
room for what it says, and refuses a page that holds anything else.

Source: Parquet's format, parquet.thrift (PageHeader), in Thrift's compact protocol.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

import pyarrow.parquet as pq

# Headers hold the least and the greatest value of their page, cut to some bytes by every writer.
_MAX_HEADER_BYTES = 2**16
_DELTA_BYTE_ARRAY = 7
_MAX_LEVELS = 4


def page_sizes(source: BinaryIO, metadata: pq.FileMetaData, columns: Collection[str]) -> Iterator[int]:
    """Yield the unpacked size of each page of some columns, bytes; nothing is unpacked.

    Args:
        source: The file; its position is moved.
        metadata: Its footer.
        columns: Paths in the schema, such as `image.bytes`.

    Raises:
        ValueError: A header cannot be read, or its values are told by the prefixes they share, which from a page of
            any size makes any number of bytes.
    """
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema in columns:
                at = min(column.data_page_offset, column.dictionary_page_offset or column.data_page_offset)
                yield from _chunk_pages(source, at, at + column.total_compressed_size)


def _chunk_pages(source: BinaryIO, at: int, end: int) -> Iterator[int]:
    while at < end:
        source.seek(at)
        reader = _Compact(source.read(_MAX_HEADER_BYTES))
        try:
            header = reader.struct()
            unpacked, packed = header[2], header[3]
            values: dict[int, Any] = next((header[field] for field in (5, 7, 8) if field in header), {})
            encoding = values.get(4 if 8 in header else 2)
        except (IndexError, KeyError, AttributeError) as error:
            raise ValueError("a page without a header that can be read") from error
        if unpacked < 0 or packed < 0:
            raise ValueError("a page of a negative size")
        if encoding == _DELTA_BYTE_ARRAY:
            raise ValueError("values told by the prefixes they share are not accepted")
        yield unpacked
        at += reader.at + packed


class _Compact:
    """Reads a struct of Thrift's compact protocol: field number -> value; of texts nothing is kept."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.at = 0

    def struct(self, levels: int = _MAX_LEVELS) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            fields[number] = self._value(head & 15, levels)
        return fields

    def _value(self, kind: int, levels: int) -> Any:
        if kind in (1, 2):  # true and false have no further byte
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._integer()
        if kind == 7:
            self.at += 8
            return 0
        if kind == 8:
            length = self._varint()
            self.at += length
            return 0
        if kind == 12 and levels:
            return self.struct(levels - 1)
        raise KeyError(kind)

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise KeyError("varint")

    def _byte(self) -> int:
        self.at += 1
        return self._raw[self.at - 1]
