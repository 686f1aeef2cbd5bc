"""NIfTI, the raw files of JSRT, GIF, and which reader a file gets."""

from __future__ import annotations

import gzip
import struct

import nibabel
import numpy as np
import pytest
from PIL import Image

from cxrmonai.data.reading import READERS, id_from_path, image_files, read_image
from cxrmonai.errors import CxrError

SEEN = np.random.default_rng(0).integers(0, 256, (20, 31), dtype=np.uint8)
DEEP = np.random.default_rng(1).integers(0, 4096, (20, 31), dtype=np.uint16)


def nifti(path, seen, spacing=(0.2, 0.1), units="mm", slope=None, kind=nibabel.Nifti1Image, axes=2):
    """Writes rows first, as seen, in the order in which NIfTI has it."""
    image = kind(seen.T.reshape(*seen.T.shape, *[1] * (axes - 2)), np.diag([spacing[1], spacing[0], 1, 1]))
    image.header.set_zooms([spacing[1], spacing[0], *[1] * (axes - 2)])
    if units:
        image.header.set_xyzt_units(units)
    if slope:
        image.header.set_slope_inter(*slope)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.NII.GZ"])
@pytest.mark.parametrize("axes", [2, 3, 4])
def test_nifti_is_rows_first_as_seen(tmp_path, name, axes):
    nifti(tmp_path / name.lower(), SEEN, axes=axes).rename(tmp_path / name)
    read = read_image(tmp_path / name)
    assert read.pixels.dtype == np.uint8
    np.testing.assert_array_equal(read.pixels, SEEN)
    assert read.spacing == (pytest.approx(0.2), pytest.approx(0.1))


def test_nifti_as_monai_writes_and_reads_it(tmp_path):
    from monai.data import ITKReader, NibabelReader, NibabelWriter

    writer = NibabelWriter(output_dtype=np.float32)
    writer.set_data_array(SEEN.T[None], channel_dim=0)
    writer.write(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii.gz").pixels, SEEN)
    for reader in (NibabelReader(), ITKReader()):
        array, _ = reader.get_data(reader.read(str(tmp_path / "a.nii.gz")))
        np.testing.assert_array_equal(np.squeeze(array).T, SEEN)


@pytest.mark.parametrize(("dtype", "expected"), [("uint16", "uint16"), ("int16", "float32"), ("float64", "float32")])
def test_nifti_types(tmp_path, dtype, expected):
    read = read_image(nifti(tmp_path / "a.nii", DEEP.astype(dtype))).pixels
    assert read.dtype == expected
    np.testing.assert_array_equal(read, DEEP)


def test_nifti_scale(tmp_path):
    path = nifti(tmp_path / "a.nii", DEEP)
    data = bytearray(path.read_bytes())
    struct.pack_into("<2f", data, 112, 0.5, -3)
    path.write_bytes(data)
    np.testing.assert_allclose(read_image(path).pixels, DEEP * 0.5 - 3)


def test_nifti_of_the_other_byte_order(tmp_path):
    image = nibabel.Nifti1Image(DEEP.T, np.eye(4), nibabel.Nifti1Header(endianness=">"))
    image.header.set_data_dtype(">u2")
    nibabel.save(image, tmp_path / "a.nii")
    read = read_image(tmp_path / "a.nii").pixels
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, DEEP)


@pytest.mark.parametrize(
    ("units", "spacing"),
    [("unknown", (0.2, 0.1)), ("meter", (200, 100)), ("micron", (0.0002, 0.0001))],
)
def test_nifti_units(tmp_path, units, spacing):
    assert read_image(nifti(tmp_path / "a.nii", SEEN, units=units)).spacing == pytest.approx(spacing)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.AnalyzeImage])
@pytest.mark.parametrize("name", ["a.img", "a.hdr"])
def test_pairs(tmp_path, kind, name):
    seen = SEEN if kind is nibabel.AnalyzeImage else DEEP
    nifti(tmp_path / "a.img", seen, units="mm" if kind is nibabel.Nifti1Pair else None, kind=kind, axes=3)
    np.testing.assert_array_equal(read_image(tmp_path / name).pixels, seen)


def patched(path, offset, fmt, *values, make=nifti):
    data = bytearray(make(path, SEEN).read_bytes())
    struct.pack_into(fmt, data, offset, *values)
    path.write_bytes(data)


def compressed_zeros(path):
    head = bytearray(nifti(path.with_name("b.nii"), SEEN).read_bytes()[:352])
    struct.pack_into("<f", head, 108, 2e9)
    with gzip.open(path, "wb") as file:
        file.write(bytes(head) + bytes(1000))


