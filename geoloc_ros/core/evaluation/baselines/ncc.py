# SPDX-License-Identifier: Apache-2.0
"""Template matching behind the network's interface, and all baselines by name, to compare with on equal terms.

They get the very views and crops that the network gets, know their scale and heading as it does, and may run
inside the same Localizer. Settings were chosen on training scenes (`is_held_out` false), for MA@20; ALIKED
with LightGlue has XFeat's where they correspond.
"""

import math
from dataclasses import replace

import cv2
import numpy as np

from geoloc_models.drl.alignment import Alignment
from geoloc_models.drl.heatmap import Heatmap
from geoloc_models.engines import Engine, EngineSpec, Placement
from geoloc_models.engines.pose_search import posed
from geoloc_models.engines.published_engine import heatmap_around
from geoloc_models.errors import GeolocError


class Baseline(Engine):
    """An engine without a network of ours, fed as the network's engine is, so that both get the same pixels."""

    name: str

    def __init__(self, like: EngineSpec, device: str = "cpu") -> None:
        self.spec = replace(like, weights_id=self.name, name="", device=device, takes_tensors=False, keeps_maps=False)


class NccEngine(Baseline):
    """Normalised cross-correlation of the whole grey view with the map.

    Measured on training scenes: the whole view beats its central 85, 70 and 50 %, grey values beat blurred
    ones and gradients, and a mirrored border beats a constant one.
    """

    name = "ncc"

    TEMPERATURE = 0.03
    """Softmax temperature of the correlation coefficient that makes its posterior most likely."""
    REACH_PX = 8
    """Half-width of the window around the peak that counts as the peak."""

    def infer(self, query: np.ndarray, search_map: np.ndarray) -> Heatmap:
        """Response map as a posterior over pixel corners, with a parabola through the best response."""
        # An even side puts the view's centre on a pixel corner, where the heatmap's nodes are.
        side = min(query.shape[:2]) // 2 * 2
        response = self.response(cv2.cvtColor(query[:side, :side], cv2.COLOR_RGB2GRAY), search_map)
        return self.heatmap(response, ((query.shape[1] - side) / 2, (query.shape[0] - side) / 2))

    @staticmethod
    def response(grey: np.ndarray, search_map: np.ndarray) -> np.ndarray:
        """(H + 1, W + 1) correlation coefficients with `grey` (even side) centred on each pixel corner of the map."""
        border = grey.shape[0] // 2
        padded = cv2.copyMakeBorder(
            cv2.cvtColor(search_map, cv2.COLOR_RGB2GRAY), border, border, border, border, cv2.BORDER_REFLECT_101
        )
        response = cv2.matchTemplate(padded, grey, cv2.TM_CCOEFF_NORMED)
        # A flat view or a flat piece of map has no correlation at all.
        return np.asarray(np.clip(np.nan_to_num(response, nan=-1.0, posinf=-1.0, neginf=-1.0), -1.0, 1.0))

    def heatmap(
        self, response: np.ndarray, shift_px: tuple[float, float] = (0.0, 0.0), stride_px: float = 1.0
    ) -> Heatmap:
        """The posterior of a response; shift_px: of the view's centre from the template's, (x, y); stride_px: map
        pixels between its nodes.
        """
        row, col = (int(i) for i in np.unravel_index(int(response.argmax()), response.shape))
        probability = np.exp((response - response.max()) / self.TEMPERATURE, dtype=np.float32)
        probability /= probability.sum()
        centre_xy = (
            col + _parabola_peak(response[row, max(col - 1, 0) : col + 2]),
            row + _parabola_peak(response[max(row - 1, 0) : row + 2, col]),
        )
        x_px, y_px = stride_px * (centre_xy[0] + shift_px[0]), stride_px * (centre_xy[1] + shift_px[1])
        return heatmap_around(probability, stride_px, (x_px, y_px), self.REACH_PX)


