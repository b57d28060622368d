# SPDX-License-Identifier: Apache-2.0
"""Fine alignment: how a view lies on the map once its place is known, from correlations of its parts.

Each block of the view has a posterior over displacements (`alignment_head`). One movement of the whole view explains
those of the blocks that show unchanged ground: a vote over headings, scales and shifts finds it, and reweighted least
squares refine it, with its covariance. What the blocks cannot tell, such as the way along a road, stays wide.
"""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

PARAMETERS = 6
PRIOR_LEFT = 0.01
"""Of the prior, in the last step: it holds only what the blocks do not tell at all."""
VOTE_HEADING_DEG, VOTE_SCALE, VOTE_SHIFT_NODES = 3.0, 1.06, 4
"""Steps of the vote's headings and scales, and its largest shift of the whole view."""
WINDOW_NODES, WINDOW_SIGMA_NODES = 3, 1.5
"""Half-width and standard deviation of the window around the expected displacement in which a block's own displacement
is averaged."""
MOST_OF_WINDOW = 0.8
"""Largest share of the window's variance that a block's may have: beyond it the block is flat."""
ITERATIONS = 6
CENTRE_SIGMA_PX = 0.3
"""Least error of the centre: descriptors are known at nodes of 4 px."""
COVARIANCE_AT_CONSENT, COVARIANCE_BY_DISSENT = 0.15, 4.2
"""Factor of the fit's covariance where all blocks agree, and what dissent (1 - support) / support adds to it. Blocks
that agree are known better than to the nodes between which their mass is split; where others disagree the errors of
neighbours are alike. Fitted with CENTRE_SIGMA_PX on held-out pairs."""
BLOCK_VARIANCE = 0.02
"""Least variance of a block's displacement, nodes squared."""
RELIEF_SHARE = 0.03
"""Relief below the camera, share of its height (1 sigma): it moves a block along its direction from the centre."""
ELSEWHERE = 0.1
"""Weight of a block's mass beyond the window against its agreeing: such a block has found something else."""


@dataclass(frozen=True)
class Alignment:
    """How a view has to be moved, turned, scaled and tilted to lie on the map.

    With q a view's pixel relative to its centre and q' = exp(log_scale) R q, where R turns clockwise in the image by
    heading_rad, the map shows q at centre_xy_px + q' + (tilt . q') q'.

    centre_xy_px: of the view on the map, pixel edges. heading_rad: to be added to the vehicle's heading, clockwise seen
    from above. log_scale: the true height is exp(log_scale) times the assumed one. tilt_per_px: error of the view
    vector, as the perspective that it causes, (x, y), 1/px: times the height in pixels it is the angle, rad, by which
    the ground in the view must be moved away from the camera's nadir. covariance: (6, 6) of (x, y, heading_rad,
    log_scale, tilt x, tilt y) in these units. support: share of the view's blocks that agree, 0..1. evidence: natural
    logarithm of how much likelier the blocks' correlations are at this placement than by chance.
    """

    centre_xy_px: tuple[float, float]
    heading_rad: float
    log_scale: float
    tilt_per_px: tuple[float, float]
    covariance: np.ndarray
    support: float
    evidence: float

    def of_unposed(self, heading_deg: float, scale: float) -> "Alignment":
        """Of the view before it was turned and scaled by so much (`engines.pose_search.posed`)."""
        return replace(
            self, heading_rad=self.heading_rad + math.radians(heading_deg), log_scale=self.log_scale + math.log(scale)
        )

    def magnified(self, px: float) -> "Alignment":
        """On the map at another size, `px` pixels of which are one of this map's; the view's pixels stay."""
        units = np.array([px, px, 1.0, 1.0, 1 / px, 1 / px])
        return replace(
            self,
            centre_xy_px=(self.centre_xy_px[0] * px, self.centre_xy_px[1] * px),
            log_scale=self.log_scale + math.log(px),
            tilt_per_px=(self.tilt_per_px[0] / px, self.tilt_per_px[1] / px),
            covariance=self.covariance * units[:, None] * units,
        )


@dataclass(frozen=True)
class PoseSpread:
    """What is known of the pose before an alignment, 1 sigma: the fit's prior; the vote looks two sigma far."""

    heading_rad: float = float(np.deg2rad(12.0))
    log_scale: float = 0.18
    tilt_per_px: float = 0.06 / 300.0


@dataclass(frozen=True)
class BlockMatches:
    """Where the blocks of a view lie on the map, relative to where they are expected.

    centres_px: (n, 2) of the blocks from the view's centre, (x, y). probability: (n, D, D) of the displacements (y, x)
    in nodes, the middle is none; sums to less than 1, the rest is that the block lies nowhere there. stride_px: of a
    node. origin_xy_px: where the view's centre is expected on the map. share: 1 over how many blocks show the same
    pixel.
    """

    centres_px: np.ndarray
    probability: np.ndarray
    stride_px: float
    origin_xy_px: tuple[float, float]
    share: float


