# SPDX-License-Identifier: Apache-2.0
"""Checks of a data set in the UL14 or DenseUAV layout, for `geoloc dataset check`."""

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from geoloc_models.datasets import denseuav, ul14
from geoloc_models.datasets.faults import UNREADABLE, Fault, list_folders, list_images
from geoloc_models.errors import GeolocError
from geoloc_models.metrics import haversine_m

OUTLIER_PX = 5.0
"""A single label may miss by more than the median may; an exchanged one misses by tens of pixels."""
OFFSET_TOLERANCE = 0.05
"""Of center_distribute against the label, in half sides of the map."""
SIZE_TOLERANCE = 0.1
"""Of map_size against the corners, share of it."""

SAME_VIEW = 0.99
"""Correlation of two views' fingerprints from which on they are one image; half-overlapping frames stay far below."""
VIEW_ROLES = ("UAV", "drone", "query_drone")

PUBLISHED = {
    "UL14": {"train": "6,768 items of 10 places", "test": "2,331 sequences of 4 places, 27,972 pairs"},
    "DenseUAV": {"train": "2,256 places, 20,304 images", "test": "777 query and 3,033 gallery places"},
}

Track = Callable[[Sequence[Path]], Iterable[Path]]


@dataclass
class Report:
    """Facts about a data set, in the order of the report, and its faults."""

    layout: str
    facts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def check_dataset(root: str | Path, track: Track = iter) -> Report:
    """Read everything of a data set once; GeolocError if the folder holds neither layout.

    track: wraps the list of images while they are read, for a progress bar.
    """
    root = Path(root)
    if not root.is_dir():
        raise GeolocError(f"{root} is no folder; give the root of a data set")
    if any(root.glob("Dense_GPS_*.txt")) or any((root / name).is_dir() for name in _DENSEUAV_FOLDERS):
        return _check_denseuav(root, track)
    splits = [name for name in ("train", "val", "test") if _is_ul14(root / name)]
    if splits:
        return _check_ul14(root, splits, track)
    if _is_ul14(root):
        raise GeolocError(f"{root} is one split of a UL14 layout; give the folder above it, {root.parent}")
    raise GeolocError(
        f"{root} is neither in the UL14 layout (train/<Place>_<Height>_<Index>/UAV, test/...) nor in that of "
        "DenseUAV (train/drone/<id>, Dense_GPS_train.txt); give the root of a data set"
    )


_DENSEUAV_FOLDERS = ("train/drone", "train/satellite", "test/query_drone", "test/gallery_satellite")


def _is_ul14(folder: Path) -> bool:
    """Whether any folder of a split looks like a sequence; a damaged one must not hide the rest."""
    return any((sequence / name).is_dir() for sequence in list_folders(folder) for name in ("UAV", "Satellite"))


def _check_ul14(root: Path, splits: list[str], track: Track) -> Report:
    report = Report("UL14")
    places: dict[str, set[str]] = {}
    images: dict[tuple[str, str], list[Path]] = {}
    for split in splits:
        sequences = list_folders(root / split)
        for role in ("UAV", "Satellite"):
            images[split, role] = [path for seq in sequences for path in list_images(seq / role)]
        pairs: list[ul14.Ul14TestPair] = []
        if split == "train":
            items, faults = ul14.scan_train(root / split)
            places[split] = {item.place for item in items}
            maps = _many(sum(len(item.satellites) for item in items), "map")
            text = f"{_many(len(items), 'item')} of {_many(len(places[split]), 'place')}, {maps}"
        else:
            pairs, faults = ul14.scan_test(root / split)
            places[split] = {pair.place for pair in pairs}
            count = _many(len({pair.sequence for pair in pairs}), "sequence")
            text = f"{count} of {_many(len(places[split]), 'place')}, {_many(len(pairs), 'pair')}"
        published = PUBLISHED["UL14"].get(split)
        report.facts.append(f"{split}: {text}" + (f" (published: {published})" if published else ""))
        report.faults += faults
        _check_pairs(root / split, pairs, report)
    _check_images(images, root, report, track)
    for place in sorted(places.get("train", set()) & places.get("test", set())):
        report.faults.append(
            Fault(root / "train", f"place {place} is also in test; move all of its sequences to one of the two")
        )
    if shared := {p.name for p in list_folders(root / "val")} & {p.name for p in list_folders(root / "test")}:
        report.warnings.append(
            f"{len(shared)} sequences of val are also in test: a model chosen on val is chosen on the test set; "
            "hold out places of train instead"
        )
    return report