class NccPoseEngine(NccEngine):
    """Normalised cross-correlation under a grid of headings and scales, for views whose heading and height are wrong.

    The largest square that every heading of the grid shows is compared, so that no pose has more pixels to fit.
    """

    name = "ncc-pose"

    HEADINGS_DEG = np.arange(-25.0, 25.1, 5.0)
    SCALES = np.geomspace(0.7, 1.4, 9)
    LARGEST_PX = 512
    """Side of the map beyond which view and map are shrunk: 99 correlations at full resolution take minutes."""

    def infer(self, query: np.ndarray, search_map: np.ndarray) -> Heatmap:
        """As `place`, without the pose."""
        return self.place(query, search_map).heatmap

    def place(self, query: np.ndarray, search_map: np.ndarray) -> Placement:
        """The best response of all poses at each place, and the best pose, with parabolas through its neighbours."""
        full_map_px, full_ratio = search_map.shape[0], query.shape[0] / search_map.shape[0]
        factor = max(1.0, max(search_map.shape[:2]) / self.LARGEST_PX)
        query, search_map = _shrunk(query, factor), _shrunk(search_map, factor)
        # The factors of view and map differ by what whole pixels leave.
        uneven = query.shape[0] / search_map.shape[0] / full_ratio
        side, widest = query.shape[0], math.radians(float(self.HEADINGS_DEG[-1]))
        cut = math.ceil(side * (1.0 - 1.0 / (math.cos(widest) + math.sin(widest))) / 2)
        shown = side - 2 * cut
        # Even, as for one pose; the scales are those of whole pixels.
        sides = [2 * round(shown * scale / 2) for scale in self.SCALES]
        best = np.full((len(self.HEADINGS_DEG), len(sides)), -1.0)
        response = np.full((search_map.shape[0] + 1, search_map.shape[1] + 1), -1.0, np.float32)
        for turn, heading_deg in enumerate(self.HEADINGS_DEG):
            view = cv2.cvtColor(posed(query, float(heading_deg), 1.0), cv2.COLOR_RGB2GRAY)[cut:-cut, cut:-cut]
            for size, side_px in enumerate(sides):
                shrinking = cv2.INTER_AREA if side_px < shown else cv2.INTER_LINEAR
                own = self.response(cv2.resize(view, (side_px, side_px), interpolation=shrinking), search_map)
                best[turn, size] = own.max()
                response = np.maximum(response, own)
        heatmap = self.heatmap(response, stride_px=full_map_px / search_map.shape[0])
        turn, size = (int(i) for i in np.unravel_index(int(best.argmax()), best.shape))
        headings_rad, log_scales = np.deg2rad(self.HEADINGS_DEG), np.log(np.array(sides) / shown * uneven)
        steps = np.array([np.diff(headings_rad).mean(), np.diff(log_scales).mean()])
        # Uniform within a cell of the grid.
        covariance = np.diag([math.nan] * 2 + (steps**2 / 12).tolist() + [math.nan] * 2)
        covariance[:2, :2] = heatmap.peak_covariance_px
        alignment = Alignment(
            heatmap.peak_xy_px,
            float(headings_rad[turn] + steps[0] * _parabola_peak(best[max(turn - 1, 0) : turn + 2, size])),
            float(log_scales[size] + steps[1] * _parabola_peak(best[turn, max(size - 1, 0) : size + 2])),
            tilt_per_px=(0.0, 0.0),
            covariance=covariance,
            support=max(0.0, float(best.max())),
            evidence=float(best.max() - np.median(best)) / self.TEMPERATURE,
        )
        return Placement(heatmap, alignment)


def _shrunk(image: np.ndarray, factor: float) -> np.ndarray:
    size = round(image.shape[1] / factor), round(image.shape[0] / factor)
    return image if factor == 1.0 else np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


BASELINES = ("ncc", "ncc-pose", "sift", "xfeat", "xfeat-similarity", "aliked-lightglue")


def make_baseline(name: str, like: EngineSpec) -> Engine:
    """The baseline of this name, fed as `like` is fed; GeolocError if unknown or not installed."""
    # Feature matching builds on this module.
    from geoloc_ros.core.evaluation.baselines import feature_matching as features

    made: tuple[type[Baseline], ...] = (
        NccEngine,
        NccPoseEngine,
        features.SiftEngine,
        features.XFeatEngine,
        features.XFeatSimilarityEngine,
        features.AlikedLightGlueEngine,
    )
    if name not in BASELINES:
        raise GeolocError(f"there is no baseline '{name}'; choose from {', '.join(BASELINES)}")
    return made[BASELINES.index(name)](like)


def _parabola_peak(values: np.ndarray) -> float:
    """Where the parabola through three values peaks, from the middle one; 0 at a border or plateau."""
    if len(values) < 3:
        return 0.0
    left, middle, right = (float(value) for value in values)
    bend = left - 2 * middle + right
    return 0.5 * (left - right) / bend if bend < 0 else 0.0
