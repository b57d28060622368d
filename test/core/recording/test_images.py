# SPDX-License-Identifier: Apache-2.0
"""Image decoding against hand-laid bytes and against an independent bag library."""

import array

import cv2
import numpy as np
import pytest

from geoloc_models.errors import GeolocError
from geoloc_ros.core.recording.images import ENCODINGS, decode_compressed, decode_image, encode_image


def smooth_picture(height: int = 24, width: int = 32) -> np.ndarray:
    """A colourful image smooth enough to survive chroma sharing and mosaics within a few grey levels."""
    rows, cols = np.mgrid[0:height, 0:width]
    return np.stack([40 + 4 * rows, 60 + 3 * cols, 200 - 2 * rows - 2 * cols], axis=-1).astype(np.uint8)


def test_hand_laid_bytes() -> None:
    # One pixel of red 10, green 20, blue 30, one of 40, 50, 60, in each memory order.
    expected = np.array([[[10, 20, 30], [40, 50, 60]]], dtype=np.uint8)
    layouts = {
        "rgb8": [10, 20, 30, 40, 50, 60],
        "bgr8": [30, 20, 10, 60, 50, 40],
        "rgba8": [10, 20, 30, 255, 40, 50, 60, 0],
        "bgra8": [30, 20, 10, 255, 60, 50, 40, 0],
    }
    for encoding, values in layouts.items():
        decoded = decode_image(encoding, 1, 2, len(values), bytes(values))
        np.testing.assert_array_equal(decoded, expected, err_msg=encoding)
    grey = decode_image("mono8", 1, 2, 2, bytes([7, 9]))
    np.testing.assert_array_equal(grey, [[[7, 7, 7], [9, 9, 9]]])


def test_sixteen_bits_keep_the_upper_byte_in_both_byte_orders() -> None:
    little = decode_image("mono16", 1, 2, 4, bytes([0x34, 0x12, 0xFF, 0x80]))
    big = decode_image("mono16", 1, 2, 4, bytes([0x12, 0x34, 0x80, 0xFF]), is_bigendian=True)
    np.testing.assert_array_equal(little[0, :, 0], [0x12, 0x80])
    np.testing.assert_array_equal(big, little)


def test_yuv_by_the_definition_of_bt601() -> None:
    # Y 81, U 90, V 240 is pure red; Y 145, U 54, V 34 pure green (video range).
    for luma, u, v, colour in [(81, 90, 240, (255, 0, 0)), (145, 54, 34, (0, 255, 0))]:
        yuyv = decode_image("yuv422_yuy2", 1, 2, 4, bytes([luma, u, luma, v]))
        uyvy = decode_image("yuv422", 1, 2, 4, bytes([u, luma, v, luma]))
        np.testing.assert_allclose(yuyv[0, 0], colour, atol=3)
        np.testing.assert_array_equal(uyvy, yuyv)


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_pattern_is_read_from_the_top_left(pattern: str) -> None:
    mosaic = np.zeros((8, 8), dtype=np.uint8)
    for place, colour in enumerate(pattern):
        mosaic[place // 2 :: 2, place % 2 :: 2] = {"r": 200, "g": 100, "b": 20}[colour]
    decoded = decode_image(f"bayer_{pattern}8", 8, 8, 8, mosaic.tobytes())
    np.testing.assert_array_equal(decoded[2:-2, 2:-2], np.broadcast_to([200, 100, 20], (4, 4, 3)))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_both_ways(encoding: str) -> None:
    image = smooth_picture()
    data, step = encode_image(image, encoding)
    decoded = decode_image(encoding, 24, 32, step, data)
    expected = image
    if encoding.startswith(("mono", "8uc1", "16uc1")):
        expected = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    tolerance = 8 if encoding.startswith(("bayer", "yu", "uy")) else 0
    # A mosaic has no neighbours beyond the border to interpolate from.
    inner = np.s_[2:-2, 2:-2] if encoding.startswith("bayer") else np.s_[:]
    np.testing.assert_allclose(decoded[inner].astype(int), expected[inner].astype(int), atol=tolerance)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "bayer_rggb8", "yuv422_yuy2"])
def test_agrees_with_an_independent_library(encoding: str) -> None:
    rosbags_image = pytest.importorskip("rosbags.image")
    from rosbags.typesys import Stores, get_typestore

    types = get_typestore(Stores.ROS2_HUMBLE).types
    data, step = encode_image(smooth_picture(), encoding)
    header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](0, 0), "camera")
    message = types["sensor_msgs/msg/Image"](header, 24, 32, encoding, 0, step, np.frombuffer(data, dtype=np.uint8))
    reference = rosbags_image.message_to_cvimage(message, "rgb8")
    np.testing.assert_allclose(decode_image(encoding, 24, 32, step, data).astype(int), reference.astype(int), atol=1)


def test_padded_rows_and_any_buffer() -> None:
    image = smooth_picture()
    data, step = encode_image(image, "bgr8")
    padded = b"".join(data[row * step : (row + 1) * step] + b"\xee" * 5 for row in range(24))
    for buffer in (padded, bytearray(padded), array.array("B", padded), np.frombuffer(padded, np.uint8)):
        np.testing.assert_array_equal(decode_image("bgr8", 24, 32, step + 5, buffer), image)
    # Some drivers leave the last row's padding away.
    np.testing.assert_array_equal(decode_image("bgr8", 24, 32, step + 5, padded[:-5]), image)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rgb9", 2, 2, 6, bytes(12)), "rgb9"),
        (("rgb8", 2, 2, 6, bytes(11)), "truncated"),
        (("rgb8", 2, 2, 5, bytes(12)), "step"),
        (("rgb8", 0, 2, 6, b""), "empty"),
        (("yuv422", 2, 3, 6, bytes(12)), "even width"),
    ],
)
def test_bad_images_are_refused_in_words(arguments: tuple, words: str) -> None:
    with pytest.raises(GeolocError, match=words):
        decode_image(*arguments)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_compressed(suffix: str) -> None:
    image = smooth_picture()
    coded = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
    tolerance = 0 if suffix == ".png" else 12
    np.testing.assert_allclose(decode_compressed(coded).astype(int), image.astype(int), atol=tolerance)
    for share in (0.3, 0.5, 0.9):
        with pytest.raises(GeolocError):
            decode_compressed(coded[: int(share * len(coded))])
    for nothing in (b"", b"not an image"):
        with pytest.raises(GeolocError):
            decode_compressed(nothing)
