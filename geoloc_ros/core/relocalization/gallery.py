# SPDX-License-Identifier: Apache-2.0
"""The gallery of a map: a vector for each of many overlapping tiles, in one file beside the map.

The file is safetensors: `vectors` (N, dim) float16 of unit length, `lat_deg` and `lon_deg` (N,) float64 of the tiles'
centres, `size_m` (N,) float32 of their ground sides, `probes` (P, 16, 16, 3) uint8, and above
`gallery_index.EXACT_TILES` also `codes` (bytes,) uint8. Vectors stay on disk until a search reads them.
The probes are small images of tiles spread over the gallery. A map is the gallery's own if it still looks so there:
that holds for a copied, renamed or retiled file and through a map server, and fails for another date of the same place.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pyproj import Transformer

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.maps.crop import MapSource
from geoloc_ros.core.relocalization.gallery_index import EXACT_TILES, CodeIndex, search_exactly

METADATA_KEY = "geoloc_gallery"
_PROBES = 32
_PROBE_PX = 16
_PROBE_TOLERANCE = 6.0  # grey levels by which half of a probe may differ: another reader or compression
_FLAT_LEVELS = 2.0
_TILES_A_PLACE = 16  # that a search for places begins with
# Straight lines between centres, through the ground: at 1 km they are 1 µm short of the geodesic.
_GEOCENTRIC = Transformer.from_pipeline(
    "+proj=pipeline +step +proj=unitconvert +xy_in=deg +xy_out=rad +step +proj=cart +ellps=WGS84"
)
_TYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "U8": "u1"}


@dataclass(frozen=True)
class GalleryInfo:
    """Metadata of the file.

    map_name: file that the tiles were cut from; map_id: digest of the probes; weights_id: the retriever's; tile_m:
    ground sides; stride_m: between neighbouring centres; without_data, of_one_colour: tiles left out.
    """

    map_name: str
    map_id: str
    weights_id: str
    tile_m: tuple[float, ...]
    stride_m: float
    without_data: int
    of_one_colour: int


@dataclass(frozen=True)
class Area:
    """The area of a search: tiles whose centre is within radius_m of the place."""

    lat_deg: float
    lon_deg: float
    radius_m: float


@dataclass(frozen=True)
class Matches:
    """The best tiles of Q queries, the best first; all arrays are (Q, K).

    tile: rows in the gallery; score: product of the unit vectors, -1 to 1; K is less than asked where the gallery, or
    its part in the area, has fewer tiles, down to 0.
    """

    tile: np.ndarray  # int64
    score: np.ndarray  # float32
    lat_deg: np.ndarray
    lon_deg: np.ndarray
    size_m: np.ndarray


@dataclass(frozen=True)
class Places:
    """The best tiles of several queries together, the best first, none near a better one; all arrays are (K,).

    query: which of the queries is most like the tile; the others as in `Matches`.
    """

    tile: np.ndarray  # int64
    query: np.ndarray  # int64
    score: np.ndarray  # float32
    lat_deg: np.ndarray
    lon_deg: np.ndarray
    size_m: np.ndarray


class Gallery:
    """An opened gallery; searches may run in several threads."""

    def __init__(self, path: Path, weights_id: str | None = None, source: MapSource | None = None) -> None:
        """Open and check the file; with weights_id and source also that it is of these weights and of this map.

        GeolocError: missing, truncated, empty, damaged, of another map or of other weights.
        """
        self.path = path
        self.info, arrays = _read(path)
        self.vectors, self.size_m = arrays["vectors"], np.array(arrays["size_m"])
        self.lat_deg, self.lon_deg = np.array(arrays["lat_deg"]), np.array(arrays["lon_deg"])
        self._probes = arrays["probes"]
        if weights_id is not None and weights_id != self.info.weights_id:
            raise GeolocError(
                f"gallery {path} was made with the weights {self.info.weights_id}, not {weights_id}: "
                "name those, or build the gallery again"
            )
        if source is not None:
            self.check_map(source)
        codes = arrays.get("codes")
        self._codes = None if codes is None else CodeIndex(self.vectors, codes)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return int(self.vectors.shape[1])

    @property
    def method(self) -> str:
        """Description of how the whole map is searched."""
        return "exact" if self._codes is None else f"exact over candidates from codes of {self._codes.bytes} bytes"

    @property
    def bounds_deg(self) -> tuple[float, float, float, float]:
        """(south, west, north, east) of the tiles' centres."""
        lat, lon = self.lat_deg, self.lon_deg
        return float(lat.min()), float(lon.min()), float(lat.max()), float(lon.max())

    def within(self, area: Area) -> np.ndarray:
        """Ascending rows of the tiles in an area; GeolocError if that is no place or its radius not positive."""
        if not (math.isfinite(area.radius_m) and area.radius_m > 0):
            raise GeolocError(f"radius of the search is {area.radius_m} m; it must be positive")
        enu = LocalEnu(area.lat_deg, area.lon_deg)
        # A degree of latitude is 110.5 km or more: this leaves few tiles to project.
        near = np.flatnonzero(np.abs(self.lat_deg - area.lat_deg) <= area.radius_m / 110_000.0)
        east_m, north_m = enu.to_enu(self.lat_deg[near], self.lon_deg[near])
        return near[np.hypot(east_m, north_m) <= area.radius_m]

    def search(self, vectors: np.ndarray, count: int, area: Area | None = None) -> Matches:
        """The `count` most similar tiles of each query (Q, dim), on the whole map or in an area alone.

        GeolocError: vectors of another length, or not finite, or a count below 1.
        """
        if count < 1:
            raise GeolocError(f"{count} tiles are asked for; ask for at least 1")
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise GeolocError(f"queries are {vectors.shape}, the gallery's vectors have {self.dim} numbers each")
        if not np.isfinite(vectors).all():
            raise GeolocError("a query's vector holds numbers that are not finite: check the image and weights")
        allowed = None if area is None else self.within(area)
        if self._codes is None:
            tile, score = search_exactly(self.vectors, vectors, count, allowed)
        else:
            tile, score = self._codes.search(vectors, count, allowed)
        return Matches(tile, score, self.lat_deg[tile], self.lon_deg[tile], self.size_m[tile])

    def search_places(self, vectors: np.ndarray, count: int, area: Area | None, apart_m: float) -> Places:
        """The `count` best places for queries (Q, dim) that are views of one place, such as one turned by headings.

        A tile counts by its best score over the queries. The best tile is a place, and so is each further one whose
        centre is not nearer than apart_m to a place before it, whatever the tiles' sides. Fewer than `count` come back
        only where the map or the area has no more. GeolocError: as `search`, or a distance below 0.
        """
        if not (math.isfinite(apart_m) and apart_m >= 0):
            raise GeolocError(f"places are to be {apart_m} m apart; give 0 or more")
        asked = _TILES_A_PLACE * count
        while True:
            matches = self.search(vectors, asked, area)
            is_all = matches.tile.shape[1] < asked
            places = self._thin(matches, is_all, count, apart_m)
            if is_all or len(places.tile) == count:
                return places
            asked *= 4

    def _thin(self, matches: Matches, is_all: bool, count: int, apart_m: float) -> Places:
        tile, score = matches.tile.ravel(), matches.score.ravel()
        order = np.argsort(-score, kind="stable")
        if not is_all:
            # What no query has asked for can have any score up to the last of a query, but none above.
            order = order[score[order] > matches.score[:, -1].max()]
        order = order[np.sort(np.unique(tile[order], return_index=True)[1])]
        xyz_m = np.stack(
            _GEOCENTRIC.transform(self.lon_deg[tile[order]], self.lat_deg[tile[order]], np.zeros(len(order))), 1
        )
        left = np.arange(len(order))
        kept: list[int] = []
        while len(left) and len(kept) < count:
            kept.append(int(left[0]))
            left = left[1:][np.linalg.norm(xyz_m[left[1:]] - xyz_m[left[0]], axis=1) >= apart_m]
        best = order[kept]
        query = best // max(1, matches.tile.shape[1])
        tile = tile[best]
        return Places(tile, query, score[best], self.lat_deg[tile], self.lon_deg[tile], self.size_m[tile])

    def check_map(self, source: MapSource) -> None:
        """GeolocError if the gallery is not of this map, or the map cannot be read."""
        for row, then in zip(probe_rows(len(self)), self._probes, strict=True):
            place = float(self.lat_deg[row]), float(self.lon_deg[row])
            now = probe(source, *place, float(self.size_m[row]))
            # The median: where data ends, overviews made since can change many a pixel by much.
            difference = np.median(np.abs(now.astype(np.int16) - then))
            if difference > _PROBE_TOLERANCE:
                raise GeolocError(
                    f"gallery {self.path} is of another map than this one, {self.info.map_name}: at "
                    f"{place[0]:.6f}, {place[1]:.6f} they differ by {difference:.0f} grey levels "
                    f"(limit {_PROBE_TOLERANCE:.0f}); build the gallery of this map"
                )


