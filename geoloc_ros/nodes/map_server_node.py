# SPDX-License-Identifier: Apache-2.0
"""The node map_server: answers get_map with north-up crops of any raster that GDAL reads."""

import sys
import traceback
from typing import Any

from rclpy.node import Node

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.geodesy import check_place
from geoloc_ros.core.maps.crop import MAX_CROP_M, MAX_CROP_PX, CropStatus, MapCrop
from geoloc_ros.core.maps.raster import MapAhead, MapLayer, RasterMap
from geoloc_ros.messages.maps import empty_crop, response_from_crop
from geoloc_ros.nodes.parameters import declare, value
from geoloc_ros.nodes.running import run_node
from geoloc_ros.srv import GetMap


class MapServerNode(Node):
    """A RasterMap behind a service; of a map that does not open, each answer gives the reason."""

    def __init__(self, **options: Any) -> None:
        """`options` are those of rclpy's Node, such as parameter_overrides."""
        super().__init__("map_server", **options)
        text = (
            "raster, or list of rasters with the uppermost first: GeoTIFF, COG, VRT, MBTiles, XYZ folder or "
            "a GDAL description of WMS, WMTS or XYZ"
        )
        declare(self, "map", "", text, either_type=True)
        declare(self, "cache_mib", 256.0, "limit of the decoded-block cache, MiB", 0.0, 65536.0)
        declare(self, "timeout_s", 10.0, "how long a crop waits for a source, s", 0.1, 600.0)
        text = "colour 'R,G,B', 0 to 255, that means no data; empty: only what the files declare"
        declare(self, "nodata_rgb", "", text)
        self._map: RasterMap | None = None
        self._fault = ""
        try:
            self._map = self._open()
        except Exception as error:
            self._fault = self._reason(error)
            self.get_logger().error(self._fault)
        else:
            self._crops = MapAhead(self._map)
            south, west, north, east = self._map.bounds_deg
            self.get_logger().info(f"serving {south:.6f}, {west:.6f} to {north:.6f}, {east:.6f}")
        self.create_service(GetMap, "get_map", self._on_get_map)

    def close(self) -> None:
        """Close the files."""
        if self._map is not None:
            self._map.close()

    def _open(self) -> RasterMap:
        paths = value(self, "map")
        paths = [paths] if isinstance(paths, str) else paths
        if not (isinstance(paths, list | tuple) and all(isinstance(path, str) for path in paths)):
            raise GeolocError(f"map is {paths}; give a file or a list of files as text")
        paths = [path for path in paths if path]
        if not paths:
            raise GeolocError("no map is set; start with -p map:=FILE")
        nodata_rgb = _colour(value(self, "nodata_rgb"))
        layers = [MapLayer(path, -place, nodata_rgb) for place, path in enumerate(paths)]
        return RasterMap(layers, value(self, "cache_mib"), value(self, "timeout_s"))

    def _on_get_map(self, request: GetMap.Request, response: GetMap.Response) -> GetMap.Response:
        return response_from_crop(self._crop(request), response)

    def _crop(self, request: GetMap.Request) -> MapCrop:
        try:
            _check_request(request)
        except GeolocError as error:
            return empty_crop(request, CropStatus.INVALID, str(error))
        if self._map is None:
            return empty_crop(request, CropStatus.UNREADABLE, self._fault)
        try:
            return self._crops.crop(request.latitude_deg, request.longitude_deg, request.size_m, request.size_px)
        except Exception as error:  # whatever a source does, the next request is answered
            return empty_crop(request, CropStatus.UNREADABLE, self._reason(error))

    def _reason(self, error: Exception) -> str:
        """For the answer; what nobody foresaw goes to the log with all that helps to find it."""
        if isinstance(error, GeolocError):
            return str(error)
        self.get_logger().error(traceback.format_exc(), throttle_duration_sec=10.0)
        return f"the map cannot be read ({type(error).__name__}: {' '.join(str(error).split())}); see the server's log"


def _check_request(request: GetMap.Request) -> None:
    """GeolocError, with the limit, for a crop beyond the limits of GetMap.srv."""
    check_place(request.latitude_deg, request.longitude_deg)
    if not 0.0 < request.size_m <= MAX_CROP_M:  # NaN too
        raise GeolocError(f"crop of {request.size_m:g} m; ask for more than 0 and at most {MAX_CROP_M:.0f} m")
    if not 1 <= request.size_px <= MAX_CROP_PX:
        raise GeolocError(f"crop of {request.size_px} px; ask for 1 to {MAX_CROP_PX}")


def _colour(text: str) -> tuple[int, int, int] | None:
    """'R,G,B' as numbers, None for an empty text."""
    if not text:
        return None
    try:
        red, green, blue = (int(part) for part in text.split(","))
    except ValueError:
        raise GeolocError(f"nodata_rgb is '{text}'; give three numbers 0 to 255, such as 0,0,0") from None
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        raise GeolocError(f"nodata_rgb is '{text}'; each number must be 0 to 255")
    return red, green, blue


def main() -> int:
    """Run the node until it is interrupted; 2 if a parameter does not fit."""
    return run_node("map_server", MapServerNode)


if __name__ == "__main__":
    sys.exit(main())