BAD_NIFTI = {
    "empty.nii": (lambda path: path.write_bytes(b""), "the file is empty"),
    "text.nii": (lambda path: path.write_text("no " * 200), "not a NIfTI file"),
    "text.nii.gz": (lambda path: path.write_text("no " * 200), "not a NIfTI file"),
    "cut.nii": (lambda path: path.write_bytes(nifti(path, SEEN).read_bytes()[:-9]), "truncated or damaged"),
    "head.nii": (lambda path: path.write_bytes(nifti(path, SEEN).read_bytes()[:100]), "truncated or damaged"),
    "cut.nii.gz": (lambda path: path.write_bytes(nifti(path, SEEN).read_bytes()[:-40]), "truncated or damaged"),
    "volume.nii": (
        lambda path: nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.eye(4)), path),
        r"shape \(4, 5, 6\) is no radiograph",
    ),
    "colour.nii": (
        lambda path: nibabel.save(
            nibabel.Nifti1Image(np.zeros((4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")]), np.eye(4)), path
        ),
        "cannot be read as a radiograph",
    ),
    "nan.nii": (lambda path: nifti(path, np.full((4, 5), np.nan, np.float32)), "NaN"),
    "huge.nii": (lambda path: patched(path, 40, "<3h", 2, 30_000, 30_000), "million pixels"),
    "offset.nii": (lambda path: patched(path, 108, "<f", 2e9), "damaged"),
    "offset.nii.gz": (compressed_zeros, "damaged"),
    "alone.hdr": (
        lambda path: nifti(path.with_suffix(".img"), SEEN, kind=nibabel.Nifti1Pair).unlink(), "the other file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_NIFTI)
def test_bad_nifti(tmp_path, name, capfd):
    make, word = BAD_NIFTI[name]
    make(tmp_path / name)
    with pytest.raises(CxrError, match=word) as caught:
        read_image(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["JPCLN001.IMG", "JPCNN001.img"])
def test_jsrt(tmp_path, name):
    """High numbers are dense film, which is air: they come out dark."""
    raw = np.random.default_rng(2).integers(0, 4096, (2048, 2048), dtype=np.uint16)
    raw[0, :3] = 0, 4095, 5000
    (tmp_path / name).write_bytes(raw.astype(">u2").tobytes())
    read = read_image(tmp_path / name)
    assert read.pixels.dtype == np.uint16
    assert read.pixels[0, :3].tolist() == [4095, 0, 0]
    np.testing.assert_array_equal(read.pixels[1:], 4095 - raw[1:])
    assert read.spacing == (0.175, 0.175)


@pytest.mark.parametrize("size", [0, 2048 * 2048, 2 * 2048 * 2048 + 1])
def test_jsrt_of_another_length(tmp_path, size):
    with open(tmp_path / "a.img", "wb") as file:
        file.truncate(size)
    with pytest.raises(CxrError, match=f"has 8388608 bytes and not {size}, nor one of NIfTI"):
        read_image(tmp_path / "a.img")


def test_gif_of_a_mask(tmp_path):
    for mode in ("L", "1", "P"):
        mask = Image.fromarray((SEEN > 127).astype(np.uint8) * 255)
        mask.convert(mode).save(tmp_path / "a.gif")
        np.testing.assert_array_equal(read_image(tmp_path / "a.gif").pixels, (SEEN > 127) * np.uint8(255))


def test_bad_gifs(tmp_path):
    path = tmp_path / "a.gif"
    frames = [Image.fromarray(np.roll(SEEN, k, 0)) for k in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(CxrError, match="a GIF of 3 frames is no radiograph"):
        read_image(path)
    frames[0].save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-300])
    with pytest.raises(CxrError, match="the GIF file is truncated or damaged"):
        read_image(path)
    path.write_bytes(whole[:6] + struct.pack("<2H", 30_000, 30_000) + whole[10:])
    with pytest.raises(CxrError, match="million pixels"):
        read_image(path)
    for content, word in ((b"", "the file is empty"), (b"\x89PNG\r\n\x1a\n", "not a GIF image")):
        path.write_bytes(content)
        with pytest.raises(CxrError, match=word):
            read_image(path)


def test_files_of_a_hospital(tmp_path):
    dicom = bytes(128) + b"DICM"
    for name, content in {
        "IM000001": dicom, "1.2.840.5": dicom, "DICOMDIR": dicom, "README": b"text", "notes.txt": dicom, "a.dcm": b"",
        "sub/b.nii.gz": b"", "sub/c.gz": b"", "p.hdr": b"", "p.img": b"", "q.hdr": b"", "m.gif": b"", "0001.7": b"x",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    found = [path.relative_to(tmp_path).as_posix() for path in image_files(tmp_path)]
    assert found == ["1.2.840.5", "IM000001", "a.dcm", "m.gif", "p.img", "q.hdr", "sub/b.nii.gz"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("p/a.nii.gz", "p_a"), ("A.NII.GZ", "A"), ("1.2.840.113", "1.2.840.113"), ("s/IM0001", "s_IM0001"),
        ("a.dcm", "a"), ("2.25.17.dcm", "2.25.17"), ("./a.png", "a"),
    ],
)  # fmt: skip
def test_ids(path, expected):
    assert id_from_path(path) == expected


def test_every_suffix_is_known_in_capitals_too(tmp_path):
    for suffix in READERS:
        path = tmp_path / f"a{suffix.upper()}"
        path.write_bytes(b"x")
        with pytest.raises(CxrError) as caught:
            read_image(path)
        assert "unknown type" not in str(caught.value)
        path.unlink()
