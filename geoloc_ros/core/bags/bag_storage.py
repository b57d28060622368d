# SPDX-License-Identifier: Apache-2.0
"""The files of a rosbag2 recording: which topics they hold and their messages, one at a time.

sqlite3 and MCAP, as a folder or a lone file, whole files or single messages compressed with zstd. What is there is
read whatever state the recording was left in: metadata.yaml is not needed, an MCAP file needs no index, and one that
ends in the middle or has a damaged chunk gives all other messages.
"""

import errno
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import zstandard
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

from geoloc_models.errors import GeolocError
from geoloc_ros.core.bags.bag_files import Topic, open_file, readable

SUFFIXES = (".mcap", ".db3")
PACKED = ".zstd"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
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


class BagStorage:
    """All files of a recording, in order."""

    def __init__(self, path: Path) -> None:
        """`path`: the folder, or one file of it (which then means the folder) or a file on its own.

        GeolocError where there is no bag, or one that cannot be read at all.
        """
        self.path = path
        self._unpacked: tempfile.TemporaryDirectory[str] | None = None
        files = [self._unpack(file) if file.suffix == PACKED else file for file in _storage_files(path)]
        self._files = [open_file(file) for file in files]
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
            with readable(self.path):
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
                with target.open("wb") as plain, readable(file):
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


def _united(topics: list[Topic]) -> list[Topic]:
    """Topics of several files, each once, by name."""
    united: dict[Topic, Topic] = {}
    for topic in topics:
        before = united.get(topic)
        united[topic] = replace(topic, count=topic.count + before.count) if before else topic
    return sorted(united.values(), key=lambda topic: topic.name)


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
