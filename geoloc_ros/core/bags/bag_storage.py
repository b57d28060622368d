# SPDX-License-Identifier: Apache-2.0
"""The files of a rosbag2 recording: which topics they hold and their messages, one at a time.

sqlite3 and MCAP, as a folder or a lone file, whole files or single messages compressed with zstd. What is there is
read whatever state the recording was left in: metadata.yaml is not needed, and an MCAP file that ends in the middle
gives all messages before its end.
"""

import errno
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import zstandard
from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader
from rosbags.interfaces import MessageDefinitionFormat
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

from geoloc_models.errors import GeolocError

SUFFIXES = (".mcap", ".db3")
PACKED = ".zstd"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MAX_RECORD_BYTES = 2**28
"""A longer record in a damaged file is a length that was misread."""
_COPY_BYTES = 2**22
_NUMBER = re.compile(r"_?\d+(?=\.(mcap|db3))")
"""What rosbag2 appends to the name of a recording's part."""

_KNOWN = get_typestore(Stores.ROS2_HUMBLE)
"""For bags of Humble's sqlite3 plug-in, which hold no definitions."""

_PX4_DEFINITIONS = {
    "px4_msgs/msg/VehicleAttitude": "uint64 timestamp\nuint64 timestamp_sample\nfloat32[4] q\n"
    "float32[4] delta_q_reset\nuint8 quat_reset_counter\n"
}
"""The same for messages of PX4 that never changed."""


@dataclass(frozen=True)
class Topic:
    """A topic of one type; `definition` is the text of the type as (format, text), empty where the bag has none."""

    name: str
    msgtype: str
    count: int = field(compare=False)
    definition: tuple[str, str] = field(default=("", ""), compare=False, repr=False)


class _File(Protocol):
    """One storage file."""

    topics: list[Topic]
    ends_early: str

    def messages(self, topics: Collection[Topic], start_ns: int | None) -> Iterator[tuple[Topic, int, bytes]]:
        """Messages of these topics, recorded at `start_ns` or later, with their time of recording, ns."""


class BagStorage:
    """All files of a recording, in order."""

    def __init__(self, path: Path) -> None:
        """`path`: the folder, or one file of it (which then means the folder) or a file on its own.

        GeolocError where there is no bag, or one that cannot be read at all.
        """
        self.path = path
        self._unpacked: tempfile.TemporaryDirectory[str] | None = None
        files = [self._unpack(file) if file.suffix == PACKED else file for file in _storage_files(path)]
        self._files = [_open(file) for file in files]
        self.topics = _united([topic for file in self._files for topic in file.topics])
        self.ends_early = " ".join(file.ends_early for file in self._files if file.ends_early)
        self._decoders: dict[str, Callable[[bytes], Any]] = {}

    @property
    def size_bytes(self) -> int:
        """Of the files as they are on disk."""
        return sum(file.stat().st_size for file in _storage_files(self.path))

    def messages(self, topics: Collection[Topic], start_ns: int | None = None) -> Iterator[tuple[Topic, int, bytes]]:
        """(topic, time of recording in ns, CDR bytes) of these topics, in the order of recording within each file.

        start_ns leaves out what was recorded before. One iteration at a time. GeolocError where a file is damaged.
        """
        for file in self._files:
            with _readable(self.path):
                for topic, recorded_ns, raw in file.messages(topics, start_ns):
                    packed = raw[:4] == _ZSTD_MAGIC  # CDR begins otherwise
                    yield topic, recorded_ns, _unpacked(raw) if packed else raw

    def decode(self, topic: Topic, raw: bytes) -> Any:
        """The message in these bytes; GeolocError where they or the type's definition make none."""
        if topic.msgtype not in self._decoders:
            self._decoders[topic.msgtype] = _decoder(topic)
        try:
            return self._decoders[topic.msgtype](raw)
        except Exception as error:  # the generated code fails in as many ways as there are wrong bytes
            raise GeolocError(
                f"a message of {topic.name} is no {topic.msgtype} ({error}); record the topic again, "
                "with the message package sourced that its publisher was built with"
            ) from None

    def _unpack(self, file: Path) -> Path:
        """Unpack a compressed file to the disk of temporary files: reading needs any place of it."""
        if self._unpacked is None:
            self._unpacked = tempfile.TemporaryDirectory(prefix="geoloc-bag-")
        target = Path(self._unpacked.name, file.stem)
        with file.open("rb") as packed:
            size = zstandard.frame_content_size(packed.read(18))
            packed.seek(0)
            free = shutil.disk_usage(target.parent).free
            if size > free:
                raise _disk_full(file, size, free)
            try:
                with target.open("wb") as plain, _readable(file):
                    zstandard.ZstdDecompressor().copy_stream(packed, plain, write_size=_COPY_BYTES)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                raise _disk_full(file, size, free) from None
        return target


