# SPDX-License-Identifier: Apache-2.0
"""Makes the gallery of a map: cuts overlapping tiles, embeds them part by part, joins the parts to one file.

Parts are files of a folder beside the gallery. Each is written whole or not at all and depends on nothing but its own
tiles, so a build that was killed goes on where it was, and several processes or machines that share the folder divide
the parts among them; the gallery is the same to the last bit.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from geoloc_models.ast.retriever import Retriever
from geoloc_models.errors import GeolocError
from geoloc_models.training.processes import Processes
from geoloc_ros.core.maps.crop import MapCrop, MapSource
from geoloc_ros.core.relocalization.gallery import GalleryInfo, is_flat, probe, probe_rows, probes_id, write_header
from geoloc_ros.core.relocalization.gallery_index import EXACT_TILES, build_codes

PART_TILES = 512
"""Tiles of a part: what a kill loses at most, for each process."""
LEAST_COVERAGE = 0.5
"""A tile of which the map covers less is left out."""
_AXIS_M, _ECCENTRICITY2 = 6378137.0, 0.00669437999014  # WGS84
_POLL_S = 1.0


class BoundedMap(MapSource, Protocol):
    """A map, or a part of one, whose extent is known."""

    @property
    def bounds_deg(self) -> tuple[float, float, float, float]:
        """(south, west, north, east)."""
        ...


class TileLattice:
    """Centres of all tiles over a map's bounds, counted by ground size, then row from the south, then column."""

    def __init__(
        self, bounds_deg: tuple[float, float, float, float], tile_m: tuple[float, ...], stride_m: float
    ) -> None:
        """bounds_deg: (south, west, north, east). Neighbours are at most stride_m apart, outer tiles touch the bounds.

        GeolocError: sizes and stride that are not positive, a stride that leaves gaps, a map smaller than a tile.
        """
        if not tile_m or min(*tile_m, stride_m) <= 0 or not math.isfinite(sum(tile_m) + stride_m):
            raise GeolocError(f"tiles of {_listed(tile_m)} m every {stride_m:g} m: both must be positive")
        if stride_m > min(tile_m):
            raise GeolocError(
                f"a stride of {stride_m:g} m leaves gaps between tiles of {min(tile_m):g} m: "
                f"give a stride up to {min(tile_m):g} m"
            )
        south, west, north, east = bounds_deg
        if east < west:  # across the antimeridian
            east += 360.0
        rows: list[tuple[float, float, float, float, int]] = []
        for size_m in sorted(set(tile_m)):
            height_m = (north - south) * _metres_per_degree((south + north) / 2)[0]
            width_m = (east - west) * max(_metres_per_degree(lat)[1] for lat in (south, north))
            if min(height_m, width_m) < 0.999 * size_m:
                raise GeolocError(
                    f"the map spans {width_m:.0f} x {height_m:.0f} m, less than a tile of {size_m:g} m: "
                    "give a smaller --tile-m"
                )
            inset_deg = min(north - south, size_m / _metres_per_degree((south + north) / 2)[0]) / 2
            for lat in np.linspace(south + inset_deg, north - inset_deg, _steps(height_m, size_m, stride_m)):
                per_degree = _metres_per_degree(lat)[1]
                inset = min(east - west, size_m / per_degree) / 2
                columns = _steps((east - west) * per_degree, size_m, stride_m)
                rows.append((size_m, float(lat), west + inset, east - inset, columns))
        self._size_m, self._lat_deg, self._west_deg, self._east_deg, columns_ = map(np.array, zip(*rows, strict=True))
        self._columns = columns_.astype(np.int64)
        self._ends = np.cumsum(self._columns)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def places(self, tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(lat_deg, lon_deg, size_m) of tiles by their numbers (N,)."""
        row = np.searchsorted(self._ends, tiles, side="right")
        column = tiles - (self._ends[row] - self._columns[row])
        # A single column is in the middle.
        share = np.where(self._columns[row] > 1, column / np.maximum(self._columns[row] - 1, 1), 0.5)
        lon_deg = self._west_deg[row] + share * (self._east_deg[row] - self._west_deg[row])
        return self._lat_deg[row], (lon_deg + 180.0) % 360.0 - 180.0, self._size_m[row]


def _metres_per_degree(lat_deg: float) -> tuple[float, float]:
    """Of latitude and of longitude, on WGS84."""
    sin, cos = math.sin(math.radians(lat_deg)), math.cos(math.radians(lat_deg))
    across = _AXIS_M / math.sqrt(1 - _ECCENTRICITY2 * sin**2)
    along = across * (1 - _ECCENTRICITY2) / (1 - _ECCENTRICITY2 * sin**2)
    return math.radians(along), math.radians(across * cos)


def _steps(extent_m: float, size_m: float, stride_m: float) -> int:
    """Tiles in a line, the first and the last at its ends; a millimetre too much asks for none more."""
    return max(1, math.ceil((extent_m - size_m) / stride_m - 1e-6) + 1)


@dataclass(frozen=True)
class BuildReport:
    """What a build did: tiles in the gallery, bytes of the file; tiles looked at in this run by this process, and how
    long that took.
    """

    info: GalleryInfo
    tiles: int
    bytes: int
    done_now: int
    seconds: float


@dataclass(frozen=True)
class GalleryBuild:
    """A gallery to make: of which map, with which network, where to, and the tiles' ground sides and stride."""

    map_name: str
    source: BoundedMap
    retriever: Retriever
    out: Path
    tile_m: tuple[float, ...]
    stride_m: float
    batch: int = 16

    def run(
        self, processes: Processes, advance: Callable[[int, int], None] = lambda done, total: None
    ) -> BuildReport | None:
        """Make what is missing of this process's share; the first process then waits for all and writes the gallery.

        advance(done, total) after each tile of the share. Returns None in all processes but the first. GeolocError: the
        gallery is there already, the parts are of another build, the map cannot be read or has no data at all.
        """
        if self.out.exists():
            raise GeolocError(f"{self.out} is there already: delete it to build anew, or name another --out")
        lattice = TileLattice(self.source.bounds_deg, self.tile_m, self.stride_m)
        self._parts.mkdir(parents=True, exist_ok=True)
        self._keep_plan(lattice, processes.rank)
        parts = range(math.ceil(len(lattice) / PART_TILES))
        own = [part for part in parts[processes.rank :: processes.count] if not self._part(part).is_file()]
        # No process may join and clear the parts before all have seen which are there.
        processes.wait_for_all()
        start = time.monotonic()
        done, total = 0, sum(len(_tiles_of(part, lattice)) for part in own)
        for part in own:
            for _ in self._make_part(part, lattice):
                done += 1
                advance(done, total)
        seconds = time.monotonic() - start
        if not processes.is_first:
            return None
        while not all(self._part(part).is_file() for part in parts):
            time.sleep(_POLL_S)
        info, tiles = self._join(parts, lattice)
        return BuildReport(info, tiles, self.out.stat().st_size, done, seconds)

    @property
    def _parts(self) -> Path:
        return self.out.with_name(self.out.name + ".parts")

    def _part(self, number: int) -> Path:
        return self._parts / f"{number:08d}.safetensors"

    def _keep_plan(self, lattice: TileLattice, rank: int) -> None:
        """Note what the parts are of; GeolocError if they are of something else."""
        plan = {
            "map": probes_id(self._probes(lattice, probe_rows(len(lattice)))),
            "bounds_deg": list(self.source.bounds_deg),
            "tile_m": list(self.tile_m),
            "stride_m": self.stride_m,
            "weights_id": self.retriever.weights_id,
            "batch": self.batch,
        }
        path = self._parts / "plan.json"
        if not path.is_file():
            _write_whole(path, json.dumps(plan).encode(), rank)
        found = json.loads(path.read_text())
        differs = [name for name in plan if found.get(name) != plan[name]]
        # Tiles of other sizes are at other places, where the map looks different.
        other = [name for name in differs if name != "map"] or differs
        if other:
            raise GeolocError(
                f"{self._parts} holds parts of a build with another {' and '.join(other)}: "
                "delete that folder, or go on with what it was started with"
            )

    def _make_part(self, number: int, lattice: TileLattice) -> Iterator[None]:
        """Cut and embed a part's tiles; yields after each."""
        tiles = _tiles_of(number, lattice)
        kept: list[int] = []
        left_out = {"without_data": 0, "of_one_colour": 0}
        vectors: list[np.ndarray] = []
        waiting: list[np.ndarray] = []
        pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        try:
            crops = pool.map(self._cut, *(values.tolist() for values in lattice.places(tiles)))
            for tile, crop in zip(tiles.tolist(), crops, strict=True):
                if crop.coverage < LEAST_COVERAGE:
                    left_out["without_data"] += 1
                elif is_flat(crop.image):
                    left_out["of_one_colour"] += 1
                else:
                    kept.append(tile)
                    waiting.append(crop.image)
                if waiting and (len(waiting) == self.batch or tile == tiles[-1]):
                    vectors.append(self.retriever.embed(np.stack(waiting), "satellite", self.batch))
                    waiting = []
                yield
        finally:
            pool.shutdown(cancel_futures=True)
        made = np.concatenate(vectors) if vectors else np.zeros((0, self.retriever.dim))
        path = self._part(number)
        part = path.with_suffix(".part")
        save_file(
            {
                "vectors": made.astype(np.float16),
                "tiles": np.array(kept, np.int64),
                "left_out": np.array(list(left_out.values()), np.int64),
            },
            part,
        )
        os.replace(part, path)

    def _cut(self, lat_deg: float, lon_deg: float, size_m: float) -> MapCrop:
        crop = self.source.crop(lat_deg, lon_deg, size_m, self.retriever.input_px)
        if crop.status.is_failure:
            raise GeolocError(
                f"the map cannot be read at {lat_deg:.6f}, {lon_deg:.6f}: {crop.text}; "
                "what is done is kept, repair the map and run the same command again"
            )
        return crop

    def _probes(self, lattice: TileLattice, tiles: np.ndarray) -> np.ndarray:
        """(P, 16, 16, 3) images of tiles by their numbers in the lattice."""
        places = zip(*(values.tolist() for values in lattice.places(tiles)), strict=True)
        return np.stack([probe(self.source, *place) for place in places])

    def _join(self, parts: range, lattice: TileLattice) -> tuple[GalleryInfo, int]:
        """Write the gallery and remove the parts."""
        sizes, left_out = [], np.zeros(2, np.int64)
        tiles = []
        for number in parts:
            loaded = _load_part(self._part(number))
            sizes.append(len(loaded["tiles"]))
            tiles.append(loaded["tiles"])
            left_out += loaded["left_out"]
        kept = np.concatenate(tiles)
        if not len(kept):
            raise GeolocError(
                f"map {self.map_name} has no tile to embed: {left_out[0]} without data, {left_out[1]} of one colour; "
                "check its no-data value"
            )
        raw = self._parts / "vectors.raw"
        with raw.open("wb") as file:
            for number in parts:
                file.write(_load_part(self._part(number))["vectors"].tobytes())
        vectors = np.memmap(raw, np.float16, "c").reshape(len(kept), self.retriever.dim)
        lat_deg, lon_deg, size_m = lattice.places(kept)
        probes = self._probes(lattice, kept[probe_rows(len(kept))])
        arrays = {
            "lat_deg": ("F64", lat_deg),
            "lon_deg": ("F64", lon_deg),
            "size_m": ("F32", size_m.astype(np.float32)),
            "vectors": ("F16", vectors),
            "probes": ("U8", probes),
        }
        if len(kept) > EXACT_TILES:
            arrays["codes"] = ("U8", build_codes(vectors))
        info = GalleryInfo(
            self.map_name,
            probes_id(probes),
            self.retriever.weights_id,
            tuple(sorted(set(self.tile_m))),
            self.stride_m,
            *left_out.tolist(),
        )
        part = self.out.with_name(self.out.name + ".part")
        with part.open("wb") as file:
            file.write(write_header(info, {name: (kind, a.shape) for name, (kind, a) in arrays.items()}))
            for _, array in arrays.values():
                array.tofile(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self.out)
        shutil.rmtree(self._parts)
        return info, len(kept)


def _tiles_of(part: int, lattice: TileLattice) -> np.ndarray:
    return np.arange(part * PART_TILES, min((part + 1) * PART_TILES, len(lattice)))


def _load_part(path: Path) -> dict[str, np.ndarray]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise GeolocError(f"{path} is damaged: delete it and run the same command again") from error


def _write_whole(path: Path, data: bytes, rank: int) -> None:
    """Beside and renamed, so that several processes may do it at once."""
    part = path.with_suffix(f".{rank}")
    part.write_bytes(data)
    os.replace(part, path)


def _listed(sizes: tuple[float, ...]) -> str:
    return ", ".join(f"{size:g}" for size in sizes)
