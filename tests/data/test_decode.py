import io
import os
import struct
import subprocess
import sys
import tarfile
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxcnn.data.config import DataConfig
from jaxcnn.data.dataset import load
from jaxcnn.data.decode import decode_crop
from jaxcnn.data.resampling import Box, resize_crop
from jaxcnn.errors import UsageError
from jaxcnn.images import jpeg as turbo
from jaxcnn.images.opening import BadImage
from jaxcnn.images.pixels import channels_of, decode, decode_classes, image_size
from jaxcnn.preprocessing import Preprocessing

SHARED = Path(os.environ.get("JAXCNN_SHARED", Path(__file__).parents[3] / "shared")) / "data"


def photograph(height, width, mode="RGB", seed=0):
    """Smooth colours with some noise and edges: what JPEG was made for."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 12 + 2, width // 12 + 2, 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray(np.clip(smooth + rng.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)).convert(mode)


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(height=120, width=90, mode="RGB", **options):
    return encode(photograph(height, width, mode), "JPEG", **options)


def pillow(encoded, channels):
    with Image.open(io.BytesIO(encoded)) as image:
        image.load()
        image.info.pop("transparency", None)
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


def animation():
    file, frames = io.BytesIO(), [photograph(20, 30, seed=seed).convert("P") for seed in range(3)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def palette(transparency):
    return encode(photograph(40, 30).quantize(7), "PNG", transparency=transparency)


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(40, 30, exif=exif)


def thumbnail():
    """A JPEG file with another inside, as cameras write: its end comes before the frame."""
    exif = b"Exif\0\0" + jpeg(16, 16)
    return jpeg(50, 60)[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg(50, 60)[2:]


FILES = {
    "jpeg 4:4:4": lambda: jpeg(subsampling=0),
    "jpeg 4:2:2": lambda: jpeg(subsampling=1),
    "jpeg 4:2:0": lambda: jpeg(subsampling=2),
    "jpeg odd": lambda: jpeg(77, 51, subsampling=2, quality=95),
    "jpeg one pixel": lambda: jpeg(1, 1),
    "jpeg grey": lambda: jpeg(33, 47, "L"),
    "jpeg cmyk": lambda: jpeg(33, 47, "CMYK"),
    "jpeg rgb": lambda: jpeg(keep_rgb=True),
    "jpeg progressive": lambda: jpeg(progressive=True),
    "jpeg grey progressive": lambda: jpeg(mode="L", progressive=True),
    "jpeg restarts": lambda: jpeg(restart_marker_blocks=3),
    "jpeg rotated": rotated,
    "jpeg thumbnail": thumbnail,
    "jpeg and more": lambda: jpeg() + b"\0\xff\xd8 more" * 40,
    "jpeg padded": lambda: jpeg()[:-2] + bytes(20) + b"\xff\xd9",
    "png": lambda: encode(photograph(40, 30), "PNG"),
    "png grey": lambda: encode(photograph(40, 30, "L"), "PNG"),
    "png one bit": lambda: encode(photograph(40, 30, "1"), "PNG"),
    "png palette": lambda: encode(photograph(40, 30).quantize(7), "PNG"),
    "png palette, clear colour": lambda: palette(3),
    "png palette, alphas": lambda: palette(bytes([0, 50, 255])),
    "png alpha": lambda: encode(photograph(40, 30, "RGBA"), "PNG"),
    "png grey alpha": lambda: encode(photograph(40, 30, "LA"), "PNG"),
    "gif": animation,
    "bmp": lambda: encode(photograph(40, 30), "BMP"),
    "webp": lambda: encode(photograph(40, 30), "WEBP"),
    "webp alpha": lambda: encode(photograph(40, 30, "RGBA"), "WEBP", lossless=True),
    "tiff": lambda: encode(photograph(40, 30), "TIFF"),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", FILES)
def test_bits_are_pillows(kind, channels):
    encoded = FILES[kind]()
    expected, found = pillow(encoded, channels), decode(encoded, channels)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)
    assert image_size(encoded) == expected.shape[:2]
    height, width = expected.shape[:2]
    box = Box(height // 3, width // 4, height - height // 3, max(1, width // 2))
    part = expected[box.top : box.top + box.height, box.left : box.left + box.width]
    np.testing.assert_array_equal(decode_crop(encoded, box, part.shape[:2], channels), part)


DEEP = (np.arange(40 * 30).reshape(40, 30) * 54).astype(np.uint16)  # up to 64,746


def tiff(bits, samples, kind=1, photometric=1, order="<", fill_order=1):
    """A TIFF file of grey samples, given as they are stored."""
    tags = {
        256: 30,
        257: 40,
        258: bits,
        259: 1,
        262: photometric,
        266: fill_order,
        273: 8,
        277: 1,
        278: 40,
        279: len(samples),
        339: kind,
    }
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags.items())
    magic = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(samples))
    return magic + samples + struct.pack(order + "H", len(tags)) + entries + bytes(4)


def twelve_bits():
    first, second = (DEEP >> 4).reshape(-1, 2).astype(int).T
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1).astype(np.uint8).tobytes()


SIXTEEN = {
    "png": lambda: encode(Image.fromarray(DEEP), "PNG"),
    "tiff": lambda: encode(Image.fromarray(DEEP), "TIFF"),
    "tiff, packed": lambda: encode(Image.fromarray(DEEP), "TIFF", compression="tiff_lzw"),
    "tiff, big-endian": lambda: tiff(16, DEEP.astype(">u2").tobytes(), order=">"),
    "tiff, white is 0": lambda: tiff(16, (65535 - DEEP).astype("<u2").tobytes(), photometric=0),
    "tiff, 12 bits": lambda: tiff(12, twelve_bits()),
    "pgm": lambda: b"P5 30 40 65535\n" + DEEP.astype(">u2").tobytes(),
    "pgm as text": lambda: b"P2 30 40 65535\n" + b" ".join(b"%d" % value for value in DEEP.ravel()),
}


@pytest.mark.parametrize("kind", SIXTEEN)
def test_grey_of_more_than_8_bits_is_scaled_by_its_range(tmp_path, kind):
    encoded, expected = SIXTEEN[kind](), (DEEP >> 8).astype(np.uint8)
    np.testing.assert_array_equal(decode(encoded, 1)[..., 0], expected)
    np.testing.assert_array_equal(decode(encoded, 3), np.stack([expected] * 3, -1))
    box = Box(3, 5, 30, 20)
    part = expected[3:33, 5:25, None]
    np.testing.assert_array_equal(decode_crop(encoded, box, (30, 20), 1), part)
    assert channels_of(encoded) == 1
    # And in `predict`, from a file and from Pillow's image.
    (tmp_path / "x.jpg").write_bytes(encoded)
    plain = Preprocessing(size=None, resize=None, scale=1, mean=(0,) * 3, std=(1,) * 3)
    with Image.open(tmp_path / "x.jpg") as opened:
        for given in (tmp_path / "x.jpg", opened):
            np.testing.assert_array_equal(plain(given), np.stack([expected] * 3, -1))


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (tiff(32, DEEP.astype("<u4").tobytes()), "whole numbers of 32 bits"),
        (tiff(32, DEEP.astype("<i4").tobytes(), kind=2), "whole numbers of 32 bits"),
        (tiff(16, DEEP.astype("<i2").tobytes(), kind=2), "whole numbers of 32 bits"),
        (tiff(32, (DEEP / 65535).astype("<f4").tobytes(), kind=3), "floating point"),
        (b"Pf 30 40 -1.0\n" + DEEP.astype("<f4").tobytes(), "floating point"),
    ],
)
def test_grey_whose_range_is_not_known_is_no_image(tmp_path, encoded, reason):
    with pytest.raises(BadImage, match=reason):
        decode(encoded, 1)
    with Image.open(io.BytesIO(encoded)) as image:
        for given in (image, encoded):
            source = {"train": [(given, 0)] * 2, "test": [(image, 0)]}
            with pytest.raises(UsageError, match=rf"none of the 2 examples can be used, .*{reason}"):
                load(DataConfig(), source=source)
        with pytest.raises(UsageError, match=f"the image cannot be used: .*{reason}"):
            Preprocessing()(image)


def test_class_maps_keep_their_values():
    classes = np.arange(40 * 30, dtype=np.uint16).reshape(40, 30)
    for encoded in (encode(Image.fromarray(classes), "PNG"), b"P5 30 40 65535\n" + classes.astype(">u2").tobytes()):
        np.testing.assert_array_equal(decode_classes(encoded), classes)
    # Pillow scales what has less than 8 bits, and a PGM file by its brightest value: 1 of 20 becomes 13.
    few = (classes % 4).astype(np.uint8)
    grey = encode(Image.fromarray(few).point(lambda value: 85 * value), "PNG", bits=2)
    assert decode(grey, 1).max() == 255
    for encoded in (b"P5 30 40 20\n" + few.tobytes(), b"P2 30 40 20\n" + b" ".join(b"%d" % one for one in few.ravel())):
        with pytest.raises(BadImage, match="scaled or inverted as they are read"):
            decode_classes(encoded)


@pytest.mark.parametrize("white", [0, 1])
@pytest.mark.parametrize("reversed_bits", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_class_maps_whose_values_would_be_changed(bits, reversed_bits, white):
    """TIFF has grey of few bits, of bits in the other order, and with white as 0."""
    samples = np.arange(40 * -(-30 * bits // 8), dtype=np.uint16).astype(np.uint8)
    packed = np.packbits(np.unpackbits(samples, bitorder="little")) if reversed_bits else samples
    encoded = tiff(bits, packed.tobytes(), photometric=white, fill_order=1 + reversed_bits)
    if (bits, white) == (8, 1):
        np.testing.assert_array_equal(decode_classes(encoded).ravel(), samples)
        return
    with pytest.raises(BadImage, match="scaled or inverted as they are read"):
        decode_classes(encoded)


def bomb():
    """A PNG of 20000 x 20000 black pixels in 50 kB."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(2501 * 20_000))) + chunk(b"IEND", b"")


