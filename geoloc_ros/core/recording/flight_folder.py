# SPDX-License-Identifier: Apache-2.0
"""The flight folder: images with their poses, the camera and a map.

    flight.csv    file, stamp_s, latitude_deg, longitude_deg, height_above_ground_m, qx, qy, qz, qw
    camera.yaml   pinhole and distortion as in sensor_msgs/CameraInfo
    frames/       the images that flight.csv names
    map.tif       any raster that GDAL reads and that has a CRS

Position is the camera's; the quaternion turns the optical frame (x right, y down, z forward) into local ENU.
"""

import csv
import itertools
import math
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.rotations import quaternion_from_rotation, rotation_from_quaternion
from geoloc_ros.core.recording.frame import Frame, Truth
from geoloc_ros.core.recording.images import JPEG_MAGIC, decode_compressed

COLUMNS = ("file", "stamp_s", "latitude_deg", "longitude_deg", "height_above_ground_m", "qx", "qy", "qz", "qw")


@dataclass(frozen=True)
class _Row:
    """One line of flight.csv."""

    file: str
    stamp_s: float
    truth: Truth
    quaternion: tuple[float, float, float, float]


class Flight:
    """A flight folder, read frame by frame."""

    def __init__(self, folder: Path, camera: CameraModel, rows: list[_Row]) -> None:
        self.path = folder
        self.camera = camera
        self._rows = rows

    @classmethod
    def open(cls, folder: str | Path) -> "Flight":
        """Read camera.yaml and flight.csv; GeolocError if either is missing or malformed."""
        folder = Path(folder)
        if not folder.is_dir():
            raise GeolocError(f"no flight folder at {folder}; give a folder with flight.csv and camera.yaml")
        rows = _read_rows(folder / "flight.csv")
        return cls(folder, CameraModel.from_yaml(folder / "camera.yaml"), rows)

    @property
    def map_path(self) -> Path:
        """The flight's own map; GeolocError if it has none."""
        path = self.path / "map.tif"
        if not path.exists():
            raise GeolocError(f"{self.path} has no map.tif; add one or name another map")
        return path

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Frame:
        row = self._rows[index]
        problem = ""
        image, encoded = None, None
        try:
            encoded = (self.path / "frames" / row.file).read_bytes()
            image = decode_compressed(encoded)
        except OSError as error:
            problem = f"frames/{row.file} cannot be read: {error.strerror}"
        except GeolocError as error:
            problem = f"frames/{row.file}: {error}"
        rotation = np.full((3, 3), np.nan)
        try:
            rotation = rotation_from_quaternion(*row.quaternion)
        except GeolocError as error:
            problem = problem or str(error)
        return Frame(
            image=image,
            stamp_s=row.stamp_s,
            rotation_enu_from_optical=rotation,
            height_m=row.truth.height_above_ground_m,
            camera=self.camera,
            truth=row.truth,
            problem=problem,
            encoded=encoded if image is not None else None,
            quaternion=row.quaternion,
        )

    def __iter__(self) -> Iterator[Frame]:
        return self.frames(0, len(self))

    def frames(self, first: int, stop: int) -> Iterator[Frame]:
        """Frames `first` to `stop` - 1."""
        return (self[index] for index in range(first, stop))

    def stamp_s(self, index: int) -> float:
        """A frame's time without reading its image."""
        return self._rows[index].stamp_s

    def truth(self, index: int) -> Truth:
        """A frame's true place without reading its image."""
        return self._rows[index].truth


def _read_rows(path: Path) -> list[_Row]:
    """All lines of flight.csv; GeolocError names the file, the line and the column at fault."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise GeolocError(f"{path} lacks the column(s) {', '.join(missing)}; it needs {', '.join(COLUMNS)}")
            rows = [_parse_row(path, reader.line_num, line) for line in reader]
    except OSError as error:
        raise GeolocError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise GeolocError(f"{path} is not a CSV text file: {error}") from None
    if not rows:
        raise GeolocError(f"{path} lists no frames")
    for row, after in itertools.pairwise(rows):
        if after.stamp_s < row.stamp_s:
            raise GeolocError(
                f"{path}: {after.file} of {after.stamp_s} s comes after {row.stamp_s} s; sort the lines by stamp_s"
            )
    return rows


def _parse_row(path: Path, line: int, values: dict[str, str]) -> _Row:
    def number(name: str) -> float:
        try:
            return float(values[name])
        except (TypeError, ValueError):
            raise GeolocError(f"{path} line {line}: {name} is '{values[name]}', not a number") from None

    stamp_s, lat_deg, lon_deg, height_m, qx, qy, qz, qw = (number(name) for name in COLUMNS[1:])
    # A frame without attitude or height can be skipped; one without time or place has no use at all.
    if not (math.isfinite(stamp_s) and math.isfinite(lat_deg) and math.isfinite(lon_deg)):
        raise GeolocError(
            f"{path} line {line}: stamp, latitude and longitude are {stamp_s}, {lat_deg}, {lon_deg}, "
            "and must be finite; correct or remove the line"
        )
    for name, value, limit in (("latitude", lat_deg, 90), ("longitude", lon_deg, 360)):
        if abs(value) > limit:
            raise GeolocError(
                f"{path} line {line}: {name}_deg is {value}, the limit is {limit}; mind latitude before longitude"
            )
    return _Row(values["file"].strip(), stamp_s, Truth(lat_deg, lon_deg, height_m), (qx, qy, qz, qw))


def write_flight(
    folder: str | Path,
    camera: CameraModel,
    frames: Iterable[Frame],
    map_path: str | Path | None = None,
    jpeg_quality: int = 92,
) -> int:
    """Write a flight folder and return the number of frames.

    Every frame needs an image, an attitude and a truth (GeolocError otherwise); its file is named after its stamp, and
    is the one that the frame came with where it did. map_path is copied to map.tif unless it is that very file. The
    folder is made if need be.
    """
    folder = Path(folder)
    (folder / "frames").mkdir(parents=True, exist_ok=True)
    camera.to_yaml(folder / "camera.yaml")
    if map_path is not None and Path(map_path).resolve() != (folder / "map.tif").resolve():
        shutil.copyfile(map_path, folder / "map.tif")
    count = 0
    with (folder / "flight.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for frame in frames:
            if frame.image is None or frame.rotation_enu_from_optical is None or frame.truth is None:
                raise GeolocError(f"frame at {frame.stamp_s} s lacks image, attitude or truth and is not written")
            data = frame.encoded
            if data is None:
                bgr = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
                data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])[1].tobytes()
            name = f"{frame.stamp_s:.6f}.{'jpg' if data.startswith(JPEG_MAGIC) else 'png'}"
            (folder / "frames" / name).write_bytes(data)
            quaternion = frame.quaternion or quaternion_from_rotation(frame.rotation_enu_from_optical)
            writer.writerow(
                [
                    name,
                    f"{frame.stamp_s:.6f}",
                    f"{frame.truth.lat_deg:.9f}",
                    f"{frame.truth.lon_deg:.9f}",
                    f"{frame.height_m:.3f}",
                    *(f"{value:.9f}" for value in quaternion),
                ]
            )
            count += 1
    return count
