# SPDX-License-Identifier: Apache-2.0
"""Finds a lost vehicle on the whole map: retrieval names places, the network verifies them, frames add up."""

import itertools
import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from geoloc_models.ast.retriever import Retriever
from geoloc_models.drl.alignment import Alignment, PoseSpread
from geoloc_models.drl.heatmap import PEAK_MASS_NODES, Heatmap, heatmap_from_logits
from geoloc_models.engines import Placement
from geoloc_models.engines.network_engine import Answers, NetworkEngine
from geoloc_models.engines.placer import SUFFICIENT_EVIDENCE, between_poses, poses_within
from geoloc_models.engines.pose_search import HEADING_STEP_DEG, posed
from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.geometry.rectify import RectifiedView, rectify, view_centre_m
from geoloc_ros.core.maps.cached_crop import moved
from geoloc_ros.core.maps.crop import CropStatus, MapCrop, MapSource
from geoloc_ros.core.matching import gates
from geoloc_ros.core.matching.frame_view import camera_rotation, rectified_view, search_px
from geoloc_ros.core.matching.gates import Refused
from geoloc_ros.core.matching.match_frame import LEARNING_EVIDENCE, flipped, placed, pose_spread
from geoloc_ros.core.matching.pose_bias import PoseBiasFilter
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.matching.stage_times import StageTimes
from geoloc_ros.core.recording.frame import Frame, with_heading
from geoloc_ros.core.relocalization.gallery import Area, Gallery, is_flat
from geoloc_ros.core.relocalization.hypotheses import SAME_PLACE_M, Hypothesis, HypothesisFilter, Sighting

TRIED_PLACES = 2
"""Places of a frame where other poses are tried."""
WHOLE_PLACES = 4
"""New places of a frame that the network verifies at full resolution at most, beside hypotheses. The others are seen
at half of it, which ranks places nearly as well for a third of the time."""
LIKENESS = 12.0
"""Logits by which a place seen at half resolution may be less like the view than the best one and be verified too."""
COARSE_EXCESS = 4.5
"""Mean difference of wrong places' highest logits at half resolution and at all of it, two flights over two maps."""


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
    """A square of the map to verify: where the view's centre is expected, and the vehicle's pose if it is there.

    heading_deg: turn of the view that retrieval or the hypothesis says. bias: what else is wrong with the pose. frame:
    with both corrected. view: (h, h, 3) made with it. hypothesis: whose place it is.
    """

    lat_deg: float
    lon_deg: float
    heading_deg: float
    similarity: float
    hypothesis: Hypothesis | None
    bias: PoseBiasFilter
    frame: Frame
    view: np.ndarray

    @property
    def offset_m(self) -> np.ndarray:
        """The view's centre from the vehicle, east and north."""
        return view_centre_m(self.frame.camera, camera_rotation(self.frame), self.frame.height_m)


