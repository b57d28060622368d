# SPDX-License-Identifier: Apache-2.0
"""Finds a lost vehicle on the whole map: retrieval names places, the network verifies them, frames add up."""

import math
from dataclasses import dataclass, replace

import numpy as np

from geoloc_models.ast.retriever import Retriever
from geoloc_models.drl.heatmap import PEAK_MASS_NODES, heatmap_from_logits
from geoloc_models.engines.network_engine import NetworkEngine
from geoloc_models.engines.pose_search import HEADING_STEP_DEG, posed
from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.geometry.rectify import RectifiedView, rectify
from geoloc_ros.core.maps.cached_crop import moved
from geoloc_ros.core.maps.crop import CropStatus, MapCrop, MapSource
from geoloc_ros.core.matching import gates
from geoloc_ros.core.matching.frame_view import camera_rotation, rectified_view, search_px
from geoloc_ros.core.matching.gates import Refused
from geoloc_ros.core.matching.match_frame import Match, flipped
from geoloc_ros.core.matching.pose_bias import PoseBiasFilter
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.matching.stage_times import StageTimes
from geoloc_ros.core.recording.frame import Frame, turned
from geoloc_ros.core.relocalization.gallery import Area, Gallery, is_flat
from geoloc_ros.core.relocalization.hypotheses import Hypothesis, HypothesisFilter, Sighting


@dataclass(frozen=True)
class Search:
    """The result of one frame of a search.

    candidates: copies of the hypotheses after the frame, the likeliest first, then the places that retrieval proposed
    and that did not fit, with frames 0. accepted: the first of them if it has won, with its match of this frame; else
    None, and `reason` states why. crops: how many the network matched.
    """

    candidates: tuple[Hypothesis, ...]
    accepted: Hypothesis | None
    reason: str
    view: RectifiedView
    crops: int
    times: StageTimes


@dataclass(frozen=True)
class _Site:
    """A square of the map to verify: where the view's centre is expected, the turn of the view, and whose it is."""

    lat_deg: float
    lon_deg: float
    heading_deg: float
    similarity: float
    hypothesis: Hypothesis | None


@dataclass(frozen=True)
class _Answer:
    """The network's answer about one site: (R, C) logits, -inf outside the square; ENU of the nodes about a place that
    all sites share, m; (R, C) probability that each node had before, of sum 1.
    """

    site: _Site
    match: Match
    logits: np.ndarray
    east_m: np.ndarray
    north_m: np.ndarray
    before: np.ndarray

    def peak_enu_m(self) -> tuple[float, float]:
        """Where the match lies in the shared frame."""
        heatmap = self.match.heatmap
        col, row = (round(value / heatmap.stride_px) for value in heatmap.peak_xy_px)
        return float(self.east_m[0, col]), float(self.north_m[row, 0])


