"""Decoding compressed DICOM frames in a process of its own.

GDCM ends the process it works in where a stream is damaged, and it and others write to the terminal. So each process
that reads compressed frames starts another one that does nothing else; where that one dies, one file is lost.
"""

from __future__ import annotations

import json
import math
import os
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

LONGEST = 120  # seconds for one frame
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
_ITEM = b"\xfe\xff\x00\xe0"
_LENGTH = struct.Struct("<Q")
_PACKAGE = Path(__file__).resolve().parents[3]
_READY = b"ready"


class _Helper:
    """The other process, from this side."""

    def __init__(self) -> None:
        paths = [str(_PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        if self._answers.read(len(_READY)) != _READY:
            raise RuntimeError(f"the process that decodes DICOM does not start: {sys.executable}")

    @property
    def _answers(self) -> BinaryIO:
        assert self._process.stdout is not None
        return self._process.stdout

    def ask(self, question: bytes, frame: bytes, answer: np.ndarray) -> bool:
        """Fills `answer`, or says that it could not and is dead or dying."""
        pipe = self._process.stdin
        assert pipe is not None
        try:
            for part in (_LENGTH.pack(len(question)), question, _LENGTH.pack(len(frame)), frame):
                pipe.write(part)
            pipe.flush()
            head = self._answers.read(_LENGTH.size)
            if len(head) == _LENGTH.size and _LENGTH.unpack(head)[0] == answer.nbytes:
                return self._answers.readinto(answer.data.cast("B")) == answer.nbytes
        except BrokenPipeError:
            pass
        return False

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        self._answers.close()


_local = threading.local()


def decode_apart(options: dict[str, Any], frame: bytes) -> np.ndarray | None:
    """Decodes a compressed frame in another process.

    Args:
        options: of `decode`.
        frame: the compressed stream.

    Returns:
        The values, or nothing where they cannot be decoded.
    """
    shape = (options["rows"], options["columns"], options["samples_per_pixel"])
    kind = "i" if options["pixel_representation"] else "u"
    values = np.empty(shape[: 2 if shape[2] == 1 else 3], f"{kind}{max(1, options['bits_allocated'] // 8)}")
    helper = getattr(_local, "helper", None)
    if helper is None or helper.owner != os.getpid():
        helper = _local.helper = _Helper()
    try:
        done = helper.ask(json.dumps(options).encode(), frame, values)
    except BaseException:
        helper.end()
        _local.helper = None
        raise
    if not done:
        helper.end()
        _local.helper = None
        return None
    return values


def decode(frame: bytes, syntax: str, precision: int, **options: Any) -> np.ndarray:
    """Decodes a compressed frame; a damaged one may end the process.

    Args:
        frame: the compressed stream.
        syntax: UID of its transfer syntax.
        precision: bits of a sample as the stream says, 0 where it does not.
        **options: of the image, as pydicom calls them.

    Returns:
        (H, W) or (H, W, 3) RGB integers.
    """
    if syntax == JPEG_EXTENDED and precision > 8:
        return _deep_jpeg(frame, precision, **options)
    from pydicom.pixels import get_decoder

    data = struct.pack("<4sI4sI", _ITEM, 0, _ITEM, len(frame)) + frame
    return get_decoder(syntax).as_array(data, **options)[0]


def _deep_jpeg(
    frame: bytes, precision: int, rows: int, columns: int, bits_stored: int, photometric_interpretation: str, **_: Any
) -> np.ndarray:
    import gdcm

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(photometric_interpretation)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(1, precision, precision, precision - 1, 0))
    values = np.frombuffer(image.GetBuffer().encode("utf-8", "surrogateescape"), np.uint16)
    values = values[: rows * columns].reshape(rows, columns)
    # GDCM's own encoder writes 12-bit images as 16-bit streams, off by a multiple of their range; what it decodes
    # beyond the range would wrap around to the other end of it.
    span = 2**bits_stored
    offset = int(np.median(values)) // span * span
    return np.clip(values.astype(np.int32) - offset, 0, span - 1).astype(np.uint16)


def serve() -> None:
    """Answers to frames on stdin until it is closed; what `_Helper` starts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer; its end closes stdin
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    answers.write(_READY)
    answers.flush()
    questions = sys.stdin.buffer
    while (question := _received(questions)) is not None:
        frame = _received(questions)
        if frame is None:
            return
        signal.alarm(LONGEST)
        values = decode(frame, **json.loads(question))
        signal.alarm(0)
        content = np.ascontiguousarray(values).data.cast("B")
        answers.write(_LENGTH.pack(math.prod(content.shape)))
        answers.write(content)
        answers.flush()


def _received(pipe: BinaryIO) -> bytes | None:
    head = pipe.read(_LENGTH.size)
    return pipe.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else None