def _unpacked(raw: bytes) -> bytes:
    # Unlike ZstdDecompressor.decompress, this does not need the size in the frame's header.
    return zstandard.ZstdDecompressor().decompressobj().decompress(raw)


def _disk_full(file: Path, size: int, free: int) -> GeolocError:
    needed = f"{size / 1e9:.1f} GB" if size > 0 else "more"
    return GeolocError(
        f"{file} unpacks to {needed}, but {tempfile.gettempdir()} has {free / 1e9:.1f} GB free; "
        "set TMPDIR to a folder with more room"
    )


def is_bag(path: Path) -> bool:
    """Whether something lies there that was meant as a bag, readable or not."""
    if path.is_dir():
        return bool(_in_folder(path))
    return path.is_file() and (_is_storage(path) or path.suffix == ".bag")


def _storage_files(path: Path) -> list[Path]:
    """The recording's files in their order; GeolocError if there is none."""
    if path.is_file() and _is_storage(path):
        beside = _in_folder(path.parent) if (path.parent / "metadata.yaml").is_file() else []
        return beside or [path]
    files = _in_folder(path) if path.is_dir() else []
    if path.suffix == ".bag":
        raise GeolocError(f"{path} is a bag of ROS 1; `rosbags-convert` makes a rosbag2 of it")
    if not files:
        raise GeolocError(f"{path} is no rosbag2; give a folder with .mcap or .db3 files, or such a file on its own")
    if not (path / "metadata.yaml").is_file() and len({_NUMBER.sub("", file.name) for file in files}) > 1:
        raise GeolocError(f"{path} holds several recordings ({files[0].name}, {files[1].name}, …); name one of them")
    return files


def _is_storage(file: Path) -> bool:
    return file.suffix in SUFFIXES or (file.suffix == PACKED and Path(file.stem).suffix in SUFFIXES)


