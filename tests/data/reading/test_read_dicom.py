"""DICOM in every way of storing pixels, and every step from stored values to grey."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from contextlib import suppress

import cv2
import numpy as np
import pytest
from dicom_files import compressed, dicom, encapsulated, lossless_jpeg, recoded, sequential_jpeg
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG2MPML,
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from cxrmonai.data.reading import RawImage, read_image, to_full_range
from cxrmonai.errors import CxrError

SHAPE = (42, 67)
DEEP = np.random.default_rng(0).integers(0, 4096, SHAPE, dtype=np.uint16)
BYTES = np.random.default_rng(1).integers(0, 256, SHAPE, dtype=np.uint8)
SIGNED = (DEEP.astype(np.int16) - 2048).astype(np.int16)
WHOLE = np.linspace(0, 65535, SHAPE[0] * SHAPE[1]).astype(np.uint16).reshape(SHAPE)
COLOUR = np.random.default_rng(2).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
LUMA = np.array([0.299, 0.587, 0.114])
KNOWN = {"8 bit": (BYTES, 8), "12 bit": (DEEP, 12), "signed": (SIGNED, 12), "16 bit": (WHOLE, 16)}


def smooth(top):
    """A soft image that reaches both ends of its range."""
    noise = cv2.GaussianBlur(np.random.default_rng(3).normal(size=(96, 80)), (0, 0), 5)
    return np.clip(top / 2 + noise / noise.std() * top * 0.6, 0, top).astype(np.uint8 if top == 255 else np.uint16)


def by_rle(path):
    return compressed(path, RLELossless, encoding_plugin="pydicom")  # GDCM's encoder may end the process


@pytest.mark.parametrize("kind", KNOWN)
@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_uncompressed(tmp_path, syntax, kind):
    pixels, stored = KNOWN[kind]
    read = read_image(dicom(tmp_path / "a.dcm", pixels, stored, syntax)).pixels
    assert read.dtype == pixels.dtype
    assert read.flags.writeable
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("kind", KNOWN)
@pytest.mark.parametrize(
    "recode",
    [
        by_rle,
        lambda path: compressed(path, JPEG2000Lossless),
        lambda path: recoded(path, "JPEGLosslessProcess14"),
        lambda path: recoded(path, "JPEGLosslessProcess14_1"),
        lambda path: recoded(path, "JPEGLSLossless"),
    ],
    ids=["RLE", "JPEG 2000", "JPEG lossless", "JPEG lossless SV1", "JPEG-LS"],
)
def test_lossless(tmp_path, recode, kind, capfd):
    pixels, stored = KNOWN[kind]
    read = read_image(recode(dicom(tmp_path / "a.dcm", pixels, stored))).pixels
    np.testing.assert_array_equal(read, pixels)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_jpeg_lossless_of_the_bits_in_use(tmp_path, bits, capfd):
    pixels = (WHOLE >> (16 - bits)).astype(np.uint8 if bits == 8 else np.uint16)
    frame = lossless_jpeg(pixels, bits)
    path = encapsulated(tmp_path / "a.dcm", pixels, [frame], JPEGLosslessSV1, bits)
    np.testing.assert_array_equal(read_image(path).pixels, pixels)
    assert capfd.readouterr() == ("", "")


def test_jpeg_baseline_is_what_opencv_decodes(tmp_path):
    pixels = smooth(255)
    frame = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    expected = cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_UNCHANGED)
    path = encapsulated(tmp_path / "a.dcm", pixels, [frame], JPEGBaseline8Bit)
    np.testing.assert_array_equal(read_image(path).pixels, expected)
    np.testing.assert_allclose(expected.astype(float), pixels, atol=12)


@pytest.mark.parametrize("step", [1, 8, 40])
def test_jpeg_extended_of_12_bit(tmp_path, step, capfd):
    pixels = smooth(4095)
    assert (pixels == 0).sum() > 100
    assert (pixels == 4095).sum() > 100
    path = encapsulated(tmp_path / "a.dcm", pixels, [sequential_jpeg(pixels, 12, step)], JPEGExtended12Bit, 12)
    read = read_image(path).pixels
    assert read.dtype == np.uint16
    np.testing.assert_allclose(read.astype(float), pixels, atol=1 + 2 * step)
    assert capfd.readouterr() == ("", "")


def test_jpeg_extended_as_gdcm_writes_it(tmp_path):
    """GDCM writes 16-bit streams and lets decoded values beyond the ends of the range come out at the other end."""
    pixels = smooth(4095)
    path = recoded(dicom(tmp_path / "a.dcm", pixels, 12), "JPEGExtendedProcess2_4")
    np.testing.assert_allclose(read_image(path).pixels.astype(float), pixels, atol=3)


@pytest.mark.parametrize("kind", ["JPEG2000", "JPEGLSNearLossless"])
def test_other_lossy_streams(tmp_path, kind):
    pixels = smooth(4095)
    path = recoded(dicom(tmp_path / "a.dcm", pixels, 12), kind)
    np.testing.assert_allclose(read_image(path).pixels.astype(float), pixels, atol=8)


def test_a_stream_in_several_fragments(tmp_path):
    frame = lossless_jpeg(DEEP, 12)
    path = encapsulated(tmp_path / "a.dcm", DEEP, [frame], JPEGLosslessSV1, 12)
    ds = dcmread(path)
    parts = [frame[:100], frame[100:2000], frame[2000:]]
    parts = [part + b"\0" * (len(part) % 2) for part in parts]
    items = b"".join(b"\xfe\xff\x00\xe0" + len(part).to_bytes(4, "little") + part for part in [b"", *parts])
    ds.PixelData = items
    ds.save_as(path)
    np.testing.assert_array_equal(read_image(path).pixels, DEEP)


WINDOWS = {
    # function, center, width: values and the share of the full range that each comes to
    ("LINEAR", 100, 51): {0: 0, 74: 0, 75: 0.01, 87: 0.25, 112: 0.75, 124: 0.99, 125: 1, 4095: 1},
    ("LINEAR", 100, 1): {99: 0, 100: 1},
    ("LINEAR_EXACT", 100, 50): {75: 0, 100: 0.5, 112: 0.74, 125: 1, 126: 1},
    ("SIGMOID", 100, 50): {100: 0.5, 125: 1 / (1 + np.exp(-2)), 75: 1 - 1 / (1 + np.exp(-2)), 0: 1 / (1 + np.exp(8))},
    (None, 2048, 4096): {0: 0, 4095: 1, 819: 0.2},
}


@pytest.mark.parametrize(("function", "center", "width"), WINDOWS)
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_windows_by_hand(tmp_path, function, center, width, photometric):
    elements = {"WindowCenter": center, "WindowWidth": width, "PhotometricInterpretation": photometric}
    if function:
        elements["VOILUTFunction"] = function
    read = read_image(dicom(tmp_path / "a.dcm", RAMP, 12, **elements)).pixels.ravel()
    assert read.dtype == np.uint16
    for value, share in WINDOWS[function, center, width].items():
        expected = 65535 * share if photometric == "MONOCHROME2" else 65535 * (1 - share)
        assert read[value] == pytest.approx(expected, abs=0.51)


def test_rescale_comes_before_the_first_window(tmp_path):
    path = dicom(
        tmp_path / "a.dcm", RAMP, 12, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=[100, 9], WindowWidth=[51, 9]
    )
    read = read_image(path).pixels.ravel()
    assert [read[value] for value in (537, 538, 543, 556, 562, 563)] == [
        0, *(round(65535 * ((2 * value - 1000 - 99.5) / 50 + 0.5)) for value in (538, 543, 556, 562)), 65535
    ]  # fmt: skip


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_as_pydicom_applies_them(tmp_path, function, signed):
    pixels = SIGNED if signed else DEEP
    path = dicom(
        tmp_path / "a.dcm", pixels, 12, RescaleSlope=0.5, RescaleIntercept=10,
        WindowCenter=300, WindowWidth=900, VOILUTFunction=function,
    )  # fmt: skip
    ds = dcmread(path)
    low, high = (-1024 + 10, 2047 / 2 + 10) if signed else (10, 4095 / 2 + 10)
    shown = apply_voi_lut(apply_modality_lut(ds.pixel_array, ds), ds)
    np.testing.assert_allclose(read_image(path).pixels, (shown - low) / (high - low) * 65535, atol=0.51)


def lookup(first, bits, entries):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    item.add_new("LUTData", "US", list(entries))
    return Sequence([item])


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_table_is_preferred_to_a_window(tmp_path, syntax):
    table = lookup(1000, 10, [0, 100, 500, 1023])
    path = dicom(tmp_path / "a.dcm", RAMP, 12, syntax, VOILUTSequence=table, WindowCenter=1, WindowWidth=2)
    read = read_image(path).pixels.ravel()
    assert [read[k] for k in (0, 1000, 1001, 1002, 1003, 4000)] == [0, 0, 6406, 32031, 65535, 65535]


def test_a_table_of_words(tmp_path):
    """LUT Data may be bytes (OW) as well as numbers (US)."""
    path = dicom(tmp_path / "a.dcm", RAMP, 12, VOILUTSequence=lookup(1000, 10, [0, 100, 500, 1023]))
    ds = dcmread(path)
    item = ds.VOILUTSequence[0]
    item.add_new("LUTData", "OW", np.array([0, 100, 500, 1023], "<u2").tobytes())
    ds.save_as(path)
    assert read_image(path).pixels.ravel()[1001] == 6406


def test_modality_table(tmp_path):
    table = lookup(10, 8, [7, 9, 250])
    plain = read_image(dicom(tmp_path / "a.dcm", RAMP, 12, ModalityLUTSequence=table)).pixels.ravel()
    assert [plain[k] for k in (0, 10, 11, 12, 4095)] == [7, 7, 9, 250, 250]
    inverted = dicom(tmp_path / "b.dcm", RAMP, 12, ModalityLUTSequence=table, PhotometricInterpretation="MONOCHROME1")
    assert [read_image(inverted).pixels.ravel()[k] for k in (0, 11, 12)] == [248, 246, 5]


def test_rescale_alone_gives_the_values_it_means(tmp_path):
    read = read_image(dicom(tmp_path / "a.dcm", DEEP, 12, RescaleSlope=0.5, RescaleIntercept=-100)).pixels
    np.testing.assert_array_equal(read, DEEP * np.float32(0.5) - 100)
    falling = read_image(dicom(tmp_path / "b.dcm", DEEP, 12, RescaleSlope=-1, RescaleIntercept=4095)).pixels
    np.testing.assert_array_equal(to_full_range(falling), to_full_range(4095 - DEEP))


@pytest.mark.parametrize("kind", KNOWN)
def test_monochrome1_is_mirrored_in_the_range_of_the_stored_bits(tmp_path, kind):
    pixels, stored = KNOWN[kind]
    read = read_image(dicom(tmp_path / "a.dcm", pixels, stored, PhotometricInterpretation="MONOCHROME1")).pixels
    ends = {"8 bit": 255, "12 bit": 4095, "signed": -1, "16 bit": 65535}[kind]
    assert read.dtype == pixels.dtype
    np.testing.assert_array_equal(read, ends - pixels.astype(int))


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"RescaleSlope": 1, "RescaleIntercept": 0},
        {"WindowCenter": 128, "WindowWidth": 256},
        {"WindowCenter": 0, "WindowWidth": 0},
        {"WindowCenter": "", "WindowWidth": ""},
    ],
)
def test_8_bit_is_as_a_png_of_it(tmp_path, elements, photometric):
    path = dicom(tmp_path / "a.dcm", BYTES, 8, PhotometricInterpretation=photometric, **elements)
    read = read_image(path).pixels
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, BYTES if photometric == "MONOCHROME2" else 255 - BYTES)
    in_words = dicom(tmp_path / "b.dcm", BYTES.astype(np.uint16), 8, PhotometricInterpretation=photometric, **elements)
    np.testing.assert_array_equal(read_image(in_words).pixels, read)
    assert read_image(in_words).pixels.dtype == np.uint8


def test_8_bit_with_a_window_uses_the_depth_of_16(tmp_path):
    read = read_image(dicom(tmp_path / "a.dcm", BYTES, 8, WindowCenter=100, WindowWidth=101)).pixels
    assert read.dtype == np.uint16
    np.testing.assert_allclose(read, np.clip((BYTES - 99.5) / 100 + 0.5, 0, 1) * 65535, atol=0.51)


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 2000, "WindowWidth": 3000}])
@pytest.mark.parametrize(
    ("padding", "stored_value"),
    [
        ({"PixelPaddingValue": 4095}, 4095),
        ({"PixelPaddingValue": 4000, "PixelPaddingRangeLimit": 4095}, 4050),
        ({"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 4000}, 4000),
        ({"PixelPaddingValue": 63536}, 63536),
    ],
)
def test_padding_becomes_the_darkest(tmp_path, padding, stored_value, window, photometric):
    pixels = np.clip(DEEP, 100, 3900)
    plain = read_image(dicom(tmp_path / "a.dcm", pixels, 12, PhotometricInterpretation=photometric, **window)).pixels
    padded = pixels.copy()
    padded[:, :5] = stored_value
    path = dicom(tmp_path / "b.dcm", padded, 12, PhotometricInterpretation=photometric, **window, **padding)
    read = read_image(path).pixels
    np.testing.assert_array_equal(read[:, 5:], plain[:, 5:])
    assert (read[:, :5] == plain[:, 5:].min()).all()


def test_an_image_of_nothing_but_padding_stays(tmp_path):
    pixels = np.full(SHAPE, 7, np.uint16)
    read = read_image(dicom(tmp_path / "a.dcm", pixels, 12, PixelPaddingValue=7)).pixels
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("recode", [lambda path: path, by_rle])
def test_bits_not_in_use_are_cut_away(tmp_path, recode):
    overlay = np.random.default_rng(4).integers(0, 16, SHAPE, dtype=np.uint16) << 12
    read = read_image(recode(dicom(tmp_path / "a.dcm", DEEP | overlay, 12))).pixels
    np.testing.assert_array_equal(read, DEEP)
    signed = ((SIGNED.view(np.uint16) & 0x0FFF) | overlay).view(np.int16)
    np.testing.assert_array_equal(read_image(recode(dicom(tmp_path / "b.dcm", signed, 12))).pixels, SIGNED)
    at_the_top = (DEEP << 4) | (overlay >> 12)
    path = dicom(tmp_path / "c.dcm", at_the_top, 12, HighBit=15)
    np.testing.assert_array_equal(read_image(recode(path)).pixels, DEEP)


def test_depths_beyond_16_bit(tmp_path):
    pixels = DEEP.astype(np.uint32) * 70_000
    np.testing.assert_array_equal(read_image(dicom(tmp_path / "a.dcm", pixels)).pixels, pixels.astype(np.float32))


@pytest.mark.parametrize("planar", [0, 1])
def test_colour_becomes_its_luma(tmp_path, planar):
    stored = COLOUR if planar == 0 else np.ascontiguousarray(COLOUR.transpose(2, 0, 1)).reshape(COLOUR.shape)
    read = read_image(dicom(tmp_path / "a.dcm", stored, PlanarConfiguration=planar)).pixels
    assert read.dtype == np.uint8
    np.testing.assert_allclose(read, COLOUR @ LUMA, atol=1)


def test_grey_screen_capture_keeps_its_grey(tmp_path):
    stored = np.repeat(BYTES[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_image(dicom(tmp_path / "a.dcm", stored)).pixels, BYTES)
    ybr = np.dstack([BYTES, np.full(SHAPE, 128, np.uint8), np.full(SHAPE, 128, np.uint8)])
    path = dicom(tmp_path / "b.dcm", ybr, PhotometricInterpretation="YBR_FULL")
    np.testing.assert_array_equal(read_image(path).pixels, BYTES)


def test_colour_of_half_the_columns(tmp_path):
    """YBR_FULL_422: two pixels share their blue and red."""
    grey = BYTES[:, :66]
    content = np.full((SHAPE[0], 33, 4), 128, np.uint8)
    content[..., :2] = grey.reshape(SHAPE[0], 33, 2)
    path = dicom(
        tmp_path / "a.dcm", np.repeat(grey[..., None], 3, axis=2), PhotometricInterpretation="YBR_FULL_422",
        PixelData=content.tobytes() + b"\0" * (content.size % 2),
    )  # fmt: skip
    np.testing.assert_array_equal(read_image(path).pixels, grey)


def test_colour_jpeg(tmp_path):
    pixels = cv2.GaussianBlur(COLOUR, (0, 0), 4)
    frame = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    path = encapsulated(tmp_path / "a.dcm", pixels, [frame], JPEGBaseline8Bit, PhotometricInterpretation="YBR_FULL_422")
    np.testing.assert_allclose(read_image(path).pixels, pixels @ LUMA, atol=4)


def palette(path, **elements):
    tables = {}
    for k, name in enumerate(("Red", "Green", "Blue")):
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tables[f"{name}PaletteColorLookupTableData"] = (np.arange(256, dtype="<u2") * (200 - 20 * k)).tobytes()
    return dicom(path, BYTES, 8, PhotometricInterpretation="PALETTE COLOR", **{**tables, **elements})


def test_palette(tmp_path):
    read = read_image(palette(tmp_path / "a.dcm")).pixels
    np.testing.assert_allclose(read, BYTES.astype(float) * (np.array([200, 180, 160]) @ LUMA), atol=1)


@pytest.mark.parametrize(
    ("elements", "spacing"),
    [
        ({}, None),
        ({"PixelSpacing": [0.2, 0.15]}, (0.2, 0.15)),
        ({"ImagerPixelSpacing": [0.2, 0.15]}, (0.2, 0.15)),
        (
            {"ImagerPixelSpacing": [0.2, 0.15], "EstimatedRadiographicMagnificationFactor": 1.25},
            (pytest.approx(0.16), pytest.approx(0.12)),
        ),
        ({"PixelSpacing": [0.1, 0.1], "ImagerPixelSpacing": [0.2, 0.2]}, (0.1, 0.1)),
        ({"NominalScannedPixelSpacing": [0.175, 0.175]}, (0.175, 0.175)),
        ({"PixelSpacing": [0, 0.1]}, None),
    ],
)
def test_spacing(tmp_path, elements, spacing):
    assert read_image(dicom(tmp_path / "a.dcm", BYTES, 8, **elements)).spacing == spacing


@pytest.mark.parametrize("name", ["a.DCM", "a.dicom", "a.ima", "IM000001", "1.2.840.113619.2.5", "a.xyz", "scan.img"])
def test_names_that_dicom_goes_by(tmp_path, name):
    np.testing.assert_array_equal(read_image(dicom(tmp_path / name, BYTES, 8)).pixels, BYTES)


@pytest.mark.parametrize("implicit", [True, False])
def test_without_preamble(tmp_path, implicit):
    path = dicom(tmp_path / "a.dcm", DEEP, 12, ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian)
    start = 144 + dcmread(path).file_meta.FileMetaInformationGroupLength
    path.write_bytes(path.read_bytes()[start:])
    assert path.read_bytes()[:2] == b"\x08\x00"
    np.testing.assert_array_equal(read_image(path).pixels, DEEP)


@pytest.mark.parametrize("kind", KNOWN)
def test_as_monai_reads_it_by_itk(tmp_path, kind):
    from monai.data import ITKReader

    pixels, stored = KNOWN[kind]
    elements = {"RescaleSlope": 1, "RescaleIntercept": -5} if kind == "signed" else {}
    path = recoded(dicom(tmp_path / "a.dcm", pixels, stored, **elements), "JPEGLosslessProcess14_1")
    reader = ITKReader()
    array, _ = reader.get_data(reader.read(str(path)))
    np.testing.assert_array_equal(read_image(path).pixels, array.squeeze().T)


def structured_report(path):
    dicom(path, BYTES, 8, SOPClassUID=BasicTextSRStorage, Rows=None, Columns=None, PixelData=None)


def no_meta(path):
    path.write_bytes(bytes(128) + b"DICM" + bytes(50))


def cut(path, count, recode=lambda path: path):
    recode(dicom(path, DEEP, 12))
    path.write_bytes(path.read_bytes()[:-count])


def deflated_cut(path):
    dicom(path, WHOLE, 16, DeflatedExplicitVRLittleEndian)
    path.write_bytes(path.read_bytes()[:-400])


def header_of(side, syntax=ExplicitVRLittleEndian):
    return lambda path: dicom(path, BYTES, 8, syntax, Rows=side, Columns=side)


def stream_of_another_size(path):
    encapsulated(path, DEEP, [lossless_jpeg(DEEP, 12)], JPEGLosslessSV1, 12, Rows=SHAPE[0] - 1)


def renamed(path, syntax, other):
    encapsulated(path, DEEP, [lossless_jpeg(DEEP, 12)], syntax, 12)
    path.write_bytes(path.read_bytes().replace(syntax.encode(), other.encode().ljust(len(syntax), b"\0")))


BAD = {
    "no bytes": (lambda path: path.write_bytes(b""), "the file is empty"),
    "text": (lambda path: path.write_text("patient,age\n" * 50), "not a DICOM file"),
    "nothing in it": (no_meta, "cut off|damaged"),
    "three frames": (
        lambda path: dicom(path, BYTES, 8, NumberOfFrames=3, PixelData=BYTES.tobytes() * 4),
        "3 frames; a radiograph has one",
    ),
    "a report": (structured_report, "the object is Basic Text SR Storage and no image"),
    "no pixels": (lambda path: dicom(path, BYTES, 8, PixelData=None), "Presentation has no pixel data, or is trunc"),
    "huge": (header_of(30_000), "over the limit of 175 million pixels"),
    "no rows": (lambda path: dicom(path, BYTES, 8, Rows=None), "lacks Rows"),
    "no bits": (lambda path: dicom(path, BYTES, 8, BitsAllocated=None), "lacks BitsAllocated"),
    "no photometric": (
        lambda path: dicom(path, BYTES, 8, PhotometricInterpretation=None), "lacks PhotometricInterpretation",
    ),
    "odd bits": (lambda path: dicom(path, BYTES, 8, BitsStored=12), "12 of 8 bits up to bit 7 cannot be read"),
    "four samples": (lambda path: dicom(path, BYTES, 8, SamplesPerPixel=4), "4 samples per pixel"),
    "another interpretation": (lambda path: dicom(path, BYTES, 8, PhotometricInterpretation="HSV"), "HSV is not read"),
    "unknown function": (
        lambda path: dicom(path, BYTES, 8, WindowCenter=1, WindowWidth=9, VOILUTFunction="CURVE"), "CURVE is unknown",
    ),
    "cut in the header": (lambda path: path.write_bytes(dicom(path, BYTES, 8).read_bytes()[:400]), "cut off|truncated"),
    "cut by a byte": (lambda path: cut(path, 1), "the pixel data are truncated"),
    "cut in half": (lambda path: cut(path, 3000), "the pixel data are truncated"),
    "cut RLE": (lambda path: cut(path, 600, by_rle), "the pixel data are truncated"),
    "cut JPEG 2000": (lambda path: cut(path, 600, lambda p: compressed(p, JPEG2000Lossless)), "data are truncated"),
    "cut JPEG": (lambda path: cut(path, 600, lambda p: recoded(p, "JPEGLosslessProcess14_1")), "data are truncated"),
    "cut deflated": (deflated_cut, "the deflated content is truncated"),
    "too few bytes": (lambda path: dicom(path, BYTES, 8, PixelData=b"12"), "2 bytes of pixel data do not make 42×67"),
    "stream cut inside": (
        lambda path: encapsulated(path, DEEP, [lossless_jpeg(DEEP, 12)[:900]], JPEGLosslessSV1, 12), "are truncated",
    ),
    "stream of another size": (stream_of_another_size, "says 41×67×1 and the compressed pixels are 42×67×1"),
    "stream that is none": (
        lambda path: encapsulated(path, DEEP, [bytes(900)], JPEGLosslessSV1, 12), "cannot be decoded as JPEG Lossless",
    ),
    "RLE that is none": (
        lambda path: encapsulated(path, DEEP, [bytes(900)], RLELossless, 12), "cannot be decoded as RLE Lossless",
    ),
    "film": (lambda path: encapsulated(path, BYTES, [bytes(90)], MPEG2MPML, 8), "transfer syntax MPEG2 .* is not read"),
    "stream that is named uncompressed": (
        lambda path: renamed(path, JPEGLosslessSV1, ExplicitVRLittleEndian), "not in the transfer syntax",
    ),
    "palette without tables": (
        lambda path: palette(path, RedPaletteColorLookupTableData=b"12"), "the colour tables are damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line_that_names_them_and_no_patient(tmp_path, name, capfd, recwarn):
    make, word = BAD[name]
    path = tmp_path / "a.dcm"
    make(path)
    capfd.readouterr()
    recwarn.clear()
    with pytest.raises(CxrError, match=word) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "Doe" not in message
    assert "secret" not in message
    assert capfd.readouterr() == ("", "")
    assert len(recwarn) == 0


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_huge_header_takes_no_memory(tmp_path, syntax):
    path = tmp_path / "a.dcm"
    header_of(30_000, syntax)(path)
    read_image(dicom(tmp_path / "b.dcm", BYTES, 8))
    tracemalloc.start()
    with pytest.raises(CxrError, match="million pixels"):
        read_image(path)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (JPEGLosslessSV1, lossless_jpeg(smooth(4095), 12)),
        (JPEGExtended12Bit, sequential_jpeg(smooth(4095), 12, 8)),
        (JPEGBaseline8Bit, cv2.imencode(".jpg", smooth(255))[1].tobytes()),
    ],
    ids=["lossless", "extended", "baseline"],
)
def test_damaged_streams_give_pixels_or_are_refused(tmp_path, syntax, frame):
    pixels = smooth(255 if syntax == JPEGBaseline8Bit else 4095)
    for start in range(700, 1200, 100):
        damaged = frame[:start] + bytes(100) + frame[start + 100 :]
        path = encapsulated(tmp_path / "a.dcm", pixels, [damaged], syntax, 8 if pixels.dtype == np.uint8 else 12)
        with suppress(CxrError):
            assert read_image(path).pixels.shape == pixels.shape


def test_libraries_are_imported_when_they_are_needed(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), BYTES)
    code = (
        "import sys, cxrmonai.data.packing\n"
        "from cxrmonai.data.reading import read_image\n"
        f"read_image({str(tmp_path / 'a.png')!r})\n"
        "print(*({'pydicom', 'gdcm', 'nibabel', 'pandas', 'h5py', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_real_file(shared_data):
    path = shared_data / "dicom" / "rsna_sample.dcm"
    read = read_image(path)
    frame = next(generate_frames(dcmread(path).PixelData, number_of_frames=1))
    expected = cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_UNCHANGED)
    assert isinstance(read, RawImage)
    assert read.pixels.shape == (1024, 1024)
    assert read.pixels.dtype == np.uint8
    np.testing.assert_array_equal(read.pixels, expected)
    np.testing.assert_array_equal(read.pixels, dcmread(path).pixel_array)
    assert read.spacing == (0.168, 0.168)


def test_a_damaged_stream_that_ends_its_decoder_harms_no_other_file(tmp_path, capfd):
    good = recoded(dicom(tmp_path / "good.dcm", DEEP, 12), "JPEGLSLossless")
    bad = tmp_path / "bad.dcm"
    content = bytearray(good.read_bytes())
    place = content.index(b"\xff\xda") + 12
    content[place : place + 200] = b"\x55" * 200
    bad.write_bytes(content)
    for _ in range(2):
        with pytest.raises(CxrError, match="cannot be decoded as JPEG-LS Lossless"):
            read_image(bad)
        np.testing.assert_array_equal(read_image(good).pixels, DEEP)
    assert capfd.readouterr() == ("", "")
