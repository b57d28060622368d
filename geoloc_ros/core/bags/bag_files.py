# SPDX-License-Identifier: Apache-2.0
"""Single files of a rosbag2 recording: their topics and messages, by the file's index or without one."""

import itertools
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from mcap.opcode import Opcode
from mcap.reader import make_reader
from mcap.records import Channel, Chunk, Footer, Message, Schema
from mcap.stream_reader import StreamReader, breakup_chunk
from rosbags.interfaces import MessageDefinitionFormat
from rosbags.rosbag2 import Reader

from geoloc_models.errors import GeolocError

_MAX_RECORD_BYTES = 2**28
"""A longer record in a damaged file is a length that was misread."""
_MAGIC_BYTES, _RECORD_HEAD_BYTES = 8, 9
"""At the start of an MCAP file, and of each record: opcode and length."""


@dataclass(frozen=True)
class Topic:
    """A topic of one type; `definition` is the text of the type as (format, text), empty where the bag has none."""

    name: str
    msgtype: str
    count: int = field(compare=False)
    definition: tuple[str, str] = field(default=("", ""), compare=False, repr=False)


class StorageFile(Protocol):
    """One storage file."""

    topics: list[Topic]
    ends_early: str

    def messages(self, topics: Collection[Topic], start_ns: int | None) -> Iterator[tuple[Topic, int, bytes]]:
        """Messages of these topics, recorded at `start_ns` or later, with their time of recording, ns."""


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever the libraries make of damaged bytes ends in one sentence."""
    try:
        yield
    except (GeolocError, OSError):
        raise
    except Exception as error:
        remedy = "`mcap recover`" if path.suffix == ".mcap" else "`ros2 bag reindex` or a new copy of the file"
        raise GeolocError(f"bag {path} cannot be read: {error}; try {remedy}") from None


def open_file(file: Path) -> StorageFile:
    """The file by its index if that is whole, else by a scan; GeolocError if it holds nothing that can be read."""
    try:
        with readable(file):
            whole = _IndexedFile(file)
            if whole.is_complete:
                return whole
            whole.close()
    except GeolocError:
        if file.suffix != ".mcap":
            raise
        scanned = _ScannedMcap(file)
        if not scanned.topics:
            if scanned.foreign:
                raise GeolocError(f"{file}: {scanned.foreign}; record the topics with `ros2 bag record`") from None
            raise
        return scanned
    return _ScannedMcap(file)


def _refuse_ros1(file: Path, encodings: Collection[str]) -> None:
    if any(encoding.startswith("ros1") for encoding in encodings):
        raise GeolocError(
            f"{file} holds ROS 1 messages; make a rosbag2 of the bag that it came from with `rosbags-convert --src "
            "FILE.bag --dst FOLDER`"
        )


class _IndexedFile:
    """A file with its index, read by rosbags."""

    ends_early = ""

    def __init__(self, file: Path) -> None:
        if file.suffix == ".db3" and (wal := file.with_name(file.name + "-wal")).is_file() and wal.stat().st_size:
            raise GeolocError(
                f"{file} was not closed by its recorder; run `sqlite3 {file} 'PRAGMA wal_checkpoint(TRUNCATE)'`"
            )
        self._file = file
        self._reader = Reader(file)
        self._reader.open()
        _refuse_ros1(file, {c.ext.serialization_format for c in self._reader.connections})
        self._topics = {
            connection.id: _topic(connection)
            for connection in self._reader.connections
            if connection.ext.serialization_format == "cdr"
        }
        self.topics = [topic for topic in self._topics.values() if topic.count]

    @property
    def is_complete(self) -> bool:
        """Whether the index names all messages. One that does not would hide messages of a whole file."""
        return self._file.suffix != ".mcap" or _is_fully_indexed(self._file)

    def close(self) -> None:
        """Let go of the file."""
        self._reader.close()

    def messages(self, topics: Collection[Topic], start_ns: int | None) -> Iterator[tuple[Topic, int, bytes]]:
        wanted = [c for c in self._reader.connections if self._topics.get(c.id) in topics]
        if wanted:
            for connection, recorded_ns, raw in self._reader.messages(wanted, start=start_ns):
                yield self._topics[connection.id], recorded_ns, bytes(raw)


def _is_fully_indexed(file: Path) -> bool:
    """Whether the summary of an MCAP file lists all chunks, and for each of them all messages.

    Only lengths of records are read, not the chunks.
    """
    with file.open("rb") as stream:
        summary = make_reader(stream).get_summary()
        if summary is None or summary.statistics is None:
            return False
        listed = {chunk.chunk_start_offset for chunk in summary.chunk_indexes}
        # A message index has 15 bytes of its own and 16 a message.
        indexed = 0
        for chunk in summary.chunk_indexes:
            end = chunk.chunk_start_offset + chunk.chunk_length + chunk.message_index_length
            starts = [*sorted(chunk.message_index_offsets.values()), end]
            indexed += sum((after - start - 15) // 16 for start, after in itertools.pairwise(starts))
        if indexed != summary.statistics.message_count:
            return False
        stream.seek(_MAGIC_BYTES)
        while (head := stream.read(_RECORD_HEAD_BYTES)) and head[0] != Opcode.DATA_END:
            if head[0] == Opcode.MESSAGE:
                return False
            if head[0] == Opcode.CHUNK and stream.tell() - _RECORD_HEAD_BYTES not in listed:
                return False
            stream.seek(int.from_bytes(head[1:], "little"), os.SEEK_CUR)
    return True


def _topic(connection: Any) -> Topic:
    text = connection.msgdef
    form = {MessageDefinitionFormat.MSG: "msg", MessageDefinitionFormat.IDL: "idl"}.get(text.format, "")
    return Topic(connection.topic, connection.msgtype, connection.msgcount, (form, text.data))


class _ScannedMcap:
    """An MCAP file whose index is missing, as in one that was cut off, or not to be relied on: read from the start."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._is_whole = False
        self._chunks = self._damaged = 0
        self._foreign: dict[str, str] = {}
        counts: dict[Topic, int] = {}
        first_ns = last_ns = 0
        for topic, recorded_ns, _ in self.messages(None, None):
            counts[topic] = counts.get(topic, 0) + 1
            first_ns, last_ns = first_ns or recorded_ns, recorded_ns
        self.topics = [replace(topic, count=count) for topic, count in counts.items()]
        remarks = []
        if not self._is_whole:
            remarks.append(
                f"{file.name} is cut off {(last_ns - first_ns) * 1e-9:.1f} s after its first message, and "
                f"{sum(counts.values())} messages can be read; `mcap recover` makes a whole file of them."
            )
        if self._damaged:
            remarks.append(
                f"{self._damaged} of {self._chunks} chunks of {file.name} are damaged and left out; copy the file "
                "again, or make a whole one of the rest with `mcap recover`."
            )
        if self._foreign:
            remarks.append(f"{self.foreign}, and left out.")
        self.ends_early = " ".join(remarks)

    @property
    def foreign(self) -> str:
        """Which topics are of no ROS 2; empty if there are none."""
        topics = ", ".join(f"{name} ({encoding or 'nameless'})" for name, encoding in self._foreign.items())
        return f"topics of other encodings than ROS 2's CDR: {topics}" if topics else ""

    def messages(self, topics: Collection[Topic] | None, start_ns: int | None) -> Iterator[tuple[Topic, int, bytes]]:
        schemas: dict[int, Schema] = {}
        channels: dict[int, Topic] = {}
        for record in self._records():
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Channel):
                _refuse_ros1(self._file, [record.message_encoding])
                schema = schemas.get(record.schema_id)
                if record.message_encoding != "cdr":
                    self._foreign[record.topic] = record.message_encoding
                elif schema is not None:
                    form = {"ros2msg": "msg", "ros2idl": "idl"}.get(schema.encoding, "")
                    text = schema.data.decode("utf-8", "replace")
                    channels[record.id] = Topic(record.topic, schema.name, 0, (form, text))
            elif isinstance(record, Message) and record.channel_id in channels:
                topic = channels[record.channel_id]
                if (topics is None or topic in topics) and record.log_time >= (start_ns or 0):
                    yield topic, record.log_time, record.data

    def _records(self) -> Iterator[Any]:
        """All records as far as the file can be read, those of chunks too; it notes how far that was."""
        self._chunks = self._damaged = 0
        with self._file.open("rb") as stream:
            records = StreamReader(stream, emit_chunks=True, record_size_limit=_MAX_RECORD_BYTES).records
            while (record := _next_record(records)) is not None:
                if not isinstance(record, Chunk):
                    self._is_whole |= isinstance(record, Footer)
                    yield record
                    continue
                self._chunks += 1
                try:
                    inner = breakup_chunk(record, validate_crc=True)
                except Exception:  # compression libraries fail in ways of their own
                    self._damaged += 1
                    continue
                yield from inner


def _next_record(records: Iterator[Any]) -> Any | None:
    """The next whole record, None at the end or where the file breaks off."""
    try:
        return next(records, None)
    except Exception:  # half a record fails in as many ways as it can be cut
        return None
