"""Makes DICOM files of known pixels, in every way of storing them."""

from __future__ import annotations

import struct

import cv2
import gdcm
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

ZIGZAG = sorted(range(64), key=lambda k: (k // 8 + k % 8, (k // 8 if (k // 8 + k % 8) % 2 else k % 8)))


def dicom(path, pixels, stored=None, syntax=ExplicitVRLittleEndian, **elements):
    """Writes (H, W) or (H, W, 3) integers; an element given as None is left out."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID = generate_uid()
    ds.Modality = "DX"
    ds.PatientName, ds.PatientID = "Doe^Jane", "secret-17"
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel = pixels.shape[2] if pixels.ndim == 3 else 1
    ds.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = 8 * pixels.dtype.itemsize
    ds.BitsStored = stored or ds.BitsAllocated
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    content = pixels.astype(pixels.dtype.newbyteorder("<" if syntax.is_little_endian else ">")).tobytes()
    ds.PixelData = content + b"\0" * (len(content) % 2)
    ds["PixelData"].VR = "OB" if ds.BitsAllocated == 8 else "OW"
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    ds.save_as(path, enforce_file_format=True)
    return path


def encapsulated(path, pixels, frames, syntax, stored=None, **elements):
    """Writes pixels that `frames`, fragments of a compressed stream, stand for."""
    dicom(path, pixels, stored, **elements)
    ds = dcmread(path)
    ds.PixelData = encapsulate(frames)
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(path)
    return path


def recoded(path, kind):
    """Recodes a file by GDCM."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, kind)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetFileName(str(path))
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return path


def compressed(path, syntax, **options):
    """Recodes a file by pydicom."""
    ds = dcmread(path)
    ds.compress(syntax, generate_instance_uid=False, **options)
    ds.save_as(path)
    return path


def sequential_jpeg(pixels, precision=12, step=1):
    """A grey JPEG stream of ITU T.81's sequential process, every coefficient in steps of `step`."""
    height, width = pixels.shape
    padded = np.pad(pixels.astype(float), ((0, -height % 8), (0, -width % 8)), mode="edge") - 2 ** (precision - 1)
    zeros = [0x00, 0xF0]
    symbols = zeros + [run << 4 | size for run in range(16) for size in range(1, 15)]
    code = {symbol: f"{k:08b}" for k, symbol in enumerate(symbols)}
    bits, last = [], 0
    for top in range(0, padded.shape[0], 8):
        for left in range(0, padded.shape[1], 8):
            block = np.rint(cv2.dct(padded[top : top + 8, left : left + 8]) / step).astype(int).ravel()[ZIGZAG]
            size, tail = _magnitude(block[0] - last)
            bits.append(f"{size:05b}" + tail)
            last, run = block[0], 0
            places = np.flatnonzero(block[1:])
            end = places[-1] + 1 if len(places) else 0
            for value in block[1 : end + 1]:
                if value == 0:
                    run += 1
                    continue
                bits.append(code[0xF0] * (run // 16))
                size, tail = _magnitude(value)
                bits.append(code[run % 16 << 4 | size] + tail)
                run = 0
            if end < 63:
                bits.append(code[0x00])
    tables = [_segment(0xDB, bytes([0] + [step] * 64)), _huffman(0x00, 5, range(16)), _huffman(0x10, 8, symbols)]
    return _jpeg(0xC1, pixels.shape, precision, tables, bytes([1, 1, 0x00, 0, 63, 0]), bits)


def lossless_jpeg(pixels, precision):
    """A grey JPEG stream of ITU T.81's lossless process, each pixel predicted by the one to its left."""
    values = pixels.astype(int)
    expected = np.empty_like(values)
    expected[:, 1:], expected[1:, 0], expected[0, 0] = values[:, :-1], values[:-1, 0], 1 << (precision - 1)
    difference = (values - expected + 2**15) % 2**16 - 2**15
    bits = []
    for value in difference.ravel():
        size, tail = _magnitude(value)
        bits.append(f"{size:05b}" + (tail if size < 16 else ""))
    return _jpeg(0xC3, pixels.shape, precision, [_huffman(0x00, 5, range(17))], bytes([1, 1, 0x00, 1, 0, 0]), bits)


def _magnitude(value):
    size = int(abs(value)).bit_length()
    return size, format(value if value > 0 else value + (1 << size) - 1, f"0{size}b") if size else ""


def _segment(marker, content):
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def _huffman(which, length, symbols):
    counts = bytes(len(symbols) if k == length else 0 for k in range(1, 17))
    return _segment(0xC4, bytes([which]) + counts + bytes(symbols))


def _jpeg(process, shape, precision, tables, scan, bits):
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    data = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")
    frame = _segment(process, struct.pack(">BHHBBBB", precision, *shape, 1, 1, 0x11, 0))
    return b"\xff\xd8" + tables[0] + frame + b"".join(tables[1:]) + _segment(0xDA, scan) + data + b"\xff\xd9"
