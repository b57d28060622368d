# SPDX-License-Identifier: Apache-2.0
"""Pixels of camera messages to RGB arrays and back, without any ROS import.

The live graph and the bag reader both decode here, so a frame has the same pixels whichever way it came. Encoding names
are those of sensor_msgs/image_encodings.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from geoloc_models.errors import GeolocError

JPEG_MAGIC = b"\xff\xd8"
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"

_SAMPLED_VALUES = 2**16
"""Enough for the percentiles of an image's values."""


@dataclass(frozen=True)
class _Layout:
    """One encoding in memory: channels a pixel, bytes a channel, OpenCV's way to RGB (None: as is)."""

    channels: int
    depth: int
    to_rgb: int | None


# OpenCV names a Bayer pattern after the second row's second and third pixel: its BG is ROS's rggb.
_BAYER_TO_RGB = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}

_LAYOUTS: dict[str, _Layout] = {
    "rgb8": _Layout(3, 1, None),
    "bgr8": _Layout(3, 1, cv2.COLOR_BGR2RGB),
    "8uc3": _Layout(3, 1, cv2.COLOR_BGR2RGB),  # cv_bridge's convention for untyped colour
    "rgba8": _Layout(4, 1, cv2.COLOR_RGBA2RGB),
    "bgra8": _Layout(4, 1, cv2.COLOR_BGRA2RGB),
    "8uc4": _Layout(4, 1, cv2.COLOR_BGRA2RGB),
    "mono8": _Layout(1, 1, cv2.COLOR_GRAY2RGB),
    "8uc1": _Layout(1, 1, cv2.COLOR_GRAY2RGB),
    "rgb16": _Layout(3, 2, None),
    "bgr16": _Layout(3, 2, cv2.COLOR_BGR2RGB),
    "mono16": _Layout(1, 2, cv2.COLOR_GRAY2RGB),
    "16uc1": _Layout(1, 2, cv2.COLOR_GRAY2RGB),
    # Two bytes a pixel: chroma shared by two neighbours. ROS's plain "yuv422" is UYVY.
    "yuv422": _Layout(2, 1, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": _Layout(2, 1, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": _Layout(2, 1, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": _Layout(2, 1, cv2.COLOR_YUV2RGB_YUY2),
    **{f"bayer_{pattern}8": _Layout(1, 1, code) for pattern, code in _BAYER_TO_RGB.items()},
    **{f"bayer_{pattern}16": _Layout(1, 2, code) for pattern, code in _BAYER_TO_RGB.items()},
}

ENCODINGS: tuple[str, ...] = tuple(sorted(_LAYOUTS))


def _layout(encoding: str) -> _Layout:
    layout = _LAYOUTS.get(encoding.strip().lower())
    if layout is None:
        raise GeolocError(f"image encoding '{encoding}' is not supported; publish one of {', '.join(ENCODINGS)}")
    return layout


def decode_image(
    encoding: str, height: int, width: int, step: int, data: Any, is_bigendian: bool | int = False
) -> np.ndarray:
    """Pixels of a sensor_msgs/Image as (height, width, 3) uint8 RGB.

    `data` is any byte buffer (bytes, array.array, numpy); `step` is the length of a row in bytes, padding
    included. 16-bit images become 8 bits by `to_8_bits`. An rgb8 image without padding is returned as a view
    of `data`, not a copy. Raises GeolocError on an unknown encoding, an impossible size or a short buffer.
    """
    layout = _layout(encoding)
    row_bytes = width * layout.channels * layout.depth
    if height < 1 or width < 1:
        raise GeolocError(f"image of {width}x{height} pixels is empty; check the camera driver")
    if step < row_bytes:
        raise GeolocError(
            f"image step is {step} bytes, but {width} pixels of {encoding} need {row_bytes}; check the driver"
        )
    raw = np.frombuffer(data, dtype=np.uint8)
    # The last row may come without its padding.
    needed = step * (height - 1) + row_bytes
    if raw.size < needed:
        raise GeolocError(
            f"image is truncated: {raw.size} bytes for {width}x{height} {encoding}, which needs {needed}; "
            "check the link's bandwidth and the driver"
        )
    if layout.channels == 2 and width % 2:
        raise GeolocError(f"a {encoding} image must have an even width, not {width}; check the camera driver")
    rows = np.lib.stride_tricks.as_strided(raw, (height, row_bytes), (step, 1), writeable=False)
    if layout.depth == 2:
        rows = to_8_bits(np.ascontiguousarray(rows).view(">u2" if is_bigendian else "<u2"))
    pixels = rows.reshape(height, width, layout.channels)
    if layout.to_rgb is None:
        return np.ascontiguousarray(pixels)
    if layout.channels == 1:
        pixels = pixels[:, :, 0]
    return cv2.cvtColor(np.ascontiguousarray(pixels), layout.to_rgb)


def to_8_bits(values: np.ndarray) -> np.ndarray:
    """Values of more than 8 bits, of any shape, as uint8 of the same shape.

    Whole numbers of 16 bits keep their upper byte where that keeps the image. A thermal camera's 12 or 14 bits, a raw
    photo or floats would become black, white or a few grey levels: where the values lie below 2^14, or the middle 98 %
    of them span less than 2^13, those 98 % are stretched over 0 to 255, all channels alike. 8 bits stay as they are.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    sample = values.reshape(-1)[:: max(1, values.size // _SAMPLED_VALUES)]
    sample = sample[np.isfinite(sample)]
    low, high = np.percentile(sample, (1.0, 99.0)).tolist() if sample.size else (0.0, 0.0)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2 and high >= 2**14 and high - low >= 2**13:
        return (values >> 8).astype(np.uint8)
    scale = 255.0 / (high - low) if high > low else 0.0
    stretched = (np.nan_to_num(values.astype(np.float32), nan=low) - np.float32(low)) * np.float32(scale)
    return np.clip(np.rint(stretched), 0, 255).astype(np.uint8)


def decode_compressed(data: Any) -> np.ndarray:
    """A JPEG or PNG (anything that OpenCV reads) as (h, w, 3) uint8 RGB; GeolocError when it does not decode.

    The pixels are those that are stored: calibration and attitude are of the sensor's image, so EXIF's Orientation
    does not turn it. More than 8 bits become 8 by `to_8_bits`.
    """
    raw = np.frombuffer(data, dtype=np.uint8)
    if raw.size == 0:
        raise GeolocError("compressed image is empty; check the camera driver")
    if raw[:2].tobytes() == JPEG_MAGIC and not _is_whole_jpeg(raw.tobytes()):
        raise GeolocError(
            f"JPEG image is truncated: its {raw.size} bytes have no end marker; check the link's bandwidth"
        )
    try:
        image = cv2.imdecode(raw, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # more pixels than OpenCV takes
        image = None
    if image is None:
        raise GeolocError(f"compressed image of {raw.size} bytes does not decode; send a complete JPEG or PNG")
    return cv2.cvtColor(to_8_bits(image), cv2.COLOR_BGR2RGB)


def _is_whole_jpeg(data: bytes) -> bool:
    """Whether the image data of a JPEG reach their end marker, which a decoder does not ask for.

    One that ends early would decode to an image with a grey lower part. Behind the marker anything may stand: some
    drivers hand over their whole buffer. Before it, only the image's own data count: a preview in the EXIF has a marker
    of its own, and so has the image before this one, where its rest fills up the buffer of a truncated one.
    """
    place = 2
    while (marker := data[place : place + 2]) != _START_OF_SCAN:
        if len(marker) < 2 or marker[0] != 0xFF:
            return False
        # A marker may be preceded by fill bytes; all but these have a length behind them.
        place += 1 if marker[1] == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    end = data.find(_END_OF_IMAGE, place)
    return end >= 0 and data.find(JPEG_MAGIC, place, end) < 0


def encode_image(image: np.ndarray, encoding: str) -> tuple[bytes, int]:
    """(data, step) of a sensor_msgs/Image in `encoding` from (h, w, 3) uint8 RGB; little-endian, no padding.

    YUV 4:2:2 uses BT.601 video range, the inverse of OpenCV's decoding; chroma is the pair's mean.
    """
    layout = _layout(encoding)
    name = encoding.strip().lower()
    width = image.shape[1]
    if layout.channels == 2:
        if width % 2:
            raise GeolocError(f"a {encoding} image must have an even width, not {width}")
        pixels = _to_yuv422(image, luma_first=layout.to_rgb == cv2.COLOR_YUV2RGB_YUY2)
    elif name.startswith("bayer_"):
        pixels = _to_bayer(image, name[6:10])
    elif layout.channels == 1:
        pixels = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    elif layout.channels == 4:
        pixels = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA if name.startswith("r") else cv2.COLOR_RGB2BGRA)
    else:
        pixels = image if layout.to_rgb is None else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if layout.depth == 2:
        pixels = pixels.astype("<u2") * 257  # 255 becomes 65535
    return np.ascontiguousarray(pixels).tobytes(), width * layout.channels * layout.depth


def _to_yuv422(image: np.ndarray, luma_first: bool) -> np.ndarray:
    """(h, w, 2) uint8: luma and alternating U, V of (h, w, 3) RGB."""
    red, green, blue = (image[..., channel].astype(np.float32) for channel in range(3))
    luma = 16 + 0.257 * red + 0.504 * green + 0.098 * blue
    u = 128 - 0.148 * red - 0.291 * green + 0.439 * blue
    v = 128 + 0.439 * red - 0.368 * green - 0.071 * blue
    chroma = np.empty_like(luma)
    chroma[:, 0::2] = (u[:, 0::2] + u[:, 1::2]) / 2
    chroma[:, 1::2] = (v[:, 0::2] + v[:, 1::2]) / 2
    planes = (luma, chroma) if luma_first else (chroma, luma)
    return np.clip(np.rint(np.stack(planes, axis=-1)), 0, 255).astype(np.uint8)


def _to_bayer(image: np.ndarray, pattern: str) -> np.ndarray:
    """(h, w) uint8 mosaic; `pattern` names the colours of the top-left 2x2 block in reading order."""
    mosaic = np.empty(image.shape[:2], dtype=np.uint8)
    for place, colour in enumerate(pattern):
        row, col = divmod(place, 2)
        mosaic[row::2, col::2] = image[row::2, col::2, "rgb".index(colour)]
    return mosaic
