# SPDX-License-Identifier: Apache-2.0
"""Change between a map and a camera frame: season, sensor, light, weather, compression, what was built since."""

import cv2
import numpy as np


def degrade(image: np.ndarray, rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """One random sensor, light, weather over an (H, W, 3) uint8 RGB image; strength: 1 for cameras, less for maps."""
    out = image.astype(np.float32)
    if rng.random() < 0.35 * strength:
        out = _shadows(out, rng)
    if rng.random() < 0.7:
        out = _colour(out, rng, strength)
    if rng.random() < 0.4 * strength:
        out = _vignette(out, rng)
    if rng.random() < 0.25 * strength:
        haze = rng.uniform(0.05, 0.35)
        out = out * (1 - haze) + haze * rng.uniform(150, 255)
    if rng.random() < 0.15:
        # Clipped at either end, as dark satellite images and over-exposed video are.
        out = (out - 128) * rng.uniform(1.0, 2.2) + 128 + rng.uniform(-90, 90)
    if rng.random() < 0.1 * strength:
        out = _bloom(out, rng)
    if rng.random() < 0.4:
        out = _resharpen(out, rng)
    if rng.random() < 0.5:
        out += rng.standard_normal(out.shape, dtype=np.float32) * rng.uniform(1, 10) * strength
    out8 = np.clip(out, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        quality = int(rng.uniform(30, 95))
        encoded = cv2.imencode(".jpg", out8, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        out8 = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    return out8


def _colour(out: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    out = out * rng.uniform(1 - 0.2 * strength, 1 + 0.2 * strength, 3).astype(np.float32)
    grey = out.mean(2, keepdims=True)
    out = grey + (out - grey) * rng.uniform(0.0 if rng.random() < 0.3 else 0.5, 1.6)
    if rng.random() < 0.2 * strength:
        # Season: swap part of the green for red and back, as between spring and autumn.
        share = rng.uniform(0, 0.5)
        out = out @ np.array([[1 - share, share, 0], [share, 1 - share, 0], [0, 0, 1]], np.float32)
    gamma = np.exp(rng.uniform(-0.6, 0.6) * strength)
    exposure = np.exp(rng.uniform(-0.5, 0.3) * strength)
    return 255 * np.clip(out / 255 * exposure, 0, 1) ** np.float32(gamma)


def _shadows(out: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cloud-like or hard shadows over part of the image."""
    size = out.shape[0]
    mask: np.ndarray = np.zeros(out.shape[:2], np.float32)
    for _ in range(rng.integers(1, 4)):
        corners = rng.uniform(-0.3, 1.3, (rng.integers(3, 6), 2)) * size
        cv2.fillPoly(mask, [corners.astype(np.int32)], 1.0)
    blur = rng.choice([0.0, size * 0.03, size * 0.1])
    if blur > 0:
        mask = cv2.GaussianBlur(mask, (0, 0), blur)
    return out * (1 - mask[..., None] * np.float32(rng.uniform(0.2, 0.6)))


def _vignette(out: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    axis = np.linspace(-1, 1, out.shape[0], dtype=np.float32)
    radius2 = axis[:, None] ** 2 + axis[None] ** 2
    return out * (1 - np.float32(rng.uniform(0.05, 0.3)) * radius2)[..., None]


def _bloom(out: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light that spills from bright roofs and water over their surroundings."""
    bright = np.clip(out - 170, 0, None)
    glow = cv2.GaussianBlur(bright, (0, 0), out.shape[0] * rng.uniform(0.01, 0.06))
    return out + np.float32(rng.uniform(0.5, 2.0)) * glow


def _resharpen(out: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Optical or motion blur, or the over-sharpening of map providers."""
    kind = rng.random()
    if kind < 0.5:
        return cv2.GaussianBlur(out, (0, 0), rng.uniform(0.4, 1.3))
    if kind < 0.75:
        length = int(rng.integers(3, 8))
        kernel = np.zeros((length, length), np.float32)
        angle = rng.uniform(0, np.pi)
        reach = np.array([np.cos(angle), np.sin(angle)]) * length / 2
        middle = np.array([length / 2, length / 2])
        cv2.line(kernel, (middle - reach).astype(int).tolist(), (middle + reach).astype(int).tolist(), 1.0)
        return cv2.filter2D(out, -1, kernel / max(kernel.sum(), 1e-6))
    return out + rng.uniform(0.3, 1.2) * (out - cv2.GaussianBlur(out, (0, 0), 1.2))


def occlude(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random erasing, as in the DRL authors' training code: 2-30 % of the image filled with its mean colour."""
    height, width = image.shape[:2]
    area, aspect = rng.uniform(0.02, 0.3) * height * width, np.exp(rng.uniform(np.log(0.3), np.log(3.3)))
    h, w = min(height, round(np.sqrt(area * aspect))), min(width, round(np.sqrt(area / aspect)))
    top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    out = image.copy()
    out[top : top + h, left : left + w] = image.mean((0, 1)).astype(np.uint8)
    return out


def build_over(image: np.ndarray, other: np.ndarray, rng: np.random.Generator, most: float) -> np.ndarray:
    """Change of the ground itself: polygons of another place stand where something was built or torn down.

    image: (h, h, 3) uint8; other: an image of any size; most: largest share of the image that changes.
    """
    size = image.shape[0]
    if min(other.shape[:2]) < size:
        scale = size / min(other.shape[:2])
        other = cv2.resize(other, (int(np.ceil(other.shape[1] * scale)), int(np.ceil(other.shape[0] * scale))))
    top, left = (int(rng.integers(0, side - size + 1)) for side in other.shape[:2])
    patch = np.rot90(other[top : top + size, left : left + size], int(rng.integers(4)))
    mask: np.ndarray = np.zeros((size, size), np.float32)
    for _ in range(rng.integers(1, 7)):
        centre, reach = rng.uniform(0, size, 2), size * rng.uniform(0.05, 0.3)
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(4, 8)))
        corners = centre + reach * rng.uniform(0.5, 1.0, (angles.size, 1)) * np.column_stack(
            [np.cos(angles), np.sin(angles)]
        )
        new = mask.copy()
        cv2.fillPoly(new, [corners.astype(np.int32)], 1.0)
        if new.mean() > most:
            break
        mask = new
    mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.4, 2.0))[..., None]
    return (image * (1 - mask) + patch * mask).astype(np.uint8)
