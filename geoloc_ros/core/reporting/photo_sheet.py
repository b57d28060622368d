# SPDX-License-Identifier: Apache-2.0
"""Located photos as CSV, GeoJSON and a page that shows each laid over the map."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from geoloc_ros.core.evaluation.scores import rounded
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.geometry.rectify import ground_points, rectify, sampled_at, view_centre_m
from geoloc_ros.core.localization.photo_locator import PhotoFix
from geoloc_ros.core.maps.cached_crop import is_usable, moved
from geoloc_ros.core.maps.crop import MapSource
from geoloc_ros.core.matching.frame_view import camera_rotation
from geoloc_ros.core.recording.frame import Frame
from geoloc_ros.core.reporting.plots import jpeg
from geoloc_ros.core.reporting.report import render, write_text

COLUMNS = (
    "file",
    "latitude_deg",
    "longitude_deg",
    "altitude_m",
    "heading_deg",
    "sigma_east_m",
    "sigma_north_m",
    "valid",
    "reason",
)
SIDE_PX = 640
"""Of the pictures of the page."""
MARGIN = 1.25
"""Side of a picture, share of the ground that the photo shows."""
MOST_HEIGHTS = 6.0
"""Of ground in a picture, for photos that look far away."""
_OPACITY = 0.55
_OUTLINE_RGB, _PLACE_RGB = (255, 220, 0), (255, 60, 40)


@dataclass(frozen=True)
class PhotoRow:
    """A photo with its answer.

    tag_lat_deg, tag_lon_deg: place by its GPS tag, NaN without. pictures: data URIs of the photo, the map there and
    both, for the page.
    """

    file: str
    fix: PhotoFix
    tag_lat_deg: float = math.nan
    tag_lon_deg: float = math.nan
    pictures: tuple[str, ...] = ()

    @property
    def tag_distance_m(self) -> float:
        """From the place by the GPS tag, NaN if either is missing."""
        if not math.isfinite(self.fix.lat_deg + self.tag_lat_deg):
            return math.nan
        return math.hypot(*LocalEnu(self.tag_lat_deg, self.tag_lon_deg).to_enu(self.fix.lat_deg, self.fix.lon_deg))

    @property
    def sigma_m(self) -> tuple[float, float]:
        """One standard deviation, east and north."""
        east_m, north_m = np.sqrt(np.diag(self.fix.covariance_enu_m2)).tolist()
        return east_m, north_m


def write_rows(path: Path, rows: Sequence[PhotoRow], map_name: str) -> None:
    """As the file's ending says: .csv, .geojson or .json, .html."""
    if path.suffix.lower() == ".csv":
        write_text(path, _csv(rows))
    elif path.suffix.lower() in (".geojson", ".json"):
        write_text(path, _geojson(rows))
    else:
        write_text(path, _page(rows, map_name))


def draw_photo(fix: PhotoFix, map_source: MapSource) -> tuple[str, ...]:
    """The photo, the map where it was taken, and the photo laid over the map; the first alone without a place."""
    frame = fix.frame
    if frame is None or frame.image is None:
        return ()
    rotation = camera_rotation(frame)
    centre_m = view_centre_m(frame.camera, rotation, frame.height_m)
    outline_m = ground_points(frame.camera.border, rotation, frame.height_m) - centre_m
    side_m = min(2 * MARGIN * float(np.abs(outline_m).max()), MOST_HEIGHTS * frame.height_m)
    gsd_m = side_m / SIDE_PX
    crop = map_source.crop(*moved((fix.lat_deg, fix.lon_deg), centre_m), side_m, SIDE_PX)
    if not is_usable(crop):
        return (photo_picture(frame),)
    pose = (frame.image, frame.camera, rotation, frame.height_m, gsd_m, SIDE_PX)
    seen = sampled_at(*pose).seen
    laid = crop.image.copy()
    laid[seen] = np.rint(_OPACITY * rectify(*pose).image[seen] + (1 - _OPACITY) * crop.image[seen]).astype(np.uint8)
    corners_px = np.rint(SIDE_PX / 2 + outline_m * [1, -1] / gsd_m).astype(np.int32)
    place_px = tuple(np.rint(SIDE_PX / 2 - centre_m * [1, -1] / gsd_m).astype(int).tolist())
    for colour, width in (((0, 0, 0), 4), (_OUTLINE_RGB, 2)):
        cv2.polylines(laid, [corners_px], True, colour, width, cv2.LINE_AA)
    for colour, width in (((0, 0, 0), 5), (_PLACE_RGB, 2)):
        cv2.drawMarker(laid, place_px, colour, cv2.MARKER_CROSS, 22, width, cv2.LINE_AA)
    return photo_picture(frame), jpeg(crop.image), jpeg(laid)