def probe_rows(tiles: int) -> np.ndarray:
    """Rows of the tiles whose images the gallery keeps, spread over all."""
    return np.unique(np.linspace(0, tiles - 1, min(tiles, _PROBES)).astype(np.int64))


def probe(source: MapSource, lat_deg: float, lon_deg: float, size_m: float) -> np.ndarray:
    """(16, 16, 3) uint8 of a tile; GeolocError if the map cannot be read there."""
    crop = source.crop(lat_deg, lon_deg, size_m, _PROBE_PX)
    if crop.status.is_failure:
        raise GeolocError(f"the map cannot be compared with its gallery: {crop.text}; make it readable")
    # A map server sends no image of a place that its map does not cover.
    return crop.image if crop.image.size else np.zeros((_PROBE_PX, _PROBE_PX, 3), np.uint8)


def probes_id(probes: np.ndarray) -> str:
    """Twelve hexadecimal digits that name a map by its probes."""
    return hashlib.sha256(np.ascontiguousarray(probes).tobytes()).hexdigest()[:12]


def is_flat(image: np.ndarray) -> bool:
    """Whether an image (H, W, 3) uint8 is of one colour except for noise, so its place cannot be recognized."""
    if image.size == 0:
        return True
    # Means of many pixels, so that a sensor's noise does not count as content.
    coarse = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)
    return bool(coarse.reshape(-1, 3).astype(np.float32).std(axis=0).max() < _FLAT_LEVELS)


