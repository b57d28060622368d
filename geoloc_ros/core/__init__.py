# SPDX-License-Identifier: Apache-2.0
"""The ROS-free core: an image, its pose and a GeoTIFF in, latitude, longitude and covariance out.

All names of `__all__` load on first use. Everything else is private to the package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geoloc_ros.core.geometry.camera import CameraModel as CameraModel
    from geoloc_ros.core.geometry.rotations import nadir_rotation as nadir_rotation
    from geoloc_ros.core.geometry.rotations import rotation_from_quaternion as rotation_from_quaternion
    from geoloc_ros.core.localization.estimate import Estimate as Estimate
    from geoloc_ros.core.localization.localizer import Localizer as Localizer
    from geoloc_ros.core.maps.raster import RasterMap as RasterMap
    from geoloc_ros.core.matching.settings import LocalizerSettings as LocalizerSettings
    from geoloc_ros.core.recording.flight_folder import Flight as Flight
    from geoloc_ros.core.recording.frame import Frame as Frame
    from geoloc_ros.core.relocalization.gallery import Gallery as Gallery
    from geoloc_ros.core.relocalization.relocalizer import Relocalizer as Relocalizer

_MODULES = {
    "CameraModel": "geometry.camera",
    "Estimate": "localization.estimate",
    "Flight": "recording.flight_folder",
    "Frame": "recording.frame",
    "Gallery": "relocalization.gallery",
    "Localizer": "localization.localizer",
    "LocalizerSettings": "matching.settings",
    "RasterMap": "maps.raster",
    "Relocalizer": "relocalization.relocalizer",
    "nadir_rotation": "geometry.rotations",
    "rotation_from_quaternion": "geometry.rotations",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
