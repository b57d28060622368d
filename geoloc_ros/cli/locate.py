# SPDX-License-Identifier: Apache-2.0
"""Find where photos were taken on a map.

Find where each PHOTO was taken on MAP: latitude, longitude, heading and their errors. Camera, attitude, heading and
height come from the photo's EXIF and XMP (DJI, Autel, Parrot, Skydio) or from the options; a missing heading or height
is searched. Its GPS tag is not used. On first use the map is cut into tiles, which are kept in the user's cache; --near
keeps that short on a large map. Exit status 1 if no photo was located.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.shared.arguments import add_network
from geoloc_ros.cli.shared.output import make_writable, plain_table, print_line, rated_progress

if TYPE_CHECKING:
    from rich.progress import Progress

    from geoloc_ros.core.localization.photo_locator import PhotoFix, PhotoLocator
    from geoloc_ros.core.maps.raster import RasterMap
    from geoloc_ros.core.recording.photo_query import PhotoOptions
    from geoloc_ros.core.relocalization.gallery import Area
    from geoloc_ros.core.reporting.photo_sheet import PhotoRow

ENDINGS = (".csv", ".geojson", ".json", ".html")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("photo", type=Path, nargs="+", metavar="PHOTO", help="photos, or folders of them")
    add("--map", type=Path, required=True, metavar="MAP", help="raster that GDAL reads, or folder of XYZ tiles")
    add("--height-m", type=float, metavar="H", help="above ground, m (default: as the photo says, else searched)")
    add(
        "--height-range-m", type=float, nargs=2, default=[50.0, 200.0], metavar=("MIN", "MAX"),
        help="searched if a photo states no height, m (default: 50 200)",
    )  # fmt: skip
    add(
        "--heading-deg", type=float, metavar="D",
        help="of the image's top, clockwise from north (default: as the photo says, else searched)",
    )  # fmt: skip
    add(
        "--fov-deg", type=float, metavar="F",
        help="field of view along the image's width, needed if a photo states no focal length",
    )  # fmt: skip
    add(
        "--near", type=_near, metavar="LAT,LON,KM",
        help="search within so many km of this place only; a southern one as --near=-33.86,151.21,2",
    )  # fmt: skip
    add("--sequence", action="store_true", help="the photos are of one flight: use their order in time")
    add(
        "--out", type=Path, action="append", default=[], metavar="FILE",
        help="write results, by its ending: .csv, .geojson, .json, .html; repeat for more",
    )  # fmt: skip
    add("--write-exif", type=Path, metavar="FOLDER", help="write copies with the places in their GPS tags")
    add_network(parser)
    add("--retrieval-weights", default="retrieval", metavar="W", help="retrieval weights, name or file")


def run(args: argparse.Namespace) -> int:
    """Locate, print the table, write what was asked for."""
    from geoloc_models.ast.retriever_weights import load_retriever
    from geoloc_models.devices import fix_threads
    from geoloc_models.engines.choice import open_engine
    from geoloc_ros.core.localization.photo_locator import PhotoLocator
    from geoloc_ros.core.maps.raster import RasterMap
    from geoloc_ros.core.recording.photo_query import PhotoOptions, find_photos
    from geoloc_ros.core.relocalization.gallery_cache import GalleryCache

    paths = find_photos(args.photo)
    options = PhotoOptions(args.height_m, tuple(args.height_range_m), args.heading_deg, args.fov_deg)
    _check_outputs(args, paths)
    fix_threads(args.threads)
    with RasterMap(args.map) as raster, rated_progress() as progress:
        engine = open_engine(args.weights, args.device, args.threads)
        retriever, _ = load_retriever(args.retrieval_weights, args.device)
        cache = GalleryCache(args.map, raster, retriever, args.near, advance=_tile_progress(progress))
        locator = PhotoLocator(engine, retriever, cache.gallery, raster)
        rows = _Photos(paths, options, locator, raster, any(_is_page(path) for path in args.out)).located(
            args.near, args.sequence, progress
        )
    _print(rows)
    return _write(args, paths, rows)


class _Photos:
    """Photos, read one by one: all at once they may exceed the memory."""

    def __init__(
        self, paths: Sequence[Path], options: PhotoOptions, locator: PhotoLocator, raster: RasterMap, pictures: bool
    ) -> None:
        self._paths, self._options, self._locator, self._map = paths, options, locator, raster
        self._pictures = pictures

    def located(self, area: Area | None, sequence: bool, progress: Progress) -> list[PhotoRow]:
        """Each alone, or as a flight."""
        stamps_s = self._stamps_s() if sequence else []
        task = progress.add_task("photos", total=len(self._paths))
        rows = []
        for path in self._paths:
            rows.append(self._row(path, area))
            progress.advance(task)
        return self._as_flight(rows, stamps_s) if sequence else rows

    def _row(self, path: Path, area: Area | None) -> PhotoRow:
        from geoloc_ros.core.localization.photo_locator import PhotoFix
        from geoloc_ros.core.recording.photo_query import read_query
        from geoloc_ros.core.reporting.photo_sheet import PhotoRow, draw_photo, photo_picture

        try:
            query = read_query(path, self._options)
        except GeolocError as error:
            return PhotoRow(path.name, PhotoFix(str(error)))
        fix = self._locator.locate(query, area)
        pictures: tuple[str, ...] = ()
        if self._pictures:
            pictures = draw_photo(fix, self._map) or (photo_picture(query.frame),)
        fix = replace(fix, frame=None, crop=None)
        return PhotoRow(path.name, fix, query.photo.lat_deg, query.photo.lon_deg, pictures)

    def _stamps_s(self) -> list[float]:
        """Of all photos, which are put in this order."""
        from geoloc_ros.core.recording.photos import Photo

        taken = []
        for path in self._paths:
            try:
                stamp_s = Photo.read(path, placed=False).taken_s
            except GeolocError as error:
                raise GeolocError(f"{path} {error}") from None
            if stamp_s is None:
                raise GeolocError(
                    f"{path} states no time (DateTimeOriginal) and has no place in a flight: leave --sequence out"
                )
            taken.append((stamp_s, path))
        taken.sort()
        self._paths = [path for _, path in taken]
        return [stamp_s for stamp_s, _ in taken]

    def _as_flight(self, rows: list[PhotoRow], stamps_s: Sequence[float]) -> list[PhotoRow]:
        """Refuse fixes that were not flown; search what is left where the others say that it must be."""
        from geoloc_ros.core.localization.photo_sequence import consistent, reachable

        names = [row.file for row in rows]
        rows = _with_fixes(rows, consistent([row.fix for row in rows], stamps_s, names))
        fixes = [row.fix for row in rows]
        for index, row in enumerate(rows):
            area = reachable(fixes, stamps_s, index)
            if not row.fix.valid and area is not None:
                again = self._row(self._paths[index], area)
                rows[index] = again if again.fix.valid else row
        return _with_fixes(rows, consistent([row.fix for row in rows], stamps_s, names))


def _with_fixes(rows: Sequence[PhotoRow], fixes: Sequence[PhotoFix]) -> list[PhotoRow]:
    """A photo that has lost its place keeps its own picture only."""
    return [
        row if fix is row.fix else replace(row, fix=fix, pictures=row.pictures[:1])
        for row, fix in zip(rows, fixes, strict=True)
    ]


def _near(text: str) -> Area:
    """LAT,LON,KM, for argparse's `type`."""
    from geoloc_ros.core.relocalization.gallery import Area

    try:
        lat_deg, lon_deg, radius_km = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is no place; give LAT,LON,KM, such as 58.38,26.72,2") from None
    if abs(lat_deg) > 90 or abs(lon_deg) > 180 or not 0 < radius_km < 1e4:
        raise argparse.ArgumentTypeError(f"'{text}' is no place: latitude within ±90, longitude within ±180, km > 0")
    return Area(lat_deg, lon_deg, 1000 * radius_km)


