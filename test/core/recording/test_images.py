# SPDX-License-Identifier: Apache-2.0
"""Image decoding against hand-laid bytes and against an independent bag library."""

import array

import cv2
import numpy as np
import pytest

from geoloc_models.errors import GeolocError
from geoloc_ros.core.recording.images import ENCODINGS, decode_compressed, decode_image, encode_image, to_8_bits


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


def test_twelve_and_fourteen_bits_are_stretched() -> None:
    """A thermal camera's few hundred values of 65536 would be four grey levels of the upper byte."""
    ramp = np.linspace(0.0, 1.0, 64 * 64).reshape(64, 64)
    wanted = np.clip((ramp - 0.01) / 0.98, 0, 1) * 255
    for low, span in ((7000, 765), (0, 4095), (29000, 900)):
        values = np.rint(low + ramp * span).astype("<u2")
        for encoding, data, big in (("16UC1", values, False), ("mono16", values.astype(">u2"), True)):
            decoded = decode_image(encoding, 64, 64, 128, data.tobytes(), big)
            np.testing.assert_allclose(decoded[..., 1], wanted, atol=2)
        coded = cv2.imencode(".png", values)[1].tobytes()
        np.testing.assert_allclose(decode_compressed(coded)[..., 0], wanted, atol=2)
    flat = decode_image("mono16", 8, 8, 16, np.full((8, 8), 500, "<u2").tobytes())
    assert (flat == flat[0, 0]).all()
    colour = np.stack([ramp * 1000, ramp * 2000, ramp * 4000], axis=-1).astype("<u2")
    red, green, blue = decode_image("rgb16", 64, 64, 64 * 6, colour.tobytes())[40, 40].astype(int)
    assert green - 2 * red == pytest.approx(0, abs=8) and blue - 4 * red == pytest.approx(0, abs=16)


def test_values_that_are_no_whole_numbers() -> None:
    values = np.linspace(20.0, 35.0, 10000).reshape(100, 100)
    values[::7, ::7] = np.nan
    grey = to_8_bits(values)
    assert grey[0, 1] == 0 and grey[-1, -1] == 255 and grey[7, 7] == 0
    assert grey[50, 51] == pytest.approx(127.5, abs=3)
    assert not to_8_bits(np.full((4, 4), np.inf)).any()


def with_segment(jpeg: bytes, marker: int, payload: bytes) -> bytes:
    return jpeg[:2] + bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2, "big") + payload + jpeg[2:]


@pytest.mark.parametrize("orientation", range(2, 9))
def test_orientation_tag_does_not_turn_the_stored_image(orientation: int) -> None:
    jpeg = cv2.imencode(".jpg", smooth_picture())[1].tobytes()
    tag = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + bytes([0, orientation]) + bytes(6)
    np.testing.assert_array_equal(decode_compressed(with_segment(jpeg, 0xE1, tag)), decode_compressed(jpeg))


@pytest.mark.parametrize("progressive", [0, 1])
def test_what_stands_behind_a_jpeg_does_not_matter(progressive: int) -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 80, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive])[1].tobytes()
    plain = decode_compressed(jpeg)
    for tail in (b"\x55" * 5000, b"\0" * 5000, jpeg[100:], jpeg):
        np.testing.assert_array_equal(decode_compressed(jpeg + tail), plain)
    preview = with_segment(jpeg, 0xE1, b"Exif\0\0" + jpeg)
    np.testing.assert_array_equal(decode_compressed(preview), plain)
    cut = len(jpeg) // 2
    # The rest of a buffer is not the rest of an image.
    for truncated in (preview[: len(preview) - cut], jpeg[:-cut] + jpeg, jpeg[:-cut] + bytes(5000)):
        with pytest.raises(GeolocError, match="truncated"):
            decode_compressed(truncated)
