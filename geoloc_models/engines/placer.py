# SPDX-License-Identifier: Apache-2.0
"""A view whose pose is not exactly known: find it, search over headings and heights where needed, and align it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from torch import Tensor

from geoloc_models.drl.alignment import Alignment, PoseSpread
from geoloc_models.drl.heatmap import SECOND_MODE_NODES, Heatmap, heatmap_from_logits, modes, node_distance2
from geoloc_models.engines import Engine, Placement
from geoloc_models.engines.network_engine import Answers, NetworkEngine
from geoloc_models.engines.pose_search import posed

SUFFICIENT_EVIDENCE = 32.0
"""Evidence of an alignment at which no other pose is tried: the wrong places of held-out pairs stay below it."""
HEADING_STEP_DEG, SCALE_STEP = 18.0, 1.3
"""Between poses that are tried; the network and the alignment find what lies between them."""
MODES = 2
"""Places of each pose that are aligned in a search."""
WARPED = 6
"""Places of a search whose views are warped by the pose that was found there, and aligned again."""
SAME_PX, SAME_HEADING_DEG, SAME_SCALE = 16.0, 5.0, 1.07
"""Candidates nearer than this in all three are one."""
RIVAL_PX = 40.0
"""Distance from which another candidate is another place."""
WARP_HEADING_DEG, WARP_SCALE = 4.0, 1.07
"""Outside a search a view that is turned or scaled by more than this is warped and aligned again."""
AFTER_WARP = PoseSpread(math.radians(4.0), 0.06)


@dataclass(frozen=True)
class Prior:
    """Where the view's centre is expected: (x, y) on the map, pixel edges, and its covariance (2, 2), px^2."""

    xy_px: tuple[float, float]
    covariance_px: np.ndarray


@dataclass(frozen=True)
class _Level:
    """The map at one ground sample distance; px: pixels of the given map per pixel of this one."""

    image: np.ndarray
    px: float
    prior: Prior | None

    @classmethod
    def of(cls, search_map: np.ndarray, prior: Prior | None, scale: float) -> "_Level":
        """As a view sees it that shows `scale` times the ground that it is thought to show."""
        side = round(search_map.shape[1] / scale)
        px = search_map.shape[1] / side
        if px == 1.0:
            return cls(search_map, 1.0, prior)
        size = side, round(search_map.shape[0] / px)
        image = cv2.resize(search_map, size, interpolation=cv2.INTER_AREA if px > 1 else cv2.INTER_LINEAR)
        if prior is not None:
            x, y = prior.xy_px
            prior = Prior((x / px, y / px), prior.covariance_px / px**2)
        return cls(image, px, prior)


@dataclass(frozen=True)
class _Candidate:
    """One place of one pose: what the network and the alignment say, on a level of the map.

    heading_deg, scale: what the view was posed by.
    """

    level: _Level
    heading_deg: float
    scale: float
    heatmap: Heatmap
    alone: Heatmap
    logit: float
    alignment: Alignment

    @property
    def score(self) -> float:
        """Of places and poses that compete."""
        return self.logit + self.alignment.evidence

    @property
    def whole(self) -> Alignment:
        """Of the view as it was given, on the map as it was given."""
        return self.alignment.of_unposed(self.heading_deg, self.scale).magnified(self.level.px)

    def placement(self, log_odds: float = math.inf) -> Placement:
        """The answer, relative to the view as it was given."""
        a, px = self.whole, self.level.px
        heatmap, alone = self.heatmap.magnified(px), self.alone.magnified(px)
        if math.dist(heatmap.peak_xy_px, a.centre_xy_px) > RIVAL_PX:
            log_odds = min(log_odds, 0.0)  # the heatmap's own peak is the next place
        return Placement(heatmap, a, alone, log_odds)


