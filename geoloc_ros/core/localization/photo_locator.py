# SPDX-License-Identifier: Apache-2.0
"""Finds single photos on a map: what their tags leave open is searched, and each must be decisive on its own."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from geoloc_models.ast.retriever import Retriever
from geoloc_models.engines.network_engine import NetworkEngine
from geoloc_models.engines.placer import SUFFICIENT_EVIDENCE, Placer
from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.rectify import footprint_m
from geoloc_ros.core.maps.cached_crop import moved
from geoloc_ros.core.maps.crop import MapCrop, MapSource
from geoloc_ros.core.matching import gates
from geoloc_ros.core.matching.frame_view import camera_rotation, rectified_view, search_px
from geoloc_ros.core.matching.gates import Refused
from geoloc_ros.core.matching.match_frame import Match, match_view
from geoloc_ros.core.matching.pose_bias import PoseBiasFilter
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.matching.stage_times import StageTimes
from geoloc_ros.core.recording.frame import Frame, with_heading
from geoloc_ros.core.recording.photo_query import PhotoQuery
from geoloc_ros.core.relocalization.gallery import Area, Gallery
from geoloc_ros.core.relocalization.hypotheses import Hypothesis
from geoloc_ros.core.relocalization.relocalizer import Relocalizer, Search

PHOTO_EVIDENCE = 100.0
"""Maximum evidence of a photo for a place: no other frame adds to it, so that it counts in full."""


@dataclass(frozen=True)
class PhotoFix:
    """Where a photo was taken.

    valid: whether one place stands out; `reason` states why otherwise. heading_deg: of the image's top, clockwise from
    north, 0 to 360. height_m: above ground. covariance_enu_m2: (2, 2). All NaN without a place. frame: the photo with
    the pose that was found, crop: the map around its place; None without.
    """

    reason: str = ""
    lat_deg: float = math.nan
    lon_deg: float = math.nan
    heading_deg: float = math.nan
    height_m: float = math.nan
    covariance_enu_m2: np.ndarray = field(default_factory=lambda: np.full((2, 2), math.nan))
    frame: Frame | None = None
    crop: MapCrop | None = None

    @property
    def valid(self) -> bool:
        return not self.reason


class PhotoLocator:
    """Finds photos on one map."""

    def __init__(
        self,
        engine: NetworkEngine,
        retriever: Retriever,
        galleries: Callable[[float], Gallery],
        map_source: MapSource,
        settings: LocalizerSettings | None = None,
    ) -> None:
        """galleries: the gallery for photos that show so many metres of ground."""
        self._engine, self._retriever, self._galleries, self._map = engine, retriever, galleries, map_source
        settings = settings or LocalizerSettings()
        self._settings = replace(settings, search=replace(settings.search, max_evidence=PHOTO_EVIDENCE))
        self._placer = Placer(engine)

    def locate(self, query: PhotoQuery, area: Area | None = None) -> PhotoFix:
        """Where the photo was taken, on the whole map or in an area; GeolocError if the map cannot be read."""
        fixes = []
        for height_m in query.heights_m:
            fix = self._at_height(replace(query.frame, height_m=height_m), query.heading_known, area)
            if fix.valid:
                return fix
            fixes.append(fix)
        return fixes[0]

    def _at_height(self, photo: Frame, heading_known: bool, area: Area | None) -> PhotoFix:
        try:
            found = self._search(photo, heading_known, area)
            self._check_odds(found)
            return self._refined(photo, found.candidates[0])
        except Refused as refused:
            return PhotoFix(str(refused))

    def _search(self, photo: Frame, heading_known: bool, area: Area | None) -> Search:
        """The whole map, or an area, weighed against this photo; its first candidate was seen in it."""
        try:
            shown_m = footprint_m(photo.camera, camera_rotation(photo), photo.height_m)
        except GeolocError as error:
            raise Refused(str(error)) from error
        pose = replace(self._settings.pose, heading_trusted=heading_known)
        finest, coarsest = self._engine.spec.gsd_range_m
        side_px = self._engine.spec.query_px
        gallery = self._galleries(min(max(shown_m, finest * side_px), coarsest * side_px))
        relocalizer = Relocalizer(self._engine, self._retriever, gallery, self._map, replace(self._settings, pose=pose))
        relocalizer.start(area)
        search = relocalizer.process(photo)
        if not search.candidates or not search.candidates[0].frames:
            raise Refused("no place on the map fits better than others")
        return search

    def _check_odds(self, search: Search) -> None:
        """One place must stand out against all others of the map together."""
        best, *others = (candidate.log_odds for candidate in search.candidates if candidate.frames)
        margin = best - float(np.logaddexp.reduce([0.0, *others]))
        least = self._settings.search.accept_odds
        if margin < math.log(least):
            raise Refused(f"ambiguous: the best place leads {math.exp(margin):.2g}:1, the limit is {least:g}:1")

    def _refined(self, photo: Frame, candidate: Hypothesis) -> PhotoFix:
        """The place with the pose that the search has found, and all that a first fix must show."""
        reported = with_heading(photo, candidate.heading_deg)
        bias = candidate.bias or PoseBiasFilter(self._settings.pose)
        view = rectified_view(bias.corrected(reported), self._engine, 0.0, self._settings)
        gates.check_view(view, self._settings.gate)
        half_m = view.gsd_m * self._engine.spec.query_px / 2
        view = rectified_view(bias.corrected(reported), self._engine, half_m, self._settings)
        side_px = search_px(half_m, view, self._engine)
        centre = moved(candidate.tracker.place, np.array(view.centre_offset_enu_m))
        crop = self._map.crop(*centre, side_px * view.gsd_m, side_px)
        gates.check_crop(crop, self._settings.gate)
        match = match_view(reported, view, crop, self._placer, self._settings, StageTimes(), bias)
        self._check(match)
        assert match.bias is not None  # of every match
        frame = match.bias.corrected(reported)
        return PhotoFix(
            "", match.lat_deg, match.lon_deg, heading_of(frame), frame.height_m, match.covariance_enu_m2, frame, crop
        )

    def _check(self, match: Match) -> None:
        gate = self._settings.gate
        gates.check_alignment(match.agreement, gate, confirmed=False)
        gates.check_odds(match.log_odds, gate)
        gates.check_heatmap(match.heatmap, match.support, gate, confirmed=False)
        evidence = 0.0 if match.alignment is None else match.alignment.evidence
        if evidence < SUFFICIENT_EVIDENCE:
            raise Refused(
                f"unaligned: the evidence of the best place is {evidence:.0f}, as wrong places reach too; the limit "
                f"for a single photo is {SUFFICIENT_EVIDENCE:.0f}"
            )


def heading_of(frame: Frame) -> float:
    """Of the image's top, clockwise from north, 0 to 360 degrees."""
    up = -camera_rotation(frame)[:, 1]
    return math.degrees(math.atan2(up[0], up[1])) % 360.0
