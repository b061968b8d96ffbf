"""Images as torchvision prepares them, to the bit."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcnn.errors import UsageError
from jaxcnn.weights import Preprocessing

FILES = Path(__file__).parent / "weights/files"
HALF = (0.5, 0.5, 0.5)

# As in files/make.py.
KINDS = {
    "usual": Preprocessing(size=(7, 7), resize=9),
    "bicubic": Preprocessing(size=(6, 6), resize=9, interpolation="bicubic", mean=HALF, std=HALF),
    "padded": Preprocessing(size=(10, 10), resize=9),
    "uncropped": Preprocessing(size=None, resize=6),
}


@pytest.fixture(scope="module")
def made():
    with np.load(FILES / "preprocessed.npz") as file:
        return dict(file)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["wide", "tall"])
def test_as_torchvision(kind, shape, made):
    found = KINDS[kind](made[shape])
    assert found.dtype == np.float32 and found.shape == made[f"{shape}_{kind}"].shape
    np.testing.assert_array_equal(found, made[f"{shape}_{kind}"])


def test_keras():
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    caffe = Preprocessing(
        size=(4, 4), resize=None, channels="BGR", scale=1, mean=(103.939, 116.779, 123.68), std=(1, 1, 1)
    )
    expected = pixels[..., ::-1].astype(np.float32) - np.array([103.939, 116.779, 123.68], np.float32)
    np.testing.assert_array_equal(caffe(pixels), expected)
    tf = Preprocessing(size=(4, 4), resize=None, scale=1 / 127.5, mean=(1, 1, 1), std=(1, 1, 1))
    np.testing.assert_array_equal(tf(pixels), pixels.astype(np.float32) / np.float32(127.5) - 1)


def test_both_sides_are_resized_without_a_crop():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)
    raw = Preprocessing(size=(5, 6), resize=None, scale=1, mean=(0, 0, 0), std=(1, 1, 1))
    resized = Image.fromarray(pixels).resize((6, 5), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(raw(pixels), np.asarray(resized, np.float32))


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1", "LA"])
def test_every_kind_of_file_has_three_channels(mode, tmp_path):
    rgba = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12, 4), np.uint8))
    image = rgba.convert("RGB").convert(mode) if mode in ("CMYK", "P") else rgba.convert(mode)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image.save(path)
    expected = KINDS["usual"](np.asarray(image.convert("RGB")))
    for given in (path, str(path), image):
        np.testing.assert_array_equal(KINDS["usual"](given), expected)


def test_grey():
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    digits = Preprocessing(size=(28, 28), resize=None, channels="L", mean=(0.1307,), std=(0.3081,))
    expected = (pixels[..., None] / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081)
    np.testing.assert_array_equal(digits(pixels), expected)
    np.testing.assert_array_equal(digits(pixels[..., None]), expected)
    np.testing.assert_array_equal(KINDS["usual"](pixels), KINDS["usual"](np.stack([pixels] * 3, -1)))


def test_a_rotation_in_the_exif_data_is_not_applied(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8))
    exif = Image.Exif()
    exif[0x112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(KINDS["usual"](tmp_path / "turned.png"), KINDS["usual"](image))


def test_what_is_no_image(tmp_path):
    (tmp_path / "text.jpg").write_text("text")
    (tmp_path / "empty.png").touch()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:5000])
    for given, message in (
        (tmp_path / "none.jpg", "none.jpg cannot be used: No such file"),
        ("a\0b", "cannot be used: has a name that no file can have"),
        (tmp_path, "is a folder"),
        (tmp_path / "text.jpg", "text.jpg cannot be used: begins with b'text': expected JPEG, PNG"),
        (tmp_path / "empty.png", "empty.png cannot be used: an empty file"),
        (tmp_path / "cut.png", "cut.png cannot be used: image file is truncated"),
        (np.zeros((4, 4, 3)), r"float64 \[4, 4, 3\]: expected uint8"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \[4, 4, 4\]: expected"),
        (np.zeros((2, 4, 4, 3), np.uint8), "expected uint8"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
    ):
        with pytest.raises(UsageError, match=message):
            KINDS["usual"](given)


@pytest.mark.parametrize("kind", KINDS)
def test_json(kind):
    assert Preprocessing.from_json(KINDS[kind].to_json()) == KINDS[kind]


@pytest.mark.parametrize("text", ["", "[]", "{}}", '{"sise": [1, 1]}', '{"size": [0, 1]}', '{"interpolation": "area"}'])
def test_json_of_something_else(text):
    with pytest.raises(UsageError):
        Preprocessing.from_json(text)


@pytest.mark.parametrize(
    "wrong",
    [{"size": (1,)}, {"resize": 0}, {"scale": 0}, {"mean": (0.5,)}, {"std": (1, 0, 1)}, {"channels": "L"}],
)
def test_what_makes_no_input(wrong):
    with pytest.raises(UsageError, match="expected"):
        Preprocessing(**wrong)


def test_a_picture_starts_no_program(tmp_path, monkeypatch):
    """Pillow gives PostScript to Ghostscript, whatever the file is named."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "photo.jpg").write_bytes(eps)
    with pytest.raises(UsageError, match=r"photo.jpg cannot be used: begins with b'%!PS-Adobe-3': expected JPEG"):
        KINDS["usual"](tmp_path / "photo.jpg")
    assert not (tmp_path / "started").exists()


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "photo.jpg")
    signal.alarm(20)  # ends the process
    with pytest.raises(UsageError, match=r"photo.jpg cannot be used: is no file"):
        KINDS["usual"](tmp_path / "photo.jpg")
    signal.alarm(0)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "photo.jpg").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UsageError, match=r"photo.jpg cannot be used: has 1099511627776 bytes, expected at most"):
        KINDS["usual"](tmp_path / "photo.jpg")