class Placer(Engine):
    """An engine and what aligns its answers. Without a head for alignment it answers as the engine does."""

    def __init__(self, engine: NetworkEngine) -> None:
        self._engine = engine
        self.spec = engine.spec

    def infer(self, query: np.ndarray, search_map: np.ndarray) -> Heatmap:
        """As Engine."""
        return self._engine.infer(query, search_map)

    def prepare(self, search_map: np.ndarray) -> None:
        """As Engine."""
        self._engine.prepare(search_map)

    def place(
        self,
        query: np.ndarray | Tensor,
        search_map: np.ndarray,
        spread: PoseSpread | None = None,
        prior: Prior | None = None,
    ) -> Placement:
        """Where and how the view lies on the map; images and errors as NetworkEngine.infer.

        spread: what is known of the pose; if it leaves room for poses at which the network would not find the view, and
        the view as it is given does not align, those are tried too. prior: weights the heatmap.
        """
        spread = spread or PoseSpread()
        level = _Level(search_map, 1.0, prior)
        answers = self._engine.answers(query[None], search_map[None])
        first = self._candidates(answers, level, [0.0], spread, 1)
        if not first:
            heatmap, alone = _heatmaps(answers, 0, prior)
            return Placement(heatmap, alone=alone)
        best = first[0]
        a = best.alignment
        headings, scales = poses_within(spread)
        if a.evidence < SUFFICIENT_EVIDENCE and len(headings) * len(scales) > 1:
            return self._searched(_array(query), level, first, spread)
        if abs(math.degrees(a.heading_rad)) > WARP_HEADING_DEG or abs(a.log_scale) > math.log(WARP_SCALE):
            best = max(best, *self._warped(_array(query), [level], [best]), key=lambda c: c.alignment.support)
        return best.placement()

    def _searched(self, query: np.ndarray, given: _Level, first: list[_Candidate], spread: PoseSpread) -> Placement:
        """The best over all headings and scales within the spread, aligned, with its odds against the next place."""
        headings, scales = poses_within(spread)
        views = np.stack([posed(query, heading, 1.0) for heading in headings])
        levels = [_Level.of(given.image, given.prior, scale) for scale in scales]
        levels = [level for level in levels if min(level.image.shape[:2]) >= query.shape[0]]
        found = list(first)
        for level in levels:
            answers = self._engine.answers(views, level.image[None])
            found += self._candidates(answers, level, headings, between_poses(spread), MODES)
        found = distinct(found)
        warped = self._warped(query, levels, found[:WARPED])
        best = max(warped, key=lambda c: c.score)
        rivals = [c.score for c in (*warped, *found[WARPED:]) if _apart_px(c, best) > RIVAL_PX]
        return best.placement(best.score - max(rivals, default=-math.inf))

    def _candidates(
        self, answers: Answers, level: _Level, headings: Sequence[float], around: PoseSpread, count: int
    ) -> list[_Candidate]:
        """The likeliest places of all headings, aligned; empty without a head for alignment."""
        if answers.aligner is None:
            return []
        logits = _weighted(answers, level)
        return [
            _Candidate(
                level,
                headings[index],
                1.0,
                *_heatmaps(answers, index, level.prior),
                logit,
                answers.aligner.align(index, xy_px, around),
            )
            for index, own in enumerate(logits)
            for xy_px, logit in modes(own, answers.stride_px, count)
        ]

    def _warped(
        self, query: np.ndarray, levels: Sequence[_Level], candidates: Sequence[_Candidate]
    ) -> list[_Candidate]:
        """The candidates with the view warped by the heading and scale of each, on the level that suits it, aligned
        again where each has been.
        """
        warped = []
        chosen = [min(levels, key=lambda level: abs(c.whole.log_scale - math.log(level.px))) for c in candidates]
        for level in levels:
            whole = [c.whole for c, own in zip(candidates, chosen, strict=True) if own is level]
            if not whole:
                continue
            poses = [(math.degrees(a.heading_rad), math.exp(a.log_scale) / level.px) for a in whole]
            views = np.stack([posed(query, heading, scale) for heading, scale in poses])
            answers = self._engine.answers(views, level.image[None])
            assert answers.aligner is not None
            logits = _weighted(answers, level)
            for index, ((heading_deg, scale), a) in enumerate(zip(poses, whole, strict=True)):
                xy_px = (a.centre_xy_px[0] / level.px, a.centre_xy_px[1] / level.px)
                logit = logit_near(logits[index], xy_px, answers.stride_px)
                alignment = answers.aligner.align(index, xy_px, AFTER_WARP)
                heatmaps = _heatmaps(answers, index, level.prior)
                warped.append(_Candidate(level, heading_deg, scale, *heatmaps, logit, alignment))
        return warped