class Relocalizer:
    """Searches a gallery frame by frame until one place wins."""

    def __init__(
        self,
        engine: NetworkEngine,
        retriever: Retriever,
        gallery: Gallery,
        map_source: MapSource,
        settings: LocalizerSettings | None = None,
    ) -> None:
        """`gallery` is of map_source, which opening it checks; GeolocError if it is of other weights."""
        if retriever.weights_id != gallery.info.weights_id:
            raise GeolocError(
                f"the gallery was made with the weights {gallery.info.weights_id}, not {retriever.weights_id}: "
                "name those, or build the gallery again"
            )
        self._engine, self._retriever, self._gallery, self._map = engine, retriever, gallery, map_source
        self._settings = settings or LocalizerSettings()
        self.start()

    def start(self, area: Area | None = None) -> None:
        """Forget what was found; search within `area`, or on the whole map."""
        self._filter = HypothesisFilter(self._settings)
        self._area = area
        self._passed_over: list[tuple[float, float, float]] = []  # stamp_s, lat_deg, lon_deg

    def process(self, frame: Frame) -> Search:
        """Weigh one frame. Raises Refused if it says nothing about the place."""
        times = StageTimes()
        view, tile_view, tile_m = self._views(frame)
        times.lap("rectify")
        self._filter.predict(frame)
        oldest_s = frame.stamp_s - self._settings.search.memory_s
        self._passed_over = [place for place in self._passed_over if place[0] >= oldest_s]
        sites = self._sites(view, tile_view, tile_m)
        times.lap("retrieve")
        crops, sites = self._crops(view, sites, tile_m / 2)
        times.lap("crop")
        logits, stride_px = self._verify(view, sites, crops)
        times.lap("network")
        answers = [
            self._answer(frame, view, site, crop, plane, stride_px, tile_m / 2, crops[0])
            for site, crop, plane in zip(sites, crops, logits, strict=True)
        ]
        winner, reason = self._weigh(answers, frame.stamp_s, view.gsd_m * self._engine.spec.query_px)
        times.lap("post")
        candidates = (*(replace(h, tracker=h.tracker.copy()) for h in self._filter.hypotheses), *self._filter.rejected)
        return Search(candidates, candidates[0] if winner else None, reason, view, len(crops), times)

    def _views(self, frame: Frame) -> tuple[RectifiedView, np.ndarray, float]:
        """The view for the network, and for retrieval the view that a tile would show, with the tile's side in m."""
        view = rectified_view(frame, self._engine, 0.0, self._settings)
        gates.check_view(view, self._settings.gate)
        if is_flat(view.image):
            raise Refused("lost: the camera sees one colour, nothing tells places apart", view=view)
        tile_m = self._tile_m(view.gsd_m * self._engine.spec.query_px)
        return view, self._tile_view(frame, tile_m), tile_m

    def _weigh(self, answers: list[_Answer], stamp_s: float, view_m: float) -> tuple[Hypothesis | None, str]:
        """Take the answers of one frame into the filter; its verdict."""
        sightings = [
            Sighting(
                answer.match,
                _evidence(answer, answers),
                answer.site.heading_deg,
                answer.site.similarity,
                answer.site.hypothesis,
            )
            for answer in answers
        ]
        self._filter.weigh(sightings, stamp_s, view_m, self._distinct_places())
        self._passed_over += [
            (stamp_s, answer.site.lat_deg, answer.site.lon_deg)
            for answer, sighting in zip(answers, sightings, strict=True)
            if answer.site.hypothesis is None and sighting.evidence < self._settings.search.look_alike
        ]
        return self._filter.verdict()

    def _tile_m(self, seen_m: float) -> float:
        """The ground side of tiles to compare with: the largest that the camera sees whole, or nearly."""
        sides = sorted(self._gallery.info.tile_m)
        return max((side for side in sides if side <= 1.15 * seen_m), default=sides[0])

    def _tile_view(self, frame: Frame, tile_m: float) -> np.ndarray:
        """(input_px, input_px, 3): the frame as a tile of this side would show it."""
        rotation = camera_rotation(frame)
        side_px = self._retriever.input_px
        assert frame.image is not None  # the rectified view has been made of it
        return rectify(frame.image, frame.camera, rotation, frame.height_m, tile_m / side_px, side_px).image

    def _distinct_places(self) -> float:
        """How many places of a tile's stride there are to choose from."""
        tiles = len(self._gallery) if self._area is None else len(self._gallery.within(self._area))
        return tiles / len(self._gallery.info.tile_m)

    def _sites(self, view: RectifiedView, tile_view: np.ndarray, tile_m: float) -> list[_Site]:
        """Where the hypotheses went, then what retrieval proposes besides; `search.places` in all."""
        s = self._settings.search
        trusted = self._settings.pose.heading_trusted
        headings = [0.0] if trusted else np.arange(0.0, 360.0, HEADING_STEP_DEG).tolist()
        vectors = self._retriever.embed(np.stack([posed(tile_view, heading, 1.0) for heading in headings]))
        count = s.places + len(self._passed_over)
        places = self._gallery.search_places(vectors, count, self._area, tile_m / 2)
        if not len(places.tile):
            raise Refused("lost: the gallery has no tile in the allowed area, increase search.radius_m", view=view)
        sites: list[_Site] = []
        for hypothesis in self._filter.hypotheses:
            offset = turned(np.array(view.centre_offset_enu_m), hypothesis.heading_deg)
            place = moved(hypothesis.tracker.place, offset)
            sites.append(_Site(*place, hypothesis.heading_deg, hypothesis.similarity, hypothesis))
        # Ground that a hypothesis's own square shows, or that did not fit a moment ago.
        known = [(site.lat_deg, site.lon_deg) for site in sites]
        known += [(lat, lon) for _, lat, lon in self._passed_over]
        for row in range(len(places.tile)):
            place = float(places.lat_deg[row]), float(places.lon_deg[row])
            enu = LocalEnu(*place)
            if all(math.hypot(*enu.to_enu(*other)) >= tile_m / 4 for other in known):
                sites.append(_Site(*place, headings[places.query[row]], float(places.score[row]), None))
        return sites[: s.places]

    def _crops(self, view: RectifiedView, sites: list[_Site], half_m: float) -> tuple[list[MapCrop], list[_Site]]:
        """The crops that hold map data, all of one size, and their sites."""
        side_px = search_px(half_m, view, self._engine)
        kept = []
        text = ""
        for site in sites:
            crop = self._map.crop(site.lat_deg, site.lon_deg, side_px * view.gsd_m, side_px)
            if crop.status not in (CropStatus.OK, CropStatus.PARTLY_COVERED):
                text = crop.text
                if crop.status == CropStatus.TIMED_OUT:
                    # The others would take as long, and without its rivals a place must not win.
                    raise Refused(f"lost: no map: {text}", view=view)
            elif crop.coverage >= self._settings.gate.min_map_coverage:
                kept.append((crop, site))
        if not kept:
            raise Refused(f"lost: no map where the gallery has tiles: {text or 'too little data'}", view=view)
        return [crop for crop, _ in kept], [site for _, site in kept]

    def _verify(self, view: RectifiedView, sites: list[_Site], crops: list[MapCrop]) -> tuple[np.ndarray, float]:
        """Logits (sites, R, C) of the view in each crop, in one call."""
        turns = [site.heading_deg for site in sites]
        # One view for all is encoded once.
        turns = turns[:1] if len(set(turns)) == 1 else turns
        views = np.stack([posed(view.image, turn, 1.0) for turn in turns])
        return self._engine.logits(views, np.stack([crop.image for crop in crops]))

    def _answer(
        self,
        frame: Frame,
        view: RectifiedView,
        site: _Site,
        crop: MapCrop,
        logits: np.ndarray,
        stride_px: float,
        half_m: float,
        shared: MapCrop,
    ) -> _Answer:
        rows, cols = np.ogrid[: logits.shape[0], : logits.shape[1]]
        east_m = cols * stride_px * crop.gsd_m - crop.size_m / 2
        north_m = crop.size_m / 2 - rows * stride_px * crop.gsd_m
        # Nodes nearer to the rim would show the network part of the view's ground only.
        inside = (np.abs(east_m) <= half_m) & (np.abs(north_m) <= half_m)
        logits = np.where(inside, logits, -np.inf).astype(np.float32)
        alone = heatmap = heatmap_from_logits(logits, stride_px)
        offset = turned(np.array(view.centre_offset_enu_m), site.heading_deg)
        bias = PoseBiasFilter(self._settings.pose)
        pointing = bias.pointing_covariance(frame, offset, self._settings.pose)
        pointing = pointing + np.eye(2) * self._settings.map.sigma_m**2
        before = inside.astype(np.float64)
        if site.hypothesis is not None:
            spread = site.hypothesis.tracker.track().covariance[:2, :2] + pointing
            a, b, c = np.linalg.inv(spread)[np.triu_indices(2)]
            before *= np.exp(-0.5 * (a * east_m**2 + 2 * b * east_m * north_m + c * north_m**2))
            middle = (crop.image.shape[1] / 2, crop.image.shape[0] / 2)
            heatmap = alone.given(middle, flipped(spread) / crop.gsd_m**2)
        match = Match(
            *moved(crop.pixel_to_geodetic(*heatmap.peak_xy_px), -offset),
            flipped(heatmap.peak_covariance_px) * crop.gsd_m**2 + pointing,
            heatmap,
            alone.mass_near(heatmap.peak_xy_px),
            crop,
        )
        east, north = LocalEnu(shared.lat_deg, shared.lon_deg).to_enu(crop.lat_deg, crop.lon_deg)
        return _Answer(site, match, logits, east_m + east, north_m + north, before / before.sum())