def _is_page(path: Path) -> bool:
    return path.suffix.lower() == ".html"


def _check_outputs(args: argparse.Namespace, paths: Sequence[Path]) -> None:
    """GeolocError or OSError now rather than after the search."""
    for path in args.out:
        if path.suffix.lower() not in ENDINGS:
            raise GeolocError(f"--out {path}: the ending says what to write; give {', '.join(ENDINGS)}")
        make_writable(file=path)
    if args.write_exif is None:
        return
    twice = [name for name, count in Counter(path.name for path in paths).items() if count > 1]
    if twice:
        raise GeolocError(f"two photos are called {twice[0]}, of which --write-exif can write one only: go by folders")
    if any(path.resolve().parent == args.write_exif.resolve() for path in paths):
        raise GeolocError(f"--write-exif {args.write_exif} holds the photos themselves: give another folder")
    make_writable(args.write_exif)


def _tile_progress(progress: Progress) -> Callable[[float, int, int], None]:
    """A bar for each gallery that is made."""
    tasks = {}

    def advance(side_m: float, done: int, total: int) -> None:
        if side_m not in tasks:
            tasks[side_m] = progress.add_task(f"tiles of {side_m:g} m", total=total)
        progress.update(tasks[side_m], completed=done)

    return advance


def _print(rows: Sequence[PhotoRow]) -> None:
    """The table, then why photos are without a place."""
    from rich.console import Console

    from geoloc_ros.core.reporting.photo_sheet import distance_text

    tagged = any(row.tag_distance_m >= 0 for row in rows)
    headings = ("latitude", "longitude", "± m", "heading", "height m", *(("from GPS tag",) if tagged else ()))
    table = plain_table(("photo",), headings)
    for row in rows:
        fix = row.fix
        values = (
            (fix.lat_deg, "{:.6f}"),
            (fix.lon_deg, "{:.6f}"),
            (max(row.sigma_m), "{:.1f}"),
            (fix.heading_deg, "{:.1f}°"),
            (fix.height_m, "{:.0f}"),
        )
        shown = ["" if math.isnan(value) else text.format(value) for value, text in values]
        table.add_row(row.file, *shown, *([distance_text(row.tag_distance_m)] if tagged else ()))
    console = Console()
    console.print(table)
    for row in rows:
        if not row.fix.valid:
            print_line(console, f"{row.file}: {row.fix.reason}")


def _write(args: argparse.Namespace, paths: Sequence[Path], rows: Sequence[PhotoRow]) -> int:
    """The files that were asked for; the exit status."""
    from geoloc_ros.core.recording.photo_exif import write_place
    from geoloc_ros.core.reporting.photo_sheet import write_rows

    for path in args.out:
        write_rows(path, rows, args.map.name)
    originals = {path.name: path for path in paths}
    for row in rows if args.write_exif is not None else ():
        if row.fix.valid:
            fix = row.fix
            try:
                copy = args.write_exif / row.file
                write_place(originals[row.file], copy, fix.lat_deg, fix.lon_deg, fix.heading_deg, max(row.sigma_m))
            except GeolocError as error:
                print(f"geoloc: {row.file} {error}", file=sys.stderr)
    if any(row.fix.valid for row in rows):
        return 0
    reason, count = Counter(row.fix.reason for row in rows).most_common(1)[0]
    which = f"{rows[0].file} was not located" if len(rows) == 1 else f"none of {len(rows)} photos was located"
    print(f"geoloc: {which}: {reason}" + (f" ({count} photos)" if 1 < count < len(rows) else ""), file=sys.stderr)
    return 1
