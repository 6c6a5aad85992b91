"""Images are decoded whole or refused."""

import struct

import cv2
import numpy as np
import pytest

from bench.errors import InputError
from bench.images import image_size_hw, read_image_rgb


@pytest.fixture
def picture():
    """(24, 40, 3) RGB with structure, so that a truncated file loses something."""
    return np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8)


def encoded(suffix, picture, *options):
    return cv2.imencode(suffix, picture[:, :, ::-1], list(options))[1].tobytes()


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_lossless_files_come_back_as_the_same_rgb_pixels(tmp_path, picture, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encoded(suffix, picture))
    assert np.array_equal(read_image_rgb(path), picture)
    assert image_size_hw(path) == (24, 40)


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 1)])
def test_whole_jpegs_are_accepted_whatever_their_coding(tmp_path, picture, options):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(".jpg", picture, *options) + b"trailing bytes of a camera")
    assert read_image_rgb(path).shape == (24, 40, 3)
    assert image_size_hw(path) == (24, 40)


def test_fill_bytes_before_a_marker_belong_to_a_whole_jpeg(tmp_path, picture):
    path = tmp_path / "a.jpg"
    data = encoded(".jpg", picture)
    path.write_bytes(data[:2] + b"\xff\xff" + data[2:-2] + b"\xff\xff\xff" + data[-2:])
    assert image_size_hw(path) == (24, 40)
    assert read_image_rgb(path).shape == (24, 40, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
@pytest.mark.parametrize("kept", [0.2, 0.6, 0.99])
def test_a_truncated_file_is_refused_by_name(tmp_path, picture, suffix, kept):
    data = encoded(suffix, picture)
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[: int(kept * len(data))])
    for read in (read_image_rgb, image_size_hw):
        with pytest.raises(InputError, match=rf"cut\{suffix}: truncated"):
            read(path)


def test_a_jpeg_whose_thumbnail_is_whole_and_whose_picture_is_not_is_refused(tmp_path, picture):
    data, thumbnail = encoded(".jpg", picture), encoded(".jpg", picture[:8, :8])
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    path = tmp_path / "a.jpg"
    path.write_bytes(data[:2] + segment + data[2:])
    assert image_size_hw(path) == (24, 40)
    path.write_bytes((data[:2] + segment + data[2:])[:-40])
    with pytest.raises(InputError, match="truncated"):
        read_image_rgb(path)


def test_a_png_with_a_flipped_bit_is_refused(tmp_path, picture):
    data = bytearray(encoded(".png", picture))
    data[len(data) // 2] ^= 4
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(InputError, match="wrong checksum"):
        read_image_rgb(path)


def test_the_size_is_the_one_seen_after_the_exif_orientation(tmp_path, picture):
    data = encoded(".jpg", picture)
    # big-endian TIFF with one tag: orientation (0x0112), short, 1 value, 6: turned by a quarter
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
    path = tmp_path / "turned.jpg"
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    assert read_image_rgb(path).shape == (40, 24, 3)
    assert image_size_hw(path) == (40, 24)


def test_a_grey_image_becomes_rgb_and_transparency_is_dropped(tmp_path, picture):
    cv2.imwrite(str(tmp_path / "grey.png"), picture[:, :, 0])
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack((picture, picture[:, :, :1])))
    assert np.array_equal(read_image_rgb(tmp_path / "grey.png")[:, :, 2], picture[:, :, 0])
    assert np.array_equal(read_image_rgb(tmp_path / "alpha.png"), picture[:, :, ::-1])


def test_a_size_other_than_the_claimed_one_is_refused(tmp_path, picture):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(".png", picture))
    assert read_image_rgb(path, (24, 40)).shape == (24, 40, 3)
    with pytest.raises(InputError, match="is 40 x 24 pixels, its ground truth says 24 x 40"):
        read_image_rgb(path, (40, 24))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"GIF89a" + bytes(99), "not an image"), (b"hello", "not an image"), (None, "cannot be read")],
)
def test_what_is_no_image_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.jpg: .*{message}"):
        read_image_rgb(path)
