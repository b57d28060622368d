# SPDX-License-Identifier: Apache-2.0
"""Template matching behind the network's interface, and all baselines by name, to compare with on equal terms.

They get the very views and crops that the network gets, know their scale and heading as it does, and may run
inside the same Localizer. Settings were chosen on training scenes (`is_held_out` false), for MA@20; ALIKED
with LightGlue has XFeat's where they correspond.
"""

from dataclasses import replace

import cv2
import numpy as np

from geoloc_models.drl.heatmap import Heatmap
from geoloc_models.engines import Engine, EngineSpec
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
        grey = cv2.cvtColor(query[:side, :side], cv2.COLOR_RGB2GRAY)
        border = side // 2
        padded = cv2.copyMakeBorder(
            cv2.cvtColor(search_map, cv2.COLOR_RGB2GRAY), border, border, border, border, cv2.BORDER_REFLECT_101
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
        return heatmap_around(probability, 1.0, (centre_xy[0] + shift[0], centre_xy[1] + shift[1]), self.REACH_PX)


BASELINES = ("ncc", "sift", "xfeat", "aliked-lightglue")


def make_baseline(name: str, like: EngineSpec) -> Engine:
    """The baseline of this name, fed as `like` is fed; GeolocError if unknown or not installed."""
    # Feature matching builds on this module.
    from geoloc_ros.core.evaluation.baselines.feature_matching import AlikedLightGlueEngine, SiftEngine, XFeatEngine

    made: tuple[type[Baseline], ...] = (NccEngine, SiftEngine, XFeatEngine, AlikedLightGlueEngine)
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