def write_header(info: GalleryInfo, shapes: dict[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """Start of a safetensors file whose arrays, of such types and shapes, follow one another in this order."""
    header: dict[str, Any] = {"__metadata__": {METADATA_KEY: json.dumps(asdict(info))}}
    offset = 0
    for name, (kind, shape) in shapes.items():
        size = math.prod(shape) * np.dtype(_TYPES[kind]).itemsize
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that every array starts at a multiple of its items' size
    return len(text).to_bytes(8, "little") + text


def _read(path: Path) -> tuple[GalleryInfo, dict[str, np.ndarray]]:
    """The description and the arrays, mapped from the file; GeolocError if it is no whole gallery."""
    remedy = "build the gallery again"
    try:
        size = path.stat().st_size
        if size == 0:
            raise GeolocError(f"gallery {path} is an empty file: {remedy}")
        data = np.memmap(path, np.uint8, "c")  # copy on write: the file never changes
    except OSError as error:
        raise GeolocError(
            f"cannot read gallery {path}: {error.strerror}; make it with `geoloc gallery build MAP`"
        ) from error
    try:
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        if start > size:
            raise GeolocError(f"gallery {path} is truncated or no gallery: {remedy}")
        header = json.loads(data[8:start].tobytes())
        fields = json.loads(header.pop("__metadata__")[METADATA_KEY])
        info = GalleryInfo(**{**fields, "tile_m": tuple(fields["tile_m"])})
        end = start + max(entry["data_offsets"][1] for entry in header.values())
        if end != size:
            raise GeolocError(f"gallery {path} is truncated: it has {size} of its {end} bytes; {remedy}")
        arrays = {
            name: data[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]]
            .view(_TYPES[entry["dtype"]])
            .reshape(entry["shape"])
            for name, entry in header.items()
        }
        tiles = len(arrays["vectors"])
        fits = arrays["vectors"].ndim == 2 and ("codes" in arrays or tiles <= EXACT_TILES)
        fits &= all(arrays[name].shape == (tiles,) for name in ("lat_deg", "lon_deg", "size_m"))
        fits &= arrays["probes"].shape == (len(probe_rows(tiles)) if tiles else 0, _PROBE_PX, _PROBE_PX, 3)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, GeolocError):
            raise
        raise GeolocError(f"{path} is no gallery, or a damaged one: {remedy}") from error
    if not tiles:
        raise GeolocError(f"gallery {path} holds no tiles: {remedy}, of a map with data")
    if not fits:
        raise GeolocError(f"gallery {path} is damaged, its arrays do not fit together: {remedy}")
    return info, arrays