def align(blocks: BlockMatches, spread: PoseSpread | None = None) -> Alignment:
    """The movement of the whole view that fits its blocks best."""
    spread = spread or PoseSpread()
    pose = np.array([spread.heading_rad, spread.log_scale, spread.tilt_per_px, spread.tilt_per_px])
    fit = _Fit(blocks, np.diag(1 / np.concatenate([[1e3, 1e3], pose]) ** 2))
    parameters = fit.vote(spread)
    for _ in range(ITERATIONS):
        parameters, information, support = fit.refined(parameters)
    # Who has the prior takes in what the view alone shows: the prior must count once.
    fit.prior = fit.prior * PRIOR_LEFT
    parameters, information, support = fit.refined(parameters)
    x, y, heading, log_scale, tilt_x, tilt_y = parameters.tolist()
    origin_x, origin_y = blocks.origin_xy_px
    covariance = np.linalg.inv(information) * (
        COVARIANCE_AT_CONSENT + COVARIANCE_BY_DISSENT * (1 - support) / max(support, 0.05)
    )
    covariance[:2, :2] += np.eye(2) * CENTRE_SIGMA_PX**2
    return Alignment(
        centre_xy_px=(origin_x + x, origin_y + y),
        heading_rad=heading,
        log_scale=log_scale,
        tilt_per_px=(tilt_x, tilt_y),
        covariance=covariance,
        support=support,
        evidence=fit.evidence(parameters),
    )