@dataclass(frozen=True)
class _Answer:
    """The network's answer about one site: (R, C) logits, -inf outside the square; ENU of the nodes about a place that
    all sites share, m; (R, C) probability that each node had before, of sum 1; alignment: of the view there, relative
    to the site's pose, None if the network cannot align.
    """

    site: _Site
    crop: MapCrop
    logits: np.ndarray
    heatmap: Heatmap
    alone: Heatmap
    before: np.ndarray
    east_m: np.ndarray
    north_m: np.ndarray
    alignment: Alignment | None

    @property
    def evidence(self) -> float:
        """Of the alignment."""
        return 0.0 if self.alignment is None else self.alignment.evidence

    @property
    def aligned(self) -> float:
        """Evidence of the alignment beyond what wrong places reach."""
        return max(0.0, self.evidence - SUFFICIENT_EVIDENCE)

    @property
    def score(self) -> float:
        """Of places that compete for a try with another pose."""
        return float(self.logits.max()) + self.evidence

    @property
    def pose(self) -> tuple[float, float]:
        """Heading, degrees, and scale that the alignment shows."""
        a = self.alignment
        return (0.0, 1.0) if a is None else (math.degrees(a.heading_rad), math.exp(a.log_scale))

    def peak_enu_m(self) -> tuple[float, float]:
        """Where the match lies in the shared frame."""
        col, row = (round(value / self.heatmap.stride_px) for value in self.heatmap.peak_xy_px)
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
        whole_places: int = WHOLE_PLACES,
    ) -> None:
        """`gallery` is of map_source, which opening it checks; GeolocError if it is of other weights."""
        self._whole_places = whole_places
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
        self._tried = 0
        self._gsd_m = math.nan
        self._passed_over: list[tuple[float, float, float]] = []  # stamp_s, lat_deg, lon_deg

    def narrow(self, area: Area | None) -> None:
        """Go on with the search within another area."""
        self._area = area

    def process(self, frame: Frame) -> Search:
        """Weigh one frame. Raises Refused if it says nothing about the place."""
        times = StageTimes()
        view, tile_view, tile_m = self._views(frame)
        times.lap("rectify")
        self._filter.predict(frame)
        oldest_s = frame.stamp_s - self._settings.search.memory_s
        self._passed_over = [place for place in self._passed_over if place[0] >= oldest_s]
        sites = self._sites(frame, view, tile_view, tile_m)
        times.lap("retrieve")
        crops, sites = self._crops(view, sites, tile_m / 2)
        times.lap("crop")
        answers = self._verify(sites, crops, tile_m / 2)
        times.lap("network")
        winner, reason = self._weigh(frame, answers, view)
        times.lap("post")
        candidates = (*(replace(h, tracker=h.tracker.copy()) for h in self._filter.hypotheses), *self._filter.rejected)
        return Search(candidates, candidates[0] if winner else None, reason, view, len(crops), times)

    def _views(self, frame: Frame) -> tuple[RectifiedView, np.ndarray, float]:
        """The view for the network, and for retrieval the view that a tile would show, with the tile's side in m."""
        # At one resolution, so that a square of the map that is verified again shows the same pixels.
        view = rectified_view(frame, self._engine, 0.0, self._settings, like_m=self._gsd_m)
        self._gsd_m = view.gsd_m
        gates.check_view(view, self._settings.gate)
        if is_flat(view.image):
            raise Refused("lost: the camera sees one colour, nothing tells places apart", view=view)
        tile_m = self._tile_m(view.gsd_m * self._engine.spec.query_px)
        return view, self._tile_view(frame, tile_m), tile_m

    def _weigh(self, frame: Frame, answers: list[_Answer], view: RectifiedView) -> tuple[Hypothesis | None, str]:
        """Take the answers of one frame into the filter; its verdict."""
        stamp_s, sightings = frame.stamp_s, []
        for a in answers:
            site, placement = a.site, Placement(a.heatmap, a.alignment, a.alone)
            reported = with_heading(frame, site.heading_deg)
            match = placed(reported, view.gsd_m, site.offset_m, a.crop, placement, site.bias, self._settings)
            sightings.append(Sighting(match, _evidence(a, answers), site.heading_deg, site.similarity, site.hypothesis))
        view_m = view.gsd_m * self._engine.spec.query_px
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

    def _sites(self, frame: Frame, view: RectifiedView, tile_view: np.ndarray, tile_m: float) -> list[_Site]:
        """Where the hypotheses went, then what retrieval proposes besides; `search.places` in all."""
        s = self._settings.search
        trusted = self._settings.pose.heading_trusted
        headings = [0.0] if trusted else np.arange(0.0, 360.0, HEADING_STEP_DEG).tolist()
        vectors = self._retriever.embed(np.stack([posed(tile_view, heading, 1.0) for heading in headings]))
        count = s.places + len(self._passed_over)
        places = self._gallery.search_places(vectors, count, self._area, tile_m / 2)
        if not len(places.tile):
            raise Refused("lost: the gallery has no tile in the allowed area, increase search.radius_m", view=view)
        sites = [self._site_of(hypothesis, frame, view) for hypothesis in self._filter.hypotheses]
        # Ground that a hypothesis's own square shows, or that did not fit a moment ago.
        known = [(site.lat_deg, site.lon_deg) for site in sites]
        known += [(lat, lon) for _, lat, lon in self._passed_over]
        for row in range(len(places.tile)):
            place = float(places.lat_deg[row]), float(places.lon_deg[row])
            enu = LocalEnu(*place)
            if all(math.hypot(*enu.to_enu(*other)) >= tile_m / 4 for other in known):
                heading_deg = headings[places.query[row]]
                bias = PoseBiasFilter(self._settings.pose)
                image = posed(view.image, heading_deg, 1.0)
                seen = with_heading(frame, heading_deg)
                sites.append(_Site(*place, heading_deg, float(places.score[row]), None, bias, seen, image))
        return sites[: s.places]

    def _site_of(self, hypothesis: Hypothesis, frame: Frame, view: RectifiedView) -> _Site:
        """Where a hypothesis expects the view, made with the pose that it has learned."""
        bias = hypothesis.bias or PoseBiasFilter(self._settings.pose)
        seen = hypothesis.corrected(frame)
        rotation = camera_rotation(seen)
        assert seen.image is not None  # the rectified view has been made of it
        image = rectify(seen.image, seen.camera, rotation, seen.height_m, view.gsd_m, view.pixels.shape[0]).image
        place = moved(hypothesis.tracker.place, view_centre_m(seen.camera, rotation, seen.height_m))
        return _Site(*place, hypothesis.heading_deg, hypothesis.similarity, hypothesis, bias, seen, image)

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

    def _verify(self, sites: list[_Site], crops: list[MapCrop], half_m: float) -> list[_Answer]:
        """The network's answers about all sites; with another pose where the view aligns better with that one."""
        shared = LocalEnu(crops[0].lat_deg, crops[0].lon_deg)
        coarse = self._coarse_answers(sites, crops, shared)
        whole = [index for index in range(len(sites)) if index not in coarse]
        own = self._engine_answers([sites[index].view for index in whole], [crops[index].image for index in whole])
        found = {index: (own, row) for row, index in enumerate(whole)} | coarse
        answers = [
            self._answer(site, crop, *found[index], half_m, shared, (0.0, 1.0))
            for index, (site, crop) in enumerate(zip(sites, crops, strict=True))
        ]
        if own.aligner is not None:
            self._try_poses(answers, half_m, shared)
        return answers

    def _coarse_answers(
        self, sites: list[_Site], crops: list[MapCrop], shared: LocalEnu
    ) -> dict[int, tuple[Answers, int]]:
        """Answers at half the resolution and the row in them, not aligned, of sites that are not worth all of it.

        Hypotheses are worth it, and of the others those that look most like the view, each another place.
        """
        spec = self._engine.spec
        new = [index for index, site in enumerate(sites) if site.hypothesis is None]
        if len(new) < 2 or len(sites) <= self._whole_places or spec.query_px % (2 * spec.map_multiple_px):
            return {}
        views, maps = [_halved(sites[index].view) for index in new], [_halved(crops[index].image) for index in new]
        found = self._engine_answers(views, maps)
        answers = Answers(found.logits - np.float32(COARSE_EXCESS), 2 * found.stride_px, None)
        peaks = found.logits.max((1, 2))
        taken = [shared.to_enu(site.lat_deg, site.lon_deg) for site in sites if site.hypothesis is not None]
        known, left = len(taken), {}
        for row in np.argsort(-peaks, kind="stable").tolist():
            index = new[row]
            place = _peak_enu_m(crops[index], found.logits[row], answers.stride_px, shared)
            if (
                len(taken) < known + self._whole_places
                and peaks[row] >= peaks.max() - LIKENESS
                and all(math.dist(place, other) >= SAME_PLACE_M for other in taken)
            ):
                taken.append(place)
            else:
                left[index] = (answers, row)
        return left

    def _try_poses(self, answers: list[_Answer], half_m: float, shared: LocalEnu) -> None:
        """Replace answers that do not align by those of other poses that do better: of each alignment's own, and of one
        more in turn.
        """
        likeliest = sorted(range(len(answers)), key=lambda index: answers[index].score, reverse=True)
        likeliest = [index for index in likeliest if _unaligned(answers[index])][:TRIED_PLACES]
        tries = [(index, answers[index].pose) for index in likeliest]
        if poses := self._other_poses():
            tries += [(index, poses[self._tried % len(poses)]) for index in likeliest]
            self._tried += 1
        if not tries:
            return
        views = [posed(answers[index].site.view, *pose) for index, pose in tries]
        found = self._engine_answers(views, [answers[index].crop.image for index, _ in tries])
        for row, (index, pose) in enumerate(tries):
            before = answers[index]
            tried = self._answer(before.site, before.crop, found, row, half_m, shared, pose)
            if tried.evidence >= max(LEARNING_EVIDENCE, before.evidence):
                answers[index] = tried

    def _other_poses(self) -> list[tuple[float, float]]:
        """Headings (degrees) and scales of a view that are tried in turn, one a frame."""
        pose = self._settings.pose
        spread = PoseSpread(math.radians(pose.bias_heading_deg), pose.bias_height_share)
        poses = [pose for pose in itertools.product(*poses_within(spread)) if pose != (0.0, 1.0)]
        return sorted(poses, key=lambda pose: abs(pose[0]))

    def _engine_answers(self, views: list[np.ndarray], maps: list[np.ndarray]) -> Answers:
        """One call of the network; one view for all is encoded once."""
        if all(np.array_equal(view, views[0]) for view in views[1:]):
            views = views[:1]
        return self._engine.answers(np.stack(views), np.stack(maps))

    def _answer(
        self,
        site: _Site,
        crop: MapCrop,
        found: Answers,
        index: int,
        half_m: float,
        shared: LocalEnu,
        pose: tuple[float, float],
    ) -> _Answer:
        """What `found` holds at `index` about a site. pose: heading, degrees, and scale that its view was posed by."""
        logits, stride_px = found.logits[index], found.stride_px
        rows, cols = np.ogrid[: logits.shape[0], : logits.shape[1]]
        east_m = cols * stride_px * crop.gsd_m - crop.size_m / 2
        north_m = crop.size_m / 2 - rows * stride_px * crop.gsd_m
        # Nodes nearer to the rim would show the network part of the view's ground only.
        inside = (np.abs(east_m) <= half_m) & (np.abs(north_m) <= half_m)
        logits = np.where(inside, logits, -np.inf).astype(np.float32)
        alone = heatmap = heatmap_from_logits(logits, stride_px)
        before = inside.astype(np.float64)
        if site.hypothesis is not None:
            pointing = site.bias.pointing_covariance(site.frame, site.offset_m, self._settings.pose)
            spread = site.hypothesis.tracker.track().covariance[:2, :2] + pointing
            spread = spread + np.eye(2) * self._settings.map.sigma_m**2
            a, b, c = np.linalg.inv(spread)[np.triu_indices(2)]
            before *= np.exp(-0.5 * (a * east_m**2 + 2 * b * east_m * north_m + c * north_m**2))
            middle = (crop.image.shape[1] / 2, crop.image.shape[0] / 2)
            heatmap = alone.given(middle, flipped(spread) / crop.gsd_m**2)
        alignment = None
        if found.aligner is not None:
            known = pose_spread(site.bias, site.frame, crop.gsd_m, self._settings)
            alignment = _aligned(found, index, heatmap.peak_xy_px, known, pose)
        east, north = shared.to_enu(crop.lat_deg, crop.lon_deg)
        before = before / before.sum()
        return _Answer(site, crop, logits, heatmap, alone, before, east_m + east, north_m + north, alignment)