def distinct(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """The best first, without those that found what a better one has found: its place, heading and scale."""
    found: list[_Candidate] = []
    for c in sorted(candidates, key=lambda c: c.score, reverse=True):
        if not any(_same(c.whole, other.whole) for other in found):
            found.append(c)
    return found


def _same(one: Alignment, other: Alignment) -> bool:
    turn = abs(math.remainder(one.heading_rad - other.heading_rad, 2 * math.pi))
    return (
        math.dist(one.centre_xy_px, other.centre_xy_px) < SAME_PX
        and turn < math.radians(SAME_HEADING_DEG)
        and abs(one.log_scale - other.log_scale) < math.log(SAME_SCALE)
    )


def placing(engine: Engine) -> Engine:
    """The engine with alignment, if it is a network's; others as they are."""
    return Placer(engine) if isinstance(engine, NetworkEngine) else engine


def poses_within(spread: PoseSpread) -> tuple[list[float], list[float]]:
    """Headings (degrees) and scales that cover two sigma of a spread, 0 and 1 among them; all headings if unknown."""
    step = math.radians(HEADING_STEP_DEG)
    turns = math.ceil(max(0.0, 2 * spread.heading_rad - step / 2) / step)
    around = round(360.0 / HEADING_STEP_DEG)
    headings = range(-turns, turns + 1) if 2 * turns + 1 < around else range(around)
    sizes = math.ceil(max(0.0, 2 * spread.log_scale - math.log(SCALE_STEP) / 2) / math.log(SCALE_STEP))
    return [HEADING_STEP_DEG * turn for turn in headings], [SCALE_STEP**size for size in range(-sizes, sizes + 1)]


def between_poses(spread: PoseSpread) -> PoseSpread:
    """What is left of a spread for a view that one of `poses_within` has posed: the others look further."""
    return replace(
        spread,
        heading_rad=min(spread.heading_rad, math.radians(HEADING_STEP_DEG / 2)),
        log_scale=min(spread.log_scale, math.log(SCALE_STEP) / 2),
    )


def prior_logits(prior: Prior, size: Sequence[int], stride_px: float) -> np.ndarray:
    """(R, C) logarithm of the prior's density at the nodes, 0 at its highest."""
    distance2 = node_distance2(size, stride_px, prior.xy_px, prior.covariance_px)
    return np.asarray(-0.5 * (distance2 - distance2.min()), np.float32)


def _weighted(answers: Answers, level: _Level) -> np.ndarray:
    """(B, R, C) logits with the prior's, if there is one."""
    if level.prior is None:
        return answers.logits
    return answers.logits + prior_logits(level.prior, answers.logits.shape[1:], answers.stride_px)


def logit_near(logits: np.ndarray, xy_px: tuple[float, float], stride_px: float) -> float:
    """The highest of (R, C) logits around a place."""
    row, col = round(xy_px[1] / stride_px), round(xy_px[0] / stride_px)
    top, left = max(0, row - SECOND_MODE_NODES), max(0, col - SECOND_MODE_NODES)
    window = logits[top : max(0, row + SECOND_MODE_NODES + 1), left : max(0, col + SECOND_MODE_NODES + 1)]
    return float(window.max()) if window.size else -math.inf


def _heatmaps(answers: Answers, index: int, prior: Prior | None) -> tuple[Heatmap, Heatmap]:
    """Posterior given the prior, and by the network alone."""
    alone = heatmap_from_logits(answers.logits[index], answers.stride_px)
    return (alone if prior is None else alone.given(prior.xy_px, prior.covariance_px)), alone


def _apart_px(one: _Candidate, other: _Candidate) -> float:
    return math.dist(one.whole.centre_xy_px, other.whole.centre_xy_px)


def _array(query: np.ndarray | Tensor) -> np.ndarray:
    return query if isinstance(query, np.ndarray) else query.cpu().numpy()