def _check_pairs(split: Path, pairs: list[ul14.Ul14TestPair], report: Report) -> None:
    """Labels against coordinates, together and one by one, and other redundant data of each pair."""
    if not pairs:
        return
    result = ul14.consistency(pairs)
    sizes = sorted({pair.map_size_px for pair in pairs})
    metres_px = np.array([pair.size_m / pair.stored_px[0] for pair in pairs])
    report.facts.append(
        f"{split.name}: maps of {sizes[0] * ul14.MAP_PIXEL_M:.1f} to {sizes[-1] * ul14.MAP_PIXEL_M:.1f} m, "
        f"{metres_px.min():.3f} to {metres_px.max():.3f} m a stored pixel"
    )
    report.facts.append(
        f"{split.name}: labels agree with the UAV's coordinates to {result.median_px:.2f} px, "
        f"{result.median_m:.2f} m (median; up to {ul14.CONSISTENT_PX:g} px allowed)"
    )
    if result.problem:
        report.faults.append(Fault(split, result.problem))
    else:
        report.faults += _outliers(pairs)
    for pair in pairs:
        report.faults += _contradictions(pair)


def _contradictions(pair: ul14.Ul14TestPair) -> list[Fault]:
    """Where GPS_info.json disagrees with the label or with itself."""
    path, name = pair.satellite.parent.parent / ul14.GPS_FILE, pair.satellite.name
    faults = []
    labelled = math.hypot(*(1 - 2 * share for share in pair.target))
    if abs(pair.offset - labelled) > OFFSET_TOLERANCE:
        text = (
            f"center_distribute of {name} puts the UAV {pair.offset:.2f} half sides off the map's centre, "
            f"its label {labelled:.2f}; correct one of them"
        )
        faults.append(Fault(path, text))
    west_deg, corners = pair.corners.tl_lon_deg, pair.corners
    span_m = float(haversine_m(corners.tl_lat_deg, west_deg, corners.br_lat_deg, west_deg))
    if abs(span_m / pair.size_m - 1) > SIZE_TOLERANCE:
        text = (
            f"corners of {name} are {span_m:.1f} m apart from north to south, but its map_size of "
            f"{pair.map_size_px:g} means {pair.size_m:.1f} m; correct one of them"
        )
        faults.append(Fault(path, text))
    return faults


def _outliers(pairs: list[ul14.Ul14TestPair]) -> list[Fault]:
    """Labels that miss in a set which as a whole is consistent, with the likely reason."""
    plain, transposed = ul14.residuals_px(pairs), ul14.residuals_px(pairs, transposed=True)
    by_sequence: dict[str, list[ul14.Ul14TestPair]] = defaultdict(list)
    for pair in pairs:
        by_sequence[pair.sequence].append(pair)
    faults = []
    for pair, miss_px, transposed_px in zip(pairs, plain, transposed, strict=True):
        if miss_px <= OUTLIER_PX:
            continue
        reason = "correct the label, the corners or the UAV's place"
        if transposed_px <= OUTLIER_PX:
            reason = "it fits with row and column exchanged, so exchange them"
        else:
            row, col = pair.corners.to_fractions(pair.lat_deg, pair.lon_deg)
            for other in by_sequence[pair.sequence]:
                miss = math.hypot(row - other.target[0], col - other.target[1]) * pair.stored_px[0]
                if other is not pair and miss <= OUTLIER_PX:
                    reason = f"the label of {other.satellite.name} fits it, so the two were swapped"
        text = f"label misses the UAV's coordinates by {miss_px:.0f} px; {reason}"
        faults.append(Fault(pair.satellite, text))
    return faults