def _halved(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def _peak_enu_m(crop: MapCrop, logits: np.ndarray, stride_px: float, shared: LocalEnu) -> tuple[float, float]:
    """Where the highest of a crop's logits lies."""
    row, col = np.unravel_index(int(logits.argmax()), logits.shape)
    east, north = shared.to_enu(crop.lat_deg, crop.lon_deg)
    reach_m = crop.size_m / 2
    return float(east + col * stride_px * crop.gsd_m - reach_m), float(north + reach_m - row * stride_px * crop.gsd_m)


def _unaligned(answer: _Answer) -> bool:
    """Whether the view was aligned there and did not fit."""
    return answer.alignment is not None and answer.aligned == 0.0


def _aligned(
    found: Answers, index: int, xy_px: tuple[float, float], known: PoseSpread, pose: tuple[float, float]
) -> Alignment:
    """The alignment of a view that was posed, relative to the view as it was before."""
    assert found.aligner is not None
    a = found.aligner.align(index, xy_px, known if pose == (0.0, 1.0) else between_poses(known))
    return a.of_unposed(*pose)


def _evidence(answer: _Answer, answers: list[_Answer]) -> float:
    """Natural logarithm of how much likelier the view is at this answer's place than at the others.

    Likelihoods are exponentials of calibrated logits. Here: their mean over where the vehicle was expected, or over the
    peak's window where nothing was expected. Elsewhere: their mean over all nodes of all crops beyond the peak.
    What the alignment says beyond chance counts besides: its blocks see detail that the logits do not.
    """
    east, north = answer.peak_enu_m()
    stride_m = answer.heatmap.stride_px * answer.crop.gsd_m
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
        return answer.aligned  # nothing to compare with
    elsewhere = float(np.logaddexp.reduce(others)) - math.log(len(others))
    with np.errstate(divide="ignore"):
        present = float(np.logaddexp.reduce((answer.logits + np.log(here)).ravel()))
    return present - elsewhere + answer.aligned
