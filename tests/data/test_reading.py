"""Every kind of file reads to the right pixels, or is refused in one line."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from cxrmonai.data.geometry import letterbox
from cxrmonai.data.reading import (
    id_from_path,
    ids_from_paths,
    image_files,
    read_image,
    to_full_range,
    to_store_pixels,
)
from cxrmonai.errors import CxrError

SHAPE = (11, 17)
GREY = np.random.default_rng(1).integers(0, 256, SHAPE, dtype=np.uint8)
COLOUR = np.random.default_rng(2).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
ALPHA = np.random.default_rng(3).integers(0, 256, SHAPE, dtype=np.uint8)
LUMA = np.array([0.299, 0.587, 0.114])


def palette(transparent):
    image = Image.fromarray(COLOUR).quantize(17)
    if transparent:
        image.info["transparency"] = bytes([0, 128, *[255] * 15])
    return image


def profiled(path):
    Image.fromarray(GREY).save(path, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())


PNGS = {
    "grey": lambda path: Image.fromarray(GREY).save(path),
    "grey_alpha": lambda path: Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]).save(path),
    "rgb": lambda path: Image.fromarray(COLOUR).save(path),
    "rgba": lambda path: Image.fromarray(np.dstack([COLOUR, ALPHA])).save(path),
    "palette": lambda path: palette(False).save(path),
    "palette_transparent": lambda path: palette(True).save(path),
    "one_bit": lambda path: Image.fromarray(GREY > 128).save(path),
    "four_grey_levels": lambda path: Image.fromarray(GREY // 64 * 85).quantize(4).save(path, bits=2),
    "grey_profiled": profiled,
}


def by_pillow(path):
    """Grey pixels laid on black, read and converted without OpenCV."""
    pixels = np.asarray(Image.open(path).convert("RGBA")).astype(float)
    return (pixels[..., :3] @ LUMA) * (pixels[..., 3] / 255)


@pytest.mark.parametrize("kind", PNGS)
def test_png(tmp_path, kind, capfd):
    path = tmp_path / f"{kind}.png"
    PNGS[kind](path)
    pixels = read_image(path).pixels
    assert pixels.shape == SHAPE
    assert pixels.dtype == np.uint8
    assert pixels.std() > 20
    np.testing.assert_allclose(pixels, by_pillow(path), atol=1)
    assert capfd.readouterr().err == ""


def test_png_grey_is_exact_in_8_and_16_bit(tmp_path):
    deep = GREY.astype(np.uint16) * 201 + 7
    for pixels in (GREY, deep):
        Image.fromarray(pixels).save(tmp_path / "a.PNG")
        read = read_image(tmp_path / "a.PNG").pixels
        assert read.dtype == pixels.dtype
        np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("file", ["a.png", "a.jpg", "a.jpeg", "a.npy"])
def test_orientation_is_rows_first_as_seen(tmp_path, file):
    """A bright patch at the top right of a landscape image."""
    seen = np.zeros((32, 64), np.uint8)
    seen[:8, 48:] = 255
    if file.endswith("npy"):
        np.save(tmp_path / file, seen)
    else:
        Image.fromarray(seen).save(tmp_path / file)
    pixels = read_image(tmp_path / file).pixels
    assert pixels.shape == (32, 64)
    assert pixels[:7, 49:].min() > 200
    assert pixels[10:].max() < 60
    assert pixels[:, :46].max() < 60
    store = to_store_pixels(pixels, 64)
    assert store[17:23, 49:].min() > 200
    assert store[26:].max() < 60
    assert store[:16].max() == 0


def smooth(shape=(40, 64)):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return (rows * 2 + columns).astype(np.uint8)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg(tmp_path, mode):
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth()).convert(mode).save(path, quality=95)
    pixels = read_image(path).pixels
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels, np.asarray(Image.open(path).convert("L")).astype(float), atol=2)


def test_colour_jpeg_is_weighted_as_luma(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (16, 16), (200, 100, 20)).save(path, quality=95)
    np.testing.assert_allclose(read_image(path).pixels, np.array([200, 100, 20]) @ LUMA, atol=2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    from PIL import ImageOps

    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(smooth()).save(path, quality=95, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    pixels = read_image(path).pixels
    assert pixels.shape == expected.shape == ((40, 64) if orientation < 5 else (64, 40))
    np.testing.assert_allclose(pixels, expected.astype(float), atol=2)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", "float16", "int16", ">u2", "bool"])
def test_npy_plane(tmp_path, dtype):
    array = (GREY > 99) if dtype == "bool" else GREY.astype(dtype)
    np.save(tmp_path / "a.npy", array)
    pixels = read_image(tmp_path / "a.npy").pixels
    assert pixels.dtype == (dtype if dtype in ("uint8", "uint16") else np.float32)
    np.testing.assert_array_equal(pixels.astype(float), array.astype(float))


def test_npy_with_channels(tmp_path):
    arrays = {"one": GREY[..., None], "rgb": COLOUR, "rgba": np.dstack([COLOUR, ALPHA])}
    expected = {"one": GREY, "rgb": COLOUR @ LUMA, "rgba": (COLOUR @ LUMA) * (ALPHA / 255)}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
        np.testing.assert_allclose(read_image(tmp_path / f"{name}.npy").pixels, expected[name], atol=1)
    np.save(tmp_path / "float.npy", COLOUR / 255)
    np.testing.assert_allclose(read_image(tmp_path / "float.npy").pixels, COLOUR / 255 @ LUMA, atol=1e-3)


def test_full_range():
    np.testing.assert_array_equal(to_full_range(np.uint8([[0, 1, 255]])), [[0, 257, 65535]])
    np.testing.assert_array_equal(to_full_range(np.uint16([[100, 1123, 4195]])), [[0, 16372, 65535]])
    np.testing.assert_array_equal(to_full_range(np.float32([[-1, 0, 3]])), [[0, 16384, 65535]])
    assert not to_full_range(np.full((2, 2), 900, np.uint16)).any()


def test_store_pixels_in_both_depths():
    deep = np.uint16([[0, 1000], [2000, 4000]])
    np.testing.assert_array_equal(to_store_pixels(deep, 2, 16), [[0, 16384], [32768, 65535]])
    np.testing.assert_array_equal(to_store_pixels(deep, 2, 8), [[0, 64], [128, 255]])
    np.testing.assert_array_equal(to_store_pixels(GREY[:8, :8], 8), GREY[:8, :8])
    for kind in (np.uint16, np.int32, np.float32, np.float64):  # stretched before or after resizing is the same
        image = (np.random.default_rng(0).random((90, 70)) * 3000).astype(kind) - kind(0)
        stretched = letterbox(to_full_range(image).astype(np.float32), 32)
        np.testing.assert_allclose(to_store_pixels(image, 32, 16), stretched, atol=1)
        np.testing.assert_allclose(to_store_pixels(image, 32, 8), stretched / 257, atol=0.51)
    assert not to_store_pixels(np.full((9, 5), 900, np.uint16), 8).any()
    np.testing.assert_array_equal(to_store_pixels(GREY[:8, :8], 8, 16), GREY[:8, :8] * np.uint16(257))


def encoded(kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, kind, **options)
    return buffer.getvalue()


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def header_only(side):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npz():
    buffer = io.BytesIO()
    np.savez(buffer, a=GREY)
    return buffer.getvalue()


PNG, JPEG, PROGRESSIVE = encoded("PNG"), encoded("JPEG"), encoded("JPEG", progressive=True)
CUTS = [1, 3, 4, 8, 12, 13, 16, 25, len(PNG) // 2, len(PNG) - 20, len(PNG) - 8, len(PNG) - 3]
BAD = {
    **{f"cut{cut}.png": PNG[:-cut] for cut in CUTS},
    **{f"cut{cut}.jpg": JPEG[:-cut] for cut in (1, 2, 3, 40, len(JPEG) // 2, len(JPEG) - 100, len(JPEG) - 3)},
    **{f"progressive{cut}.jpg": PROGRESSIVE[:-cut] for cut in (1, 2, 40, len(PROGRESSIVE) // 3)},
    "pixels.png": flipped(PNG, PNG.index(b"IDAT") + 40),
    "text.png": b"patient,age\n1,2\n",
    "text.jpg": b"<html>not found</html>",
    "text.npy": b"patient,age\n1,2\n",
    "empty.png": b"",
    "empty.jpg": b"",
    "empty.npy": b"",
    "huge.png": header_only(30_000),
    "large.png": header_only(13_300),
    "image.tiff": b"II*\0",
    "no_suffix": PNG,
    "pickled.npy": npy(np.array([{}, 1], dtype=object), allow_pickle=True),
    "cut.npy": npy(GREY)[:-1],
    "header.npy": npy(GREY)[:40],
    "nan.npy": npy(np.array([[0.0, np.nan], [1, 2]])),
    "infinite.npy": npy(np.array([[0.0, np.inf], [1, 2]])),
    "too_large_for_float32.npy": npy(np.array([[0.0, 1e300], [1, 2]])),
    "scalar.npy": npy(np.array(3)),
    "four.npy": npy(np.zeros((1, 2, 3, 4))),
    "volume.npy": npy(np.zeros((4, 4, 9))),
    "none.npy": npy(np.zeros((0, 9))),
    "complex.npy": npy(np.zeros((3, 3), complex)),
    "float_alpha.npy": npy(np.zeros((3, 3, 4), np.float32)),
    "archive.npy": npz(),
    "archive_cut.npy": npz()[:-30],
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line_that_names_them(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(BAD[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CxrError) as caught:
            read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("huge.png", "million pixels"),
        ("large.png", "million pixels"),
        ("text.png", "not a PNG or JPEG"),
        ("cut12.png", "truncated"),
        ("cut40.jpg", "truncated"),
        ("nan.npy", "NaN"),
        ("image.tiff", "unknown type '.tiff'"),
        ("archive.npy", "npz"),
    ],
)
def test_the_reason_is_the_right_one(tmp_path, name, word):
    (tmp_path / name).write_bytes(BAD[name])
    with pytest.raises(CxrError, match=word):
        read_image(tmp_path / name)


def test_what_is_no_file(tmp_path):
    (tmp_path / "folder.png").mkdir()
    for name, word in (("absent.png", "no such file"), ("absent.npy", "no such file"), ("folder.png", "cannot be")):
        with pytest.raises(CxrError, match=word) as caught:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_files_of_a_folder(tmp_path):
    for name in ("b.png", "a.JPG", "sub/c.npy", "sub/d.txt", ".hidden.png", ".cache/e.png", "f.jpeg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    found = [path.relative_to(tmp_path).as_posix() for path in image_files(tmp_path)]
    assert found == ["a.JPG", "b.png", "f.jpeg", "sub/c.npy"]


@pytest.mark.parametrize(
    ("path", "expected"), [("a.png", "a"), ("p1/s2/v.1.jpg", "p1_s2_v.1"), ("a", "a"), ("", "."), (".", ".")]
)
def test_id_of_a_path(path, expected):
    assert id_from_path(path) == expected


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a/b.png", "c.jpg"], ["a_b", "c"]),
        (["a.png", "a.jpg", "s/b.png"], ["a.png", "a.jpg", "s_b.png"]),
        (["a/b.png", "a_b.png"], ["a%2Fb.png", "a_b.png"]),
    ],
)
def test_ids_of_different_paths_differ(paths, expected):
    assert ids_from_paths(paths) == expected


def test_real_files(shared_data):
    """Published radiographs, thumbnails and masks read as Pillow reads them."""
    files = [next(iter(sorted((shared_data / folder).glob("*.png")))) for folder in ("nih_sample/images_256",)]
    files += sorted((shared_data / "nih_sample" / "images").glob("*.png"))[:1]
    files += sorted((shared_data / "lung_masks" / "images").glob("*.png"))[:1]
    for path in map(Path, files):
        np.testing.assert_allclose(read_image(path).pixels, by_pillow(path), atol=1)
