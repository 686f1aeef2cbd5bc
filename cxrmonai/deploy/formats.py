"""A network as TorchScript and as ONNX, and the proof that it stayed the same network."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cxrmonai.errors import CxrError

TOLERANCE = 1e-4


def write_onnx(network: nn.Module, example: torch.Tensor, path: str | os.PathLike[str]) -> None:
    """Writes a network as one ONNX file, with a batch of any size.

    Args:
        network: in evaluation mode, on the CPU.
        example: (B, C, H, W) with B of at least 2, since PyTorch takes a size of 1 for fixed.
        path: of the file; the input is called `image` and the output `pred`, as in the bundles' metadata.

    Raises:
        CxrError: `onnx` and `onnxscript` are not installed.
    """
    try:
        import onnxscript  # noqa: F401 - PyTorch needs it and says so in a traceback
    except ImportError as error:
        raise CxrError("ONNX needs more packages; pip install onnx onnxscript onnxruntime") from error
    with _quiet():
        torch.onnx.export(
            network,
            (example,),
            path,
            dynamo=True,
            input_names=["image"],
            output_names=["pred"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )


def write_torchscript(network: nn.Module, path: str | os.PathLike[str]) -> None:
    """Writes a network as TorchScript; sizes of batch and image stay free where the network leaves them free."""
    with _quiet():
        torch.jit.script(network).save(str(path))


def torchscript_runner(path: str | os.PathLike[str]) -> Callable[[np.ndarray], np.ndarray]:
    """A function from (B, C, H, W) float32 to the output of a TorchScript file."""
    with _quiet():
        network = torch.jit.load(str(path), map_location="cpu").eval()

    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(images)).numpy()

    return run


def onnx_runner(path: str | os.PathLike[str]) -> Callable[[np.ndarray], np.ndarray]:
    """A function from (B, C, H, W) float32 to the output of an ONNX file.

    Raises:
        CxrError: `onnxruntime` is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise CxrError("checking ONNX needs the package onnxruntime; pip install onnxruntime") from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()

    def run(images: np.ndarray) -> np.ndarray:
        return session.run(None, {source.name: images})[0]

    return run


def check_same(
    network: nn.Module,
    runner: Callable[[np.ndarray], np.ndarray],
    images: torch.Tensor,
    finish: Callable[[torch.Tensor], torch.Tensor],
    path: Path,
) -> float:
    """Makes sure that a file computes what the network does, for batches of 1, of 2 and of all images.

    Args:
        network: in evaluation mode, on the CPU.
        runner: of the file.
        images: (N, C, H, W).
        finish: from the output to what a user reads, such as probabilities.
        path: of the file, for the message.

    Returns:
        The largest difference that was seen.

    Raises:
        CxrError: the difference is above `TOLERANCE`.
    """
    with torch.no_grad():
        expected = finish(network(images))
    differences = []
    for size in (1, min(2, len(images)), len(images)):
        parts = [torch.from_numpy(runner(part.numpy())) for part in images.split(size)]
        differences.append((finish(torch.cat(parts)) - expected).abs().max())
    largest = float(torch.stack(differences).max())  # NaN, if any is
    if not largest <= TOLERANCE:
        raise CxrError(f"{path.name}: differs from the network by {largest:.2g}; it was not exported")
    return largest


@contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch's exporters tell of their inner workings at length."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "torch.onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