def _in_folder(folder: Path) -> list[Path]:
    # rosbag2 numbers the parts of a recording: bag_10 comes after bag_9.
    return sorted(
        (file for file in folder.iterdir() if _is_storage(file)),
        key=lambda file: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)],
    )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever the libraries make of damaged bytes ends in one sentence."""
    try:
        yield
    except (GeolocError, OSError):
        raise
    except Exception as error:
        remedy = "`mcap recover`" if path.suffix == ".mcap" else "`ros2 bag reindex` or a new copy of the file"
        raise GeolocError(f"bag {path} cannot be read: {error}; try {remedy}") from None


def _open(file: Path) -> _File:
    try:
        with _readable(file):
            return _WholeFile(file)
    except GeolocError:
        if file.suffix != ".mcap" or not (cut := _CutMcap(file)).topics:
            raise
        return cut


def _united(topics: list[Topic]) -> list[Topic]:
    """Topics of several files, each once, by name."""
    united: dict[Topic, Topic] = {}
    for topic in topics:
        before = united.get(topic)
        united[topic] = replace(topic, count=topic.count + before.count) if before else topic
    return sorted(united.values(), key=lambda topic: topic.name)


class _WholeFile:
    """A file with its index, read by rosbags."""

    ends_early = ""

    def __init__(self, file: Path) -> None:
        if file.suffix == ".db3" and (wal := file.with_name(file.name + "-wal")).is_file() and wal.stat().st_size:
            raise GeolocError(
                f"{file} was not closed by its recorder; run `sqlite3 {file} 'PRAGMA wal_checkpoint(TRUNCATE)'`"
            )
        self._reader = Reader(file)
        self._reader.open()
        self._topics = {connection.id: _topic(connection) for connection in self._reader.connections}
        self.topics = [topic for topic in self._topics.values() if topic.count]

    def messages(self, topics: Collection[Topic], start_ns: int | None) -> Iterator[tuple[Topic, int, bytes]]:
        wanted = [c for c in self._reader.connections if self._topics[c.id] in topics]
        if wanted:
            for connection, recorded_ns, raw in self._reader.messages(wanted, start=start_ns):
                yield self._topics[connection.id], recorded_ns, bytes(raw)


def _topic(connection: Any) -> Topic:
    text = connection.msgdef
    form = {MessageDefinitionFormat.MSG: "msg", MessageDefinitionFormat.IDL: "idl"}.get(text.format, "")
    return Topic(connection.topic, connection.msgtype, connection.msgcount, (form, text.data))


class _CutMcap:
    """An MCAP file without its end, and so without an index: read from the start, as often as need be."""

    def __init__(self, file: Path) -> None:
        self._file = file
        counts: dict[Topic, int] = {}
        first_ns = last_ns = 0
        for topic, recorded_ns, _ in self.messages(None, None):
            counts[topic] = counts.get(topic, 0) + 1
            first_ns, last_ns = first_ns or recorded_ns, recorded_ns
        self.topics = [replace(topic, count=count) for topic, count in counts.items()]
        self.ends_early = (
            f"{file.name} is cut off {(last_ns - first_ns) * 1e-9:.1f} s after its first message, and "
            f"{sum(counts.values())} messages can be read; `mcap recover` makes a whole file of them."
        )

    def messages(self, topics: Collection[Topic] | None, start_ns: int | None) -> Iterator[tuple[Topic, int, bytes]]:
        schemas: dict[int, Schema] = {}
        channels: dict[int, Topic] = {}
        with self._file.open("rb") as stream:
            records = StreamReader(stream, record_size_limit=_MAX_RECORD_BYTES).records
            while (record := _next_record(records)) is not None:
                if isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    schema = schemas.get(record.schema_id)
                    if schema is not None:
                        form = {"ros2msg": "msg", "ros2idl": "idl"}.get(schema.encoding, "")
                        text = schema.data.decode("utf-8", "replace")
                        channels[record.id] = Topic(record.topic, schema.name, 0, (form, text))
                elif isinstance(record, Message) and record.channel_id in channels:
                    topic = channels[record.channel_id]
                    if (topics is None or topic in topics) and record.log_time >= (start_ns or 0):
                        yield topic, record.log_time, record.data


def _next_record(records: Iterator[Any]) -> Any | None:
    """The next whole record, None at the end or where the file breaks off."""
    try:
        return next(records, None)
    except Exception:  # half a record fails in as many ways as it can be cut
        return None


def _decoder(topic: Topic) -> Callable[[bytes], Any]:
    """What turns bytes into a message of the topic's type, by the bag's own definition of it where there is one.

    Each type gets a store of its own, so that a definition that is broken or disagrees with others hurts no other type.
    """
    form, text = topic.definition
    if not text.strip():
        if topic.msgtype in _KNOWN.types:
            return lambda raw: _KNOWN.deserialize_cdr(raw, topic.msgtype)
        form, text = "msg", _PX4_DEFINITIONS.get(topic.msgtype, "")
    if not text:
        raise GeolocError(
            f"the bag does not hold the definition of {topic.msgtype} ({topic.name}); record as MCAP with its package "
            "sourced, or choose another topic with --topic"
        )
    store = get_typestore(Stores.EMPTY)
    try:
        if form == "msg":
            store.register(get_types_from_msg(text, topic.msgtype))
        else:
            separator = "=" * 80 + "\n"
            for part in text.split(separator):
                store.register(get_types_from_idl(part.split("\n", 1)[1] if part.startswith("IDL: ") else part))
    except Exception as error:
        raise GeolocError(
            f"the bag's definition of {topic.msgtype} ({topic.name}) cannot be parsed ({error}); "
            "choose another topic with --topic"
        ) from None
    return lambda raw: store.deserialize_cdr(raw, topic.msgtype)
