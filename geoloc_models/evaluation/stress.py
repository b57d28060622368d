# SPDX-License-Identifier: Apache-2.0
"""What makes a view harder to find: the same samples with one thing gone wrong, for the table of resistance.

Errors of attitude and height change how a view is rendered; all else changes the finished image. Every
function draws from the generator it is given and from nothing else.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from geoloc_models.errors import GeolocError

OCCLUDED_SHARE = 0.3
JPEG_QUALITY = 20


@dataclass(frozen=True)
class ViewErrors:
    """How the camera stood when its attitude and height were thought to be right.

    Angles in radians; yaw: what has to be added to the assumed heading, clockwise seen from above. scale: true height
    over assumed height, so a view of scale 1.2 spans 1.2 times the ground that it is thought to span.
    """

    roll_rad: float = 0.0
    pitch_rad: float = 0.0
    yaw_rad: float = 0.0
    scale: float = 1.0


def unknown_heading(errors: ViewErrors, rng: np.random.Generator) -> ViewErrors:
    """Any heading, in place of the small error."""
    return dataclasses.replace(errors, yaw_rad=float(rng.uniform(-np.pi, np.pi)))


Geometry = Callable[[ViewErrors, np.random.Generator], ViewErrors]


def wrong_pose(heading_deg: float = 0.0, height: float = 0.0) -> Geometry:
    """A heading off by exactly heading_deg and a height off by exactly the share `height`, of either sign each, in
    place of the small error; 0 leaves that error as it is.
    """

    def stress(errors: ViewErrors, rng: np.random.Generator) -> ViewErrors:
        if heading_deg:
            errors = dataclasses.replace(errors, yaw_rad=float(np.deg2rad(heading_deg) * rng.choice([-1.0, 1.0])))
        if height:
            errors = dataclasses.replace(errors, scale=float(1.0 + height * rng.choice([-1.0, 1.0])))
        return errors

    return stress


def night(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a small camera makes of the scene at dusk, (h, w, 3) uint8 RGB.

    In linear light: 1 to 4 % of the daylight exposure, a cast between moonlight and sodium lamps, shot noise of few
    photo-electrons, read noise; then the camera's gain, which lifts the image part of the way back, and its gamma.
    """
    linear = (image.astype(np.float64) / 255.0) ** 2.2
    warmth = rng.uniform(-1.0, 1.0)
    cast = np.array([1.0 + 0.35 * warmth, 1.0, 1.0 - 0.35 * warmth])
    light = rng.uniform(0.01, 0.04) * linear * cast
    full_well = 4000.0  # photo-electrons of a pixel at daylight's white
    electrons = rng.poisson(light * full_well) + rng.normal(0.0, 3.0, light.shape)
    gain = rng.uniform(4.0, 10.0)
    seen = np.clip(gain * electrons / full_well, 0.0, 1.0) ** (1.0 / 2.2)
    return np.round(255.0 * seen).astype(np.uint8)


def hide(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """OCCLUDED_SHARE of the image under one rectangle of the mean colour, anywhere inside it."""
    height, width = image.shape[:2]
    stretch = np.exp(rng.uniform(-0.5, 0.5))
    tall = min(height, round(height * np.sqrt(OCCLUDED_SHARE) * stretch))
    wide = min(width, round(OCCLUDED_SHARE * height * width / tall))
    top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
    out = image.copy()
    out[top : top + tall, left : left + wide] = np.round(image.mean(axis=(0, 1))).astype(np.uint8)
    return out


def compress(image: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    """The image after JPEG of quality JPEG_QUALITY."""
    # OpenCV takes BGR: the order matters, because JPEG keeps less of colour than of light.
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1].copy()


@dataclass(frozen=True)
class Stress:
    """One disturbance; None if it leaves the geometry or the image unchanged."""

    title: str
    geometry: Geometry | None = None
    image: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None


STRESSES = {
    "none": Stress("undisturbed"),
    "heading": Stress("heading unknown, ±180°", geometry=unknown_heading),
    "heading-10": Stress("heading off by 10°", geometry=wrong_pose(heading_deg=10.0)),
    "height-20": Stress("height off by 20 %", geometry=wrong_pose(height=0.2)),
    "height-30": Stress("height off by 30 %", geometry=wrong_pose(height=0.3)),
    "both": Stress("heading off by 10°, height by 20 %", geometry=wrong_pose(10.0, 0.2)),
    "night": Stress("night-like exposure", image=night),
    "occlusion": Stress(f"{OCCLUDED_SHARE:.0%} occluded", image=hide),
    "jpeg": Stress(f"JPEG quality {JPEG_QUALITY}", image=compress),
}


def choose_stresses(names: list[str]) -> list[str]:
    """Names of STRESSES to run, "none" first; "all" is all of them. GeolocError for an unknown one."""
    for name in names:
        if name not in STRESSES and name != "all":
            raise GeolocError(f"there is no stress '{name}'; choose from {', '.join([*list(STRESSES)[1:], 'all'])}")
    return [name for name in STRESSES if name == "none" or name in names or "all" in names]
