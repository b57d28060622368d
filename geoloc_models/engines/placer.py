# SPDX-License-Identifier: Apache-2.0
"""A view whose pose is not exactly known: find it, search over headings and heights where needed, and align it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
class _Candidate:
    """One place of one pose: what the network and the alignment say."""

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

    def placement(self, log_odds: float = math.inf) -> Placement:
        """The answer, relative to the view as it was given."""
        a = self.alignment
        if math.dist(self.heatmap.peak_xy_px, a.centre_xy_px) > RIVAL_PX:
            log_odds = min(log_odds, 0.0)  # the heatmap's own peak is the next place
        return Placement(self.heatmap, a.of_unposed(self.heading_deg, self.scale), self.alone, log_odds)


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
        answers = self._engine.answers(query[None], search_map[None])
        first = self._candidates(answers, [(0.0, 1.0)], spread, prior, 1)
        if not first:
            heatmap, alone = _heatmaps(answers, 0, prior)
            return Placement(heatmap, alone=alone)
        best, poses = first[0], poses_within(spread)
        a = best.alignment
        if a.evidence < SUFFICIENT_EVIDENCE and len(poses) > 1:
            views = np.stack([posed(_array(query), heading, scale) for heading, scale in poses])
            answers = self._engine.answers(views, search_map[None])
            found = [*first, *self._candidates(answers, poses, spread, prior, MODES)]
            found.sort(key=lambda c: c.score, reverse=True)
            warped = self._warped(query, search_map, found[:WARPED], prior)
            best = max(warped, key=lambda c: c.score)
            rivals = [c.score for c in (*warped, *found[WARPED:]) if _apart_px(c, best) > RIVAL_PX]
            return best.placement(best.score - max(rivals, default=-math.inf))
        if abs(math.degrees(a.heading_rad)) > WARP_HEADING_DEG or abs(a.log_scale) > math.log(WARP_SCALE):
            best = max(best, *self._warped(query, search_map, [best], prior), key=lambda c: c.alignment.support)
        return best.placement()

    def _candidates(
        self,
        answers: Answers,
        poses: Sequence[tuple[float, float]],
        spread: PoseSpread,
        prior: Prior | None,
        count: int,
    ) -> list[_Candidate]:
        """The likeliest places over all poses, aligned; empty without a head for alignment."""
        if answers.aligner is None:
            return []
        around = spread if len(poses) == 1 else between_poses(spread)
        logits = answers.logits
        if prior is not None:
            logits = logits + prior_logits(prior, logits.shape[1:], answers.stride_px)
        return [
            _Candidate(
                *poses[index], *_heatmaps(answers, index, prior), logit, answers.aligner.align(index, xy_px, around)
            )
            for index, own in enumerate(logits)
            for xy_px, logit in modes(own, answers.stride_px, count)
        ]

    def _warped(
        self, query: np.ndarray | Tensor, search_map: np.ndarray, candidates: Sequence[_Candidate], prior: Prior | None
    ) -> list[_Candidate]:
        """The candidates with the view warped by the heading and scale of each, aligned again where each has been."""
        poses = [
            (c.heading_deg + math.degrees(c.alignment.heading_rad), c.scale * math.exp(c.alignment.log_scale))
            for c in candidates
        ]
        views = np.stack([posed(_array(query), heading, scale) for heading, scale in poses])
        answers = self._engine.answers(views, search_map[None])
        assert answers.aligner is not None
        weighted = answers.logits
        if prior is not None:
            weighted = weighted + prior_logits(prior, weighted.shape[1:], answers.stride_px)
        warped = []
        for index, ((heading_deg, scale), before) in enumerate(zip(poses, candidates, strict=True)):
            xy_px = before.alignment.centre_xy_px
            logit = logit_near(weighted[index], xy_px, answers.stride_px)
            alignment = answers.aligner.align(index, xy_px, AFTER_WARP)
            warped.append(_Candidate(heading_deg, scale, *_heatmaps(answers, index, prior), logit, alignment))
        return warped


def placing(engine: Engine) -> Engine:
    """The engine with alignment, if it is a network's; others as they are."""
    return Placer(engine) if isinstance(engine, NetworkEngine) else engine


def poses_within(spread: PoseSpread) -> list[tuple[float, float]]:
    """Headings (degrees) and scales to try so that two sigma are covered: as it is given among them, all if unknown."""
    step = math.radians(HEADING_STEP_DEG)
    turns = math.ceil(max(0.0, 2 * spread.heading_rad - step / 2) / step)
    around = round(360.0 / HEADING_STEP_DEG)
    headings = range(-turns, turns + 1) if 2 * turns + 1 < around else range(around)
    sizes = math.ceil(max(0.0, 2 * spread.log_scale - math.log(SCALE_STEP) / 2) / math.log(SCALE_STEP))
    return [(HEADING_STEP_DEG * turn, SCALE_STEP**size) for turn in headings for size in range(-sizes, sizes + 1)]


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
    return math.dist(one.alignment.centre_xy_px, other.alignment.centre_xy_px)


def _array(query: np.ndarray | Tensor) -> np.ndarray:
    return query if isinstance(query, np.ndarray) else query.cpu().numpy()