def resized_header(height, width):
    encoded = bytearray(jpeg())
    at = encoded.index(b"\xff\xc0")
    encoded[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(encoded)


def without(data, start, count):
    return data[:start] + data[start + count :]


def zeros_within():
    encoded = bytearray(jpeg(300, 200))
    encoded[6000:7000] = bytes(1000)
    return bytes(encoded)


DAMAGED = {
    "empty": (lambda: b"", "an empty file"),
    "text": (lambda: b"<html>404 Not Found</html>", "begins with b'<html>404 No': expected JPEG, PNG, BMP"),
    "zeros": (lambda: bytes(5000), "begins with"),
    "program for pictures": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "begins with"),
    "jpeg half": (lambda: jpeg()[: len(jpeg()) // 2], "truncated"),
    "jpeg without its end": (lambda: jpeg()[:-2], "truncated"),
    "jpeg half, then zeros": (lambda: jpeg()[: len(jpeg()) // 2] + bytes(len(jpeg()) // 2), "truncated"),
    "jpeg thumbnail half": (lambda: thumbnail()[: -len(jpeg(50, 60)) // 2], "truncated"),
    "jpeg header only": (lambda: jpeg()[:100], ""),
    "jpeg one byte": (lambda: jpeg()[:3], r"begins with .*: expected a whole JPEG"),
    "jpeg progressive half": (lambda: jpeg(progressive=True)[:2000], "truncated"),
    "jpeg cmyk half": (lambda: jpeg(mode="CMYK")[:3000], "truncated"),
    "jpeg with a hole": (lambda: without(jpeg(quality=95), 1500, 3000), "corrupt JPEG data"),
    "jpeg zeros within": (zeros_within, "corrupt JPEG data"),
    "jpeg without tables": (lambda: without(jpeg(), jpeg().index(b"\xff\xdb"), 69), ""),
    "jpeg of no rows": (lambda: resized_header(0, 90), "claims 0x90 pixels"),
    "jpeg too large": (lambda: resized_header(65_000, 65_000), "claims 65000x65000 pixels"),
    "jpeg larger than its data": (lambda: resized_header(2000, 2000), "premature end|corrupt"),
    "png half": (lambda: encode(photograph(40, 30), "PNG")[:1500], ""),
    "png with a wrong byte": (lambda: FILES["png"]()[:1000] + b"?" + FILES["png"]()[1001:], ""),
    "png header only": (lambda: FILES["png"]()[:20], ""),
    "png bomb": (bomb, "Image size|claims"),
    "gif half": (lambda: animation()[:900], ""),
    "webp half": (lambda: FILES["webp"]()[:200], ""),
    "bmp half": (lambda: FILES["bmp"]()[:500], ""),
    "tiff half": (lambda: FILES["tiff"]()[:100], ""),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_files(kind):
    damage, reason = DAMAGED[kind]
    encoded = damage()
    with pytest.raises(BadImage, match=f"^({reason})") as raised:
        decode(encoded, 3)
    assert 0 < len(str(raised.value)) < 250 and "\n" not in str(raised.value)
    # The top of the image, which may be whole: only damage within the data may stay unnoticed.
    if "within" not in kind and "hole" not in kind and "larger" not in kind:
        with pytest.raises(BadImage):
            decode_crop(encoded, Box(0, 0, 20, 20), (20, 20), 3)


@pytest.mark.parametrize("kind", ["empty", "text", "jpeg one byte", "jpeg of no rows", "jpeg too large", "png bomb"])
def test_the_size_of_what_is_no_image(kind):
    with pytest.raises(BadImage):
        image_size(DAMAGED[kind][0]())


def test_damage_within_is_noticed_by_a_crop_that_reaches_the_bottom():
    for damage in (zeros_within, DAMAGED["jpeg with a hole"][0]):
        height, _ = image_size(damage())
        with pytest.raises(BadImage, match="corrupt"):
            decode_crop(damage(), Box(height - 20, 5, 20, 20), (20, 20), 3)


def test_noise_within_is_noticed_by_any_crop():
    """Noise has markers that make no sense there, and the decoder walks on to the end."""
    encoded = bytearray(jpeg(300, 200))
    encoded[6000:7000] = np.random.default_rng(0).bytes(1000)
    for box in (Box(0, 0, 300, 200), Box(0, 0, 20, 20)):
        with pytest.raises(BadImage):
            decode_crop(bytes(encoded), box, (20, 20), 3)


def test_nothing_is_printed(tmp_path):
    for name, (damage, _) in DAMAGED.items():
        if name != "tiff half":  # Pillow warns of that one, by Python's warnings and once
            (tmp_path / name).write_bytes(damage())
    code = f"""
from pathlib import Path
from jaxcnn.data.decode import decode_crop
from jaxcnn.data.resampling import Box
from jaxcnn.images.pixels import decode
from jaxcnn.images.opening import BadImage
count = 0
for path in Path({str(tmp_path)!r}).iterdir():
    for read in (lambda b: decode(b, 3), lambda b: decode_crop(b, Box(0, 0, 110, 80), (50, 50), 1)):
        try:
            read(path.read_bytes())
        except BadImage:
            count += 1
assert count >= {2 * len(DAMAGED) - 4}, count
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@st.composite
def crops(draw):
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    rows, columns = draw(st.integers(1, height)), draw(st.integers(1, width))
    top, left = draw(st.integers(0, height - rows)), draw(st.integers(0, width - columns))
    options = {"subsampling": draw(st.integers(0, 2)), "quality": draw(st.sampled_from([30, 75, 95]))}
    options |= draw(st.sampled_from([{}, {"progressive": True}, {"restart_marker_blocks": 2}]))
    mode = draw(st.sampled_from(["RGB", "RGB", "L", "CMYK"]))
    return jpeg(height, width, mode, **options), Box(top, left, rows, columns)


@settings(deadline=None, max_examples=150)
@given(crop=crops(), channels=st.sampled_from([1, 3]))
def test_a_crop_of_its_own_size_is_the_whole_images(crop, channels):
    encoded, (top, left, height, width) = crop
    found = decode_crop(encoded, crop[1], (height, width), channels)
    whole = decode(encoded, channels)
    np.testing.assert_array_equal(found, whole[top : top + height, left : left + width])
    np.testing.assert_array_equal(whole, pillow(encoded, channels))


@pytest.mark.parametrize("sampling", ["440", "411"])
def test_rare_subsampling(sampling):
    import simplejpeg

    encoded = simplejpeg.encode_jpeg(np.asarray(photograph(90, 70)), colorsubsampling=sampling)
    whole = decode(encoded, 3)
    np.testing.assert_array_equal(whole, pillow(encoded, 3))
    for bottom in range(1, 91):
        part = decode_crop(encoded, Box(0, 0, bottom, 70), (bottom, 70), 3)
        np.testing.assert_array_equal(part, whole[:bottom])


def test_a_file_of_one_scan_for_each_colour():
    """Cut short in its first scan it has no colours: it is read whole."""
    encoded = one_scan_each()
    np.testing.assert_array_equal(decode(encoded, 3), pillow(encoded, 3))
    np.testing.assert_array_equal(decode_crop(encoded, Box(0, 0, 20, 90), (20, 90), 3), pillow(encoded, 3)[:20])


def one_scan_each():
    """A grey file's scan thrice, as Y, Cb and Cr."""
    grey = jpeg(mode="L", quality=90)
    frame, scan = grey.index(b"\xff\xc0"), grey.index(b"\xff\xda")
    (length,) = struct.unpack(">H", grey[frame + 2 : frame + 4])
    components = b"".join(bytes([1 + i, 0x11, 0]) for i in range(3))
    new_frame = b"\xff\xc0" + struct.pack(">H", 17) + grey[frame + 4 : frame + 9] + b"\x03" + components
    head = grey[:frame] + new_frame + grey[frame + 2 + length : scan]
    (length,) = struct.unpack(">H", grey[scan + 2 : scan + 4])
    data = grey[scan + 2 + length : -2]
    scans = [b"\xff\xda" + struct.pack(">H", 8) + bytes([1, 1 + i, 0, 0, 63, 0]) + data for i in range(3)]
    return head + b"".join(scans) + b"\xff\xd9"


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("progressive", [False, True])
def test_scaled_crops_lie_where_they_should(factor, progressive):
    """A slope from left to right and one from top to bottom keep their values, wherever the box lies."""
    rows, columns = np.mgrid[:256, :300]
    image = Image.fromarray(np.stack([rows, columns * 255 // 300, 0 * rows], -1).astype(np.uint8))
    encoded = encode(image, "JPEG", quality=100, subsampling=0, progressive=progressive)
    for box in (Box(0, 0, 256, 300), Box(3, 5, 17 * factor, 15 * factor), Box(101, 7, 16 * factor, 17 * factor + 3)):
        size = (box.height // factor, box.width // factor)
        exact = resize_crop(decode(encoded, 3), box, size, "box").astype(int)
        found = decode_crop(encoded, box, size, 3).astype(int)
        assert np.abs(found - exact)[1:-1, 1:-1].max() <= 2
        assert np.abs(found - exact).mean() < 0.7


def test_other_interpolations_are_not_scaled():
    encoded = jpeg(200, 200)
    for interpolation in ("nearest", "bicubic", "lanczos", "box"):
        np.testing.assert_array_equal(
            decode_crop(encoded, Box(10, 20, 150, 160), (32, 32), 3, interpolation),
            resize_crop(decode(encoded, 3), Box(10, 20, 150, 160), (32, 32), interpolation),
        )


@pytest.mark.parametrize("channels", [1, 3])
def test_out_is_written(channels):
    batch = np.zeros((3, 30, 40, channels), np.uint8)
    for encoded in (jpeg(), jpeg(300, 300), FILES["png"]()):
        box = Box(1, 1, image_size(encoded)[0] - 2, image_size(encoded)[1] - 2)
        found = decode_crop(encoded, box, (30, 40), channels, out=batch[1])
        np.testing.assert_array_equal(found, batch[1])
        np.testing.assert_array_equal(batch[1], decode_crop(encoded, box, (30, 40), channels))
        assert np.shares_memory(found, batch) and not batch[0].any() and not batch[2].any() and batch[1].any()


def test_a_box_outside_is_a_mistake():
    for encoded in (jpeg(120, 90), jpeg(120, 90, progressive=True), encode(photograph(120, 90), "PNG")):
        for box in (Box(0, 0, 121, 90), Box(1, 0, 120, 90), Box(-1, 0, 20, 20), Box(0, 80, 20, 11), Box(0, 0, 0, 5)):
            with pytest.raises(ValueError, match="is not inside an image of 120x90"):
                decode_crop(encoded, box, (10, 10), 3)


def test_threads_do_not_share_a_buffer():
    files = [jpeg(60 + i, 200 - i, quality=90) for i in range(24)]
    box = Box(3, 4, 50, 100)
    expected = [decode_crop(file, box, (32, 32), 3) for file in files]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda file: decode_crop(file, box, (32, 32), 3), files * 10))
    for index, image in enumerate(found):
        np.testing.assert_array_equal(image, expected[index % len(files)])


def test_a_large_buffer_is_not_kept(monkeypatch):
    monkeypatch.setattr(turbo, "_KEPT_BYTES", 20_000)
    monkeypatch.setattr(turbo, "_local", threading.local())
    for encoded in (jpeg(120, 90), jpeg(40, 30), jpeg(60, 90)):
        height, width = image_size(encoded)
        np.testing.assert_array_equal(
            decode_crop(encoded, Box(0, 0, height, width), (height, width), 3), decode(encoded, 3)
        )
    assert len(turbo._local.buffer) <= 20_000


def shared_files(name, count):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {path}")
    with tarfile.open(path) as file:
        members = [member for member in file if member.name.lower().endswith("jpeg")]
        return [file.extractfile(member).read() for member in members[:: max(1, len(members) // count)]]


@pytest.mark.data
@pytest.mark.parametrize("count", [25, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["imagenet_samples/imagenet_samples.tar", "imagenette/imagenette224_val.tar"])
def test_photographs_decode_as_with_pillow(name, count):
    """The same bits, so a network's accuracy cannot differ."""
    for encoded in shared_files(name, count):
        for channels in (1, 3):
            np.testing.assert_array_equal(decode(encoded, channels), pillow(encoded, channels))


@pytest.mark.data
def test_training_crops_of_photographs_are_near_pillows():
    from jaxcnn.data.crops import RandomResizedCrop

    generator, differences = np.random.default_rng(0), {size: [] for size in (224, 96)}
    for encoded in shared_files("imagenet_samples/imagenet_samples.tar", 60):
        image = Image.fromarray(pillow(encoded, 3))
        for size, found in differences.items():
            box = RandomResizedCrop().box(generator, image.height, image.width, size)
            corners = (box.left, box.top, box.left + box.width, box.top + box.height)
            expected = image.resize((size, size), Image.Resampling.BILINEAR, corners)
            crop = decode_crop(encoded, box, (size, size), 3)
            found.append(np.abs(crop.astype(int) - np.asarray(expected)).mean())
    assert np.mean(differences[224]) < 0.7 and max(differences[224]) < 2.5
    assert np.mean(differences[96]) < 1.5 and max(differences[96]) < 6
