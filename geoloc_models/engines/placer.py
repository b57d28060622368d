# SPDX-License-Identifier: Apache-2.0
"""A view whose pose is not exactly known: find it, search over headings and heights where needed, and align it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from geoloc_models.drl.alignment import Alignment, PoseSpread
from geoloc_models.drl.heatmap import Heatmap, heatmap_from_logits, modes
from geoloc_models.engines import Engine, Placement
from geoloc_models.engines.network_engine import Answers, NetworkEngine
from geoloc_models.engines.pose_search import posed

SUFFICIENT_SUPPORT = 0.45
"""Support of an alignment at which no other pose is tried."""
HEADING_STEP_DEG, SCALE_STEP = 18.0, 1.3
"""Between poses that are tried; the network and the alignment find what lies between them."""
MODES = 3
"""Places of one heatmap that are aligned in a search."""
ALIGNED = 8
"""Places of all heatmaps of a search that are aligned."""
REWARP_HEADING_DEG, REWARP_SCALE = 4.0, 1.07
"""A view that is turned or scaled by more than this is warped by it and aligned again."""
REWARPED = PoseSpread(math.radians(4.0), 0.06)


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

    def placement(self) -> Placement:
        """The answer, relative to the view as it was given."""
        a = self.alignment
        total = replace(
            a, heading_rad=a.heading_rad + math.radians(self.heading_deg), log_scale=a.log_scale + math.log(self.scale)
        )
        return Placement(self.heatmap, total, self.alone)


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
        if best.alignment.support < SUFFICIENT_SUPPORT and len(poses) > 1:
            image = query if isinstance(query, np.ndarray) else query.cpu().numpy()
            views = np.stack([posed(image, heading, scale) for heading, scale in poses])
            answers = self._engine.answers(views, search_map[None])
            best = max(self._candidates(answers, poses, spread, prior, ALIGNED), key=lambda c: c.score)
        return self._rewarped(query, search_map, best, prior).placement()

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
        around = (
            spread
            if len(poses) == 1
            else PoseSpread(
                min(spread.heading_rad, math.radians(HEADING_STEP_DEG / 2)),
                min(spread.log_scale, math.log(SCALE_STEP) / 2),
            )
        )
        logits = answers.logits
        if prior is not None:
            logits = logits + prior_logits(prior, logits.shape[1:], answers.stride_px)
        found = [
            (logit, index, xy_px)
            for index, own in enumerate(logits)
            for xy_px, logit in modes(own, answers.stride_px, min(count, MODES))
        ]
        found.sort(reverse=True)
        return [
            _Candidate(
                *poses[index], *_heatmaps(answers, index, prior), logit, answers.aligner.align(index, xy_px, around)
            )
            for logit, index, xy_px in found[:count]
        ]

    def _rewarped(
        self, query: np.ndarray | Tensor, search_map: np.ndarray, best: _Candidate, prior: Prior | None
    ) -> _Candidate:
        """The candidate with its view warped by its own heading and scale, if they are large."""
        a = best.alignment
        if abs(math.degrees(a.heading_rad)) < REWARP_HEADING_DEG and abs(a.log_scale) < math.log(REWARP_SCALE):
            return best
        heading_deg = best.heading_deg + math.degrees(a.heading_rad)
        scale = best.scale * math.exp(a.log_scale)
        image = query if isinstance(query, np.ndarray) else query.cpu().numpy()
        answers = self._engine.answers(posed(image, heading_deg, scale)[None], search_map[None])
        assert answers.aligner is not None
        again = answers.aligner.align(0, a.centre_xy_px, REWARPED)
        if again.support < a.support:
            return best
        return _Candidate(heading_deg, scale, *_heatmaps(answers, 0, prior), best.logit, again)


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


def prior_logits(prior: Prior, size: Sequence[int], stride_px: float) -> np.ndarray:
    """(R, C) logarithm of the prior's density at the nodes, 0 at its highest."""
    rows, cols = np.ogrid[: size[0], : size[1]]
    dx, dy = cols * stride_px - prior.xy_px[0], rows * stride_px - prior.xy_px[1]
    inverse = np.linalg.inv(prior.covariance_px)
    distance2 = inverse[0, 0] * dx * dx + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy * dy
    return np.asarray(-0.5 * (distance2 - distance2.min()), np.float32)


def _heatmaps(answers: Answers, index: int, prior: Prior | None) -> tuple[Heatmap, Heatmap]:
    """Posterior given the prior, and by the network alone."""
    alone = heatmap_from_logits(answers.logits[index], answers.stride_px)
    return (alone if prior is None else alone.given(prior.xy_px, prior.covariance_px)), alone
