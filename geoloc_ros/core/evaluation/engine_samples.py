# SPDX-License-Identifier: Apache-2.0
"""Real views and map crops of a recorded flight, as the localizer would give them to a network."""

import numpy as np

from geoloc_models.engines import Engine
from geoloc_models.engines.export import Sample
from geoloc_ros.core.bags.bag import Bag
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.maps.cached_crop import moved
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.matching import gates
from geoloc_ros.core.matching.frame_view import rectified_view, search_px
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.recording.flight_folder import Flight

HALF_WIDTH_M = 40.0
"""Of the square in which the view's centre is expected: a typical search."""


def draw_samples(
    recording: Flight | Bag, raster: RasterMap, network: Engine, count: int, seed: int = 0
) -> list[Sample]:
    """Views spread over a recording, each in a crop whose centre is off by up to HALF_WIDTH_M, seeded."""
    settings = LocalizerSettings()
    rng = np.random.default_rng(seed)
    chosen = set(np.linspace(0, len(recording) - 1, min(count, len(recording))).round().astype(int).tolist())
    samples = []
    for number, frame in enumerate(recording):
        if number not in chosen or frame.truth is None:
            continue
        off_m = rng.uniform(-HALF_WIDTH_M, HALF_WIDTH_M, 2)
        try:
            view = rectified_view(frame, network, HALF_WIDTH_M, settings)
            gates.check_view(view, settings.gate)
        except gates.Refused:
            continue
        offset_m = np.array(view.centre_offset_enu_m)
        place = moved((frame.truth.lat_deg, frame.truth.lon_deg), offset_m)
        size_px = search_px(HALF_WIDTH_M, view, network)
        crop = raster.crop(*LocalEnu(*place).to_geodetic(*off_m), size_px * view.gsd_m, size_px)
        if crop.coverage < settings.gate.min_map_coverage:
            continue
        x_px, y_px = crop.geodetic_to_pixel(*place)
        samples.append(Sample(view.image, crop.image, view.gsd_m, (float(x_px), float(y_px))))
    return samples