def _evidence(answer: _Answer, answers: list[_Answer]) -> float:
    """Natural logarithm of how much likelier the view is at this answer's place than at the others.

    Likelihoods are exponentials of calibrated logits. Here: their mean over where the vehicle was expected, or over the
    peak's window where nothing was expected. Elsewhere: their mean over all nodes of all crops beyond the peak.
    """
    east, north = answer.peak_enu_m()
    stride_m = answer.match.heatmap.stride_px * answer.match.crop.gsd_m
    reach_m = PEAK_MASS_NODES * stride_m
    here = answer.before
    if answer.site.hypothesis is None:
        here = here * ((np.abs(answer.east_m - east) <= reach_m) & (np.abs(answer.north_m - north) <= reach_m))
        here = here / here.sum()
    beyond = [
        a.logits[((a.east_m - east) ** 2 + (a.north_m - north) ** 2 > (2 * reach_m) ** 2) & np.isfinite(a.logits)]
        for a in answers
    ]
    others = np.concatenate(beyond).astype(np.float64)
    if not len(others):
        return 0.0  # nothing to compare with
    elsewhere = float(np.logaddexp.reduce(others)) - math.log(len(others))
    with np.errstate(divide="ignore"):
        return float(np.logaddexp.reduce((answer.logits + np.log(here)).ravel())) - elsewhere