class _Fit:
    """The blocks of one view and what votes and steps need of them. Parameters are those of Alignment's covariance."""

    def __init__(self, blocks: BlockMatches, prior_information: np.ndarray) -> None:
        self.blocks, self.prior = blocks, prior_information
        self.side = blocks.probability.shape[1]
        self.reach = self.side // 2
        held = blocks.probability.sum((1, 2))
        chance = (1 - held).clip(min=1e-6) / self.side**2
        self.nowhere = chance
        radial = RELIEF_SHARE * blocks.centres_px / blocks.stride_px
        self.relief = radial[:, :, None] * radial[:, None, :]
        # Likelihood of each displacement against chance.
        self.odds = np.log((blocks.probability + chance[:, None, None]) * self.side**2)

    def vote(self, spread: PoseSpread) -> np.ndarray:
        """The best of all headings and scales within two sigma, each with the best shift of the whole view."""
        headings = _grid(2 * spread.heading_rad, np.deg2rad(VOTE_HEADING_DEG))
        scales = _grid(2 * spread.log_scale, np.log(VOTE_SCALE))
        centres = self.blocks.centres_px
        poses = np.array([(h, s) for h in headings for s in scales])
        moved = np.stack([_turned(centres, h, s) - centres for h, s in poses]) / self.blocks.stride_px
        # (poses, blocks): the displacement without a shift; shifts are a window of the smoothed, padded volume.
        smooth = np.stack([cv2.blur(one, (3, 3)) for one in self.odds])
        most = VOTE_SHIFT_NODES
        # One more, of zeros, stands for the blocks that leave their volume.
        padded = np.pad(smooth, ((0, 1), (most, most), (most, most)))
        cell = np.rint(moved).astype(int) + self.reach
        inside = ((cell >= 0) & (cell < self.side)).all(2)
        volumes = np.where(inside, np.arange(len(centres)), len(centres))
        columns, rows = np.moveaxis(cell.clip(0, self.side - 1), 2, 0)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * most + 1, 2 * most + 1), (1, 2))
        totals = np.stack([windows[chosen].sum(0) for chosen in zip(volumes, rows, columns, strict=True)])
        penalty = 0.5 * (poses[:, 0] / spread.heading_rad) ** 2 + 0.5 * (poses[:, 1] / spread.log_scale) ** 2
        totals = totals * self.blocks.share - penalty[:, None, None]
        pose, row, column = np.unravel_index(int(totals.argmax()), totals.shape)
        shift = np.array([column - most, row - most]) * self.blocks.stride_px
        return np.array([*shift, *poses[pose], 0.0, 0.0])

    def refined(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """One step of reweighted least squares: parameters, their information matrix, and the support."""
        expected, jacobian = self._expected(parameters)
        means, spreads, weights = self._near(expected)
        spreads = spreads + self.relief
        information = np.linalg.inv(spreads) * (weights * self.blocks.share)[:, None, None]
        stride = self.blocks.stride_px
        # Blocks and their axes as one: (2 n, 6).
        weighted = (information @ jacobian).reshape(-1, PARAMETERS) / stride
        normal = weighted.T @ jacobian.reshape(-1, PARAMETERS) / stride + self.prior
        right = weighted.T @ (means - expected).ravel() - self.prior @ parameters
        return parameters + np.linalg.solve(normal, right), normal, float(weights.mean())

    def evidence(self, parameters: np.ndarray) -> float:
        """Log likelihood of the placement against chance, each pixel counted once."""
        expected, _ = self._expected(parameters)
        x, y = (expected + self.reach).T
        inside = (x >= 0) & (y >= 0) & (x <= self.side - 1) & (y <= self.side - 1)
        column, row = (np.clip(np.floor(v).astype(int), 0, self.side - 2) for v in (x, y))
        right, down = x - column, y - row
        numbers = np.arange(len(x))
        p = self.blocks.probability
        value = (
            p[numbers, row, column] * (1 - right) * (1 - down)
            + p[numbers, row, column + 1] * right * (1 - down)
            + p[numbers, row + 1, column] * (1 - right) * down
            + p[numbers, row + 1, column + 1] * right * down
        )
        odds = np.log((np.where(inside, value, 0.0) + self.nowhere) * self.side**2)
        return float(odds.sum() * self.blocks.share)

    def _expected(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Displacement of each block in nodes (n, 2), and its Jacobian in pixels (n, 2, 6)."""
        shift, (heading, log_scale), tilt = parameters[:2], parameters[2:4], parameters[4:]
        q = self.blocks.centres_px
        turned = _turned(q, heading, log_scale)
        along = turned @ tilt
        moved = shift + turned + along[:, None] * turned
        # d/dheading turns a vector by a right angle; d/dlog_scale is the vector itself.
        across = np.stack([-turned[:, 1], turned[:, 0]], 1)
        jacobian = np.zeros((len(q), 2, PARAMETERS))
        jacobian[:, 0, 0] = jacobian[:, 1, 1] = 1.0
        jacobian[:, :, 2] = across * (1 + along)[:, None] + (across @ tilt)[:, None] * turned
        jacobian[:, :, 3] = turned * (1 + 2 * along)[:, None]
        jacobian[:, :, 4:] = turned[:, :, None] * turned[:, None, :]
        return (moved - q) / self.blocks.stride_px, jacobian

    def _near(self, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean displacement (n, 2), nodes, of each block around the expected one, its covariance and its weight."""
        middle = np.rint(expected).astype(int) + self.reach
        offset = np.arange(-WINDOW_NODES, WINDOW_NODES + 1)
        columns, rows = middle[:, :1] + offset, middle[:, 1:] + offset
        inside = ((rows >= 0) & (rows < self.side))[:, :, None] & ((columns >= 0) & (columns < self.side))[:, None, :]
        numbers = np.arange(len(expected))[:, None, None]
        clipped = rows.clip(0, self.side - 1)[:, :, None], columns.clip(0, self.side - 1)[:, None, :]
        # Displacements from the expected one, which the window is centred on: between nodes too.
        x = (columns - self.reach - expected[:, :1])[:, None, :]
        y = (rows - self.reach - expected[:, 1:])[:, :, None]
        window = self.blocks.probability[numbers, clipped[0], clipped[1]] * inside
        mass = window.sum((1, 2))
        window = window * np.exp(-0.5 * (x * x + y * y) / WINDOW_SIGMA_NODES**2)
        share = window / window.sum((1, 2)).clip(min=1e-9)[:, None, None]
        mean = np.stack([(share * x).sum((1, 2)), (share * y).sum((1, 2))], 1)
        dx, dy = x - mean[:, :1, None], y - mean[:, 1:, None]
        both = (share * dx * dy).sum((1, 2))
        seen = np.moveaxis(
            np.array([[(share * dx * dx).sum((1, 2)), both], [both, (share * dy * dy).sum((1, 2))]]), 2, 0
        )
        # The window draws mean and spread towards its centre, as the product of two Gaussians does: undone here.
        variances, axes = np.linalg.eigh(seen)
        shares = (variances / WINDOW_SIGMA_NODES**2).clip(max=MOST_OF_WINDOW)
        widened = shares * WINDOW_SIGMA_NODES**2 / (1 - shares) + BLOCK_VARIANCE
        turned_back = np.swapaxes(axes, 1, 2)
        spread = (axes * widened[:, None]) @ turned_back
        off = ((axes / (1 - shares)[:, None]) @ (turned_back @ mean[:, :, None]))[:, :, 0]
        chance = self.nowhere * window[0].size
        elsewhere = (1 - mass - self.nowhere * self.side**2).clip(min=0.0)
        weight = mass / (mass + chance + ELSEWHERE * elsewhere)
        return expected + np.where(mass[:, None] > 1e-6, off, 0.0), spread, np.where(mass > 1e-6, weight, 0.0)


def _turned(points: np.ndarray, heading_rad: float, log_scale: float) -> np.ndarray:
    """(n, 2) turned clockwise in the image and scaled about the origin."""
    c, s = np.exp(log_scale) * np.cos(heading_rad), np.exp(log_scale) * np.sin(heading_rad)
    return points @ np.array([[c, s], [-s, c]])


def _grid(reach: float, step: float) -> np.ndarray:
    """Values at most `step` apart from -reach to reach, 0 among them."""
    count = int(np.ceil(reach / step))
    return np.linspace(-reach, reach, 2 * count + 1) if count else np.zeros(1)