def photo_picture(frame: Frame) -> str:
    """The photo itself, made small."""
    assert frame.image is not None
    height, width = frame.image.shape[:2]
    scale = SIDE_PX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return jpeg(cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA))


def distance_text(distance_m: float) -> str:
    """In m, far ones in km; empty for NaN."""
    if math.isnan(distance_m):
        return ""
    return f"{distance_m:.1f} m" if distance_m < 1000 else f"{distance_m / 1000:.1f} km"


def _csv(rows: Sequence[PhotoRow]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        values = _properties(row)
        writer.writerow(["" if values[name] is None else values[name] for name in COLUMNS[:-2]]
                        + [str(row.fix.valid).lower(), row.fix.reason])  # fmt: skip
    return text.getvalue()


def _geojson(rows: Sequence[PhotoRow]) -> str:
    """A FeatureCollection (RFC 7946) with a point for each photo, without geometry where none was found."""
    features = []
    for row in rows:
        values = _properties(row)
        place = [values.pop("longitude_deg"), values.pop("latitude_deg")]
        geometry = {"type": "Point", "coordinates": place} if row.fix.valid else None
        features.append({"type": "Feature", "geometry": geometry, "properties": values})
    lines = ",\n".join(json.dumps(feature, allow_nan=False) for feature in features)
    return f'{{"type": "FeatureCollection", "features": [\n{lines}\n]}}\n'


def _properties(row: PhotoRow) -> dict[str, Any]:
    """The columns by name, and the height above ground; None where there is none."""
    fix, (east_m, north_m) = row.fix, row.sigma_m
    return {
        "file": row.file,
        "latitude_deg": rounded(fix.lat_deg, 8),
        "longitude_deg": rounded(fix.lon_deg, 8),
        "altitude_m": None,
        "heading_deg": rounded(fix.heading_deg, 2),
        "sigma_east_m": rounded(east_m, 2),
        "sigma_north_m": rounded(north_m, 2),
        "valid": fix.valid,
        "reason": fix.reason,
        "height_above_ground_m": rounded(fix.height_m, 1),
        "from_gps_tag_m": rounded(row.tag_distance_m, 1),
    }


def _page(rows: Sequence[PhotoRow], map_name: str) -> str:
    return render(
        "photos.html.j2",
        title=f"Photos on {map_name}",
        found=sum(row.fix.valid for row in rows),
        photos=[(row, _facts(row)) for row in rows],
    )


def _facts(row: PhotoRow) -> list[tuple[str, str]]:
    fix, (east_m, north_m) = row.fix, row.sigma_m
    if not fix.valid:
        return []
    facts = [
        ("Latitude, longitude", f"{fix.lat_deg:.7f}, {fix.lon_deg:.7f}"),
        ("1 σ east, north", f"{east_m:.1f} m, {north_m:.1f} m"),
        ("Height above ground", f"{fix.height_m:.0f} m"),
        ("Heading", f"{fix.heading_deg:.1f}°"),
    ]
    if math.isfinite(row.tag_distance_m):
        facts.append(("From its GPS tag", distance_text(row.tag_distance_m)))
    return facts
