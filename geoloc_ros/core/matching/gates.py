# SPDX-License-Identifier: Apache-2.0
"""What a frame must show before its match counts as a fix: the same gates in flight, in a search and in evaluation.

Each check raises Refused with the value, the limit and, where there is one, the remedy.
"""

import math

from geoloc_models.drl.alignment import Alignment
from geoloc_models.drl.heatmap import Heatmap
from geoloc_ros.core.geometry.rectify import RectifiedView
from geoloc_ros.core.maps.cached_crop import is_usable
from geoloc_ros.core.maps.crop import MapCrop
from geoloc_ros.core.matching.settings import GateSettings

DECISIVE_SUPPORT = 0.5
"""Share of the view's blocks that must agree where one frame alone is to show a place."""


class Refused(Exception):
    """This frame gives no fix, and why.

    contradicts: the frame was clear, but places the vehicle elsewhere than the track does. view: of a search that got
    no further, for the debug images.
    """

    def __init__(self, reason: str, contradicts: bool = False, view: RectifiedView | None = None) -> None:
        super().__init__(reason)
        self.contradicts, self.view = contradicts, view


def check_view(view: RectifiedView, gate: GateSettings) -> None:
    """The camera must have seen enough of the view."""
    if view.coverage < gate.min_view_coverage:
        side_m = view.pixels.shape[0] * view.gsd_m
        raise Refused(
            f"the camera saw {view.coverage:.0%} of the {side_m:.0f} m view, the limit is "
            f"{gate.min_view_coverage:.0%}: fly higher, use a wider lens or give a nearer prior"
        )


def check_readable(crop: MapCrop) -> None:
    """There must be a map at all."""
    if not is_usable(crop):
        raise Refused(f"no map: {crop.text}")


def check_crop(crop: MapCrop, gate: GateSettings) -> None:
    """There must be a map, and enough of it."""
    check_readable(crop)
    if crop.coverage < gate.min_map_coverage:
        raise Refused(f"the map covers {crop.coverage:.0%} of the search, the limit is {gate.min_map_coverage:.0%}")


def check_heatmap(heatmap: Heatmap, support: float, gate: GateSettings, confirmed: bool) -> None:
    """One place must stand out, and must do so without the track's help.

    support: probability mass that the network alone sees at the place, 0..1. confirmed: whether a confirmed track
    supports the answer; without one the peak must be clearer.
    """
    limit = gate.min_peak if confirmed else gate.min_start_peak
    if heatmap.peak < limit:
        raise Refused(f"ambiguous: {heatmap.peak:.0%} of the probability lies at the peak, the limit is {limit:.0%}")
    if heatmap.peak_ratio < gate.min_peak_ratio:
        raise Refused(
            f"ambiguous: the best place beats the second {heatmap.peak_ratio:.1f}:1, "
            f"the limit is {gate.min_peak_ratio:g}:1"
        )
    if support < gate.min_support:
        raise Refused(
            f"ambiguous: without the track only {support:.0%} of the probability lies there, the limit is "
            f"{gate.min_support:.0%}"
        )


def check_alignment(agreement: float, gate: GateSettings, confirmed: bool) -> None:
    """The parts of the view must lie on the map as one; agreement: share of those that do, NaN if unknown."""
    limit = gate.min_alignment if confirmed else gate.min_start_alignment
    if agreement < limit:
        raise Refused(f"unaligned: {agreement:.0%} of the view agrees on a place, the limit is {limit:.0%}")


def check_odds(log_odds: float, gate: GateSettings) -> None:
    """A place that was found by trying poses must stand out; log_odds: against the next place."""
    if log_odds < math.log(gate.min_start_odds):
        raise Refused(
            f"ambiguous: over all headings and heights the best place beats the next {math.exp(log_odds):.0f}:1, "
            f"the limit is {gate.min_start_odds:.0f}:1"
        )


def is_decisive(alignment: Alignment | None, gate: GateSettings) -> bool:
    """Whether one frame alone shows a place: how much likelier its blocks lie there so than by chance."""
    return (
        alignment is not None and alignment.evidence >= gate.decisive_evidence and alignment.support >= DECISIVE_SUPPORT
    )


def check_innovation(distance_sigma: float, gate: GateSettings) -> None:
    """The place must agree with the predicted position; distance_sigma: Mahalanobis distance between them."""
    if distance_sigma > gate.max_sigma:
        raise Refused(
            f"off the track: {distance_sigma:.1f} standard deviations from the predicted position, "
            f"the limit is {gate.max_sigma:g}",
            contradicts=True,
        )