def _check_denseuav(root: Path, track: Track) -> Report:
    report = Report("DenseUAV")
    paths: dict[tuple[str, str], list[Path]] = {}
    ids: dict[str, set[str]] = {}
    for split in ("train", "test"):
        if not (root / split).is_dir():
            report.warnings.append(f"there is no folder {split}")
            continue
        images, faults = denseuav.scan(root, split)
        report.faults += faults
        for role, of_role in images.items():
            paths[split, role] = [image.path for image in of_role]
            ids[role] = {image.place_id for image in of_role}
            report.facts.append(f"{split}/{role}: {_many(len(ids[role]), 'place')}, {_many(len(of_role), 'image')}")
            report.faults += _incomplete_places(root / split / role, of_role)
        report.facts.append(f"{split}: published are {PUBLISHED['DenseUAV'][split]}")
    for place in sorted(ids.get("drone", set()) & ids.get("query_drone", set())):
        report.faults.append(Fault(root / "train" / "drone" / place, "is also a query of test; remove one of them"))
    for place in sorted(ids.get("query_drone", set()) - ids.get("gallery_satellite", set())):
        report.faults.append(
            Fault(root / "test" / "query_drone" / place, "has no place of that id in gallery_satellite; add it")
        )
    _check_images(paths, root, report, track)
    return report


def _incomplete_places(folder: Path, images: list[denseuav.DenseUavImage]) -> list[Fault]:
    """Places without an image from each of the three heights."""
    stems: dict[str, set[str]] = defaultdict(set)
    for image in images:
        stems[image.place_id].add(image.path.stem)
    return [
        Fault(folder / place, f"lacks {', '.join(missing)}; restore it")
        for place, present in stems.items()
        if (missing := [height for height in ("H80", "H90", "H100") if height not in present])
    ]


def _check_images(images: dict[tuple[str, str], list[Path]], root: Path, report: Report, track: Track) -> None:
    """Decode every image: damage, sizes unlike the others', camera views that train and test share."""
    role_of = {path: key for key, paths in images.items() for path in paths}
    sizes: dict[tuple[str, str], dict[Path, tuple[int, int]]] = defaultdict(dict)
    prints: dict[str, dict[Path, np.ndarray]] = defaultdict(dict)
    known = {fault.path for fault in report.faults}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about unused tags
        for path in track([path for path in role_of if path not in known]):
            split, role = role_of[path]
            try:
                with Image.open(path) as image:
                    image.load()
                    sizes[split, role][path] = image.height, image.width
                    if role in VIEW_ROLES:
                        prints[split][path] = _fingerprint(image)
            except UNREADABLE:
                report.faults.append(Fault(path, "is damaged or no image; restore it or remove it"))
    for (split, role), of_role in sizes.items():
        report.faults += _odd_sizes(root, f"{split}/{role}", of_role, report)
    report.faults += _shared_views(root, prints["train"], prints["test"])


def _fingerprint(image: Image.Image) -> np.ndarray:
    """(256,) float32 of unit length: brightness on 16 x 16, whatever the image's size and exposure."""
    cells = np.asarray(image.convert("L").resize((16, 16), Image.Resampling.BOX), np.float32).ravel()
    cells = cells - cells.mean()
    # An image without contrast is like any other of its kind and must match none.
    return cells / np.linalg.norm(cells) if cells.std() > 1.0 else np.zeros_like(cells)


def _shared_views(root: Path, train: dict[Path, np.ndarray], test: dict[Path, np.ndarray]) -> list[Fault]:
    """Train views that are images of the test set again, perhaps at another size."""
    if not train or not test:
        return []
    likeness = np.stack(list(train.values())) @ np.stack(list(test.values())).T
    paths = list(test)
    return [
        Fault(path, f"is the same view as {paths[best].relative_to(root)}; train and test need different places")
        for path, best, alike in zip(train, likeness.argmax(axis=1), likeness.max(axis=1), strict=True)
        if alike > SAME_VIEW
    ]


def _odd_sizes(root: Path, name: str, sizes: dict[Path, tuple[int, int]], report: Report) -> list[Fault]:
    """Images that are not of the size that most of their kind have; that of maps must be a square."""
    counts = Counter(sizes.values())
    (height, width), most = counts.most_common(1)[0]
    report.facts.append(f"{name}: {most} of {len(sizes)} images are {height}x{width} px")
    if name.endswith("Satellite") and height != width:
        return [Fault(root / name.split("/")[0], f"its maps are {height}x{width} px; cut them square")]
    return [
        Fault(path, f"is {size[0]}x{size[1]} px where {most} of {len(sizes)} are {height}x{width}; resample it")
        for path, size in sizes.items()
        if size != (height, width)
    ]


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
