# SPDX-License-Identifier: Apache-2.0
"""Truth and fixes of runs as files that others read: TUM, GeoJSON, KML.

A line of fixes breaks where frames had none, so that no viewer draws a path that was never published, and at the
antimeridian, where RFC 7946 asks for it.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from geoloc_ros.core.evaluation.scores import FrameScore, Run, column, rounded, stretches
from geoloc_ros.core.geometry.geodesy import LocalEnu

_KML = "http://www.opengis.net/kml/2.2"
_KML_COLOURS = ("ffffffff", "ffffb35c", "ff559bff", "ffa6d334", "ffd18fef", "ff4ac0e3")
"""Truth, then one a run, aabbggrr as KML wants."""


def write_tum(path: Path, frames: Sequence[FrameScore], truth: bool = False) -> None:
    """TUM trajectory (`timestamp tx ty tz qx qy qz qw`) in the local ENU of the first frame's truth, s and m.

    z is the truth's height above ground, for fixes too, and 0 where none is known; positions carry no attitude, so the
    rotation is the identity.
    """
    used = [frame for frame in frames if truth or frame.valid]
    lines: list[str] = []
    if used:
        enu = LocalEnu(frames[0].truth_lat_deg, frames[0].truth_lon_deg)
        prefix = "truth_" if truth else ""
        east, north = enu.to_enu(column(used, f"{prefix}lat_deg"), column(used, f"{prefix}lon_deg"))
        height = np.nan_to_num(column(used, "height_m"))
        lines = [
            f"{frame.stamp_s:.6f} {x:.6f} {y:.6f} {z:.6f} 0 0 0 1"
            for frame, x, y, z in zip(used, east, north, height, strict=True)
        ]
    path.write_text("".join(line + "\n" for line in lines))


def write_geojson(path: Path, runs: Sequence[Run]) -> None:
    """A FeatureCollection (RFC 7946; longitude before latitude, WGS84) of the truth, each run's line, and its fixes.

    Lines have the property "track" ("truth" or the run's name); points also stamp_s, error_m, sigma_m (largest axis of
    the covariance), confidence 0..1 and state, for the colours of a map.
    """
    features = []
    for name, parts in _tracks(runs):
        places = [[_position(frame, name == "truth") for frame in part] for part in parts]
        features.append(_feature({"type": "MultiLineString", "coordinates": places}, {"track": name}))
    for run in runs:
        for frame in run.frames:
            if frame.valid:
                properties = {
                    "track": run.name,
                    "stamp_s": rounded(frame.stamp_s, 6),
                    "error_m": rounded(frame.error_m, 3),
                    "sigma_m": rounded(frame.sigma_m, 3),
                    "confidence": rounded(frame.peak, 4),
                    "state": frame.state,
                }
                point = {"type": "Point", "coordinates": _position(frame, truth=False)}
                features.append(_feature(point, properties))
    lines = ",\n".join(json.dumps(feature, allow_nan=False) for feature in features)
    path.write_text(f'{{"type": "FeatureCollection", "features": [\n{lines}\n]}}\n')


def write_kml(path: Path, runs: Sequence[Run], title: str) -> None:
    """KML 2.2 of truth and runs as lines at their height above ground; on the ground where none is known."""
    ElementTree.register_namespace("", _KML)
    root = ElementTree.Element(f"{{{_KML}}}kml")
    document = _add(root, "Document")
    _add(document, "name", title)
    for place, (name, parts) in enumerate(_tracks(runs)):
        style = _add(_add(document, "Style", id=f"line{place}"), "LineStyle")
        _add(style, "color", _KML_COLOURS[place % len(_KML_COLOURS)])
        _add(style, "width", "3")
        placemark = _add(document, "Placemark")
        _add(placemark, "name", name)
        _add(placemark, "styleUrl", f"#line{place}")
        lines = _add(placemark, "MultiGeometry")
        for part in parts:
            line = _add(lines, "LineString")
            known = all(np.isfinite(frame.height_m) for frame in part)
            _add(line, "altitudeMode", "relativeToGround" if known else "clampToGround")
            places = [(*_position(frame, name == "truth"), frame.height_m if known else 0.0) for frame in part]
            _add(line, "coordinates", " ".join(f"{lon:.9f},{lat:.9f},{up:.3f}" for lon, lat, up in places))
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _tracks(runs: Sequence[Run]) -> Iterator[tuple[str, list[list[FrameScore]]]]:
    """The truth of the first run, then the fixes of each, by name in unbroken parts of two frames or more."""
    if runs:
        yield "truth", _unbroken([runs[0].frames], truth=True)
    for run in runs:
        parts = [run.frames[first : last + 1] for first, last in stretches(run.frames, valid=True)]
        yield run.name, _unbroken(parts, truth=False)


def _unbroken(whole: Sequence[Sequence[FrameScore]], truth: bool) -> list[list[FrameScore]]:
    """Parts cut where they cross the antimeridian; what is left as a single point is no line."""
    parts: list[list[FrameScore]] = []
    for frames in whole:
        part = list(frames[:1])
        for before, frame in pairwise(frames):
            if abs(_position(frame, truth)[0] - _position(before, truth)[0]) > 180.0:
                parts.append(part)
                part = []
            part.append(frame)
        parts.append(part)
    return [part for part in parts if len(part) > 1]


def _position(frame: FrameScore, truth: bool) -> tuple[float, float]:
    """(longitude, latitude) to 0.1 mm, in the order of GeoJSON and KML."""
    lat_deg, lon_deg = (frame.truth_lat_deg, frame.truth_lon_deg) if truth else (frame.lat_deg, frame.lon_deg)
    return round(lon_deg, 9), round(lat_deg, 9)


def _feature(geometry: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def _add(parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: str) -> Any:
    child = ElementTree.SubElement(parent, f"{{{_KML}}}{tag}", attributes)
    child.text = text
    return child
