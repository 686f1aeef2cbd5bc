"""Finer last maps of a convolutional encoder: its late stages keep the resolution, with the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from cxrmonai.errors import CxrError

_EDGE = 128  # of the image on which an encoder is tried
_STRIDED = (nn.Conv2d, nn.AvgPool2d, nn.MaxPool2d)
_TWO = (2, (2, 2))


def keep_resolution(network: nn.Module, output_stride: int, in_channels: int, name: str) -> float:
    """Makes an encoder's last maps a given part of its input's size: the strides that would go below it are left out.

    Nothing is dilated in their place, so that each position sees a smaller part of the image than before and what it
    says is about that part (Brendel & Bethge, BagNet, 2019). An average pooling that only halves the maps is left out
    whole. Weights keep their names and shapes.

    Args:
        network: a convolutional encoder for images of any size; changed in place.
        output_stride: a power of two from 2 on, at most what the encoder has.
        in_channels: of its input.
        name: of the backbone, for the message.

    Returns:
        How far the middle of what a position of the last maps looks at lies from the middle of its cell, in pixels of
        the input, to the right and downwards: a 3×3 convolution of stride 2 that pads both sides looks at pixels 0, 2,
        4, …, not at the middles of pairs.

    Raises:
        CxrError: the encoder is no convolutional one, has a smaller stride already, or one that cannot be left out.
    """
    if output_stride < 2 or output_stride & (output_stride - 1):
        raise CxrError(f"output_stride {output_stride}: give a power of two, such as 4 or 8, or 0 for the encoder's")
    refusal = CxrError(
        f"encoder '{name}' cannot give maps of 1/{output_stride} of its input's size; leave it at 0, or take "
        "another encoder, such as a ResNet, DenseNet or EfficientNet"
    )
    with _halving(network) as found:
        _tried(network, in_channels, refusal)
    for edge, path, module in found:
        if edge * output_stride > _EDGE:
            continue
        if isinstance(module, nn.AvgPool2d):
            network.set_submodule(path, nn.Identity())
        else:
            module.stride = 1 if isinstance(module, nn.MaxPool2d) else (1, 1)
    with _halving(network) as found:
        if _tried(network, in_channels, refusal) * output_stride != _EDGE:
            raise refusal
    return _offset(found, output_stride)


@contextmanager
def _halving(network: nn.Module) -> Iterator[list[tuple[int, str, nn.Module]]]:
    """The modules that halve maps as the network runs: edge of their input, path, module."""
    found: list[tuple[int, str, nn.Module]] = []

    def note(path: str, module: nn.Module, maps: torch.Tensor) -> None:
        if maps.ndim == 4 and module.stride in _TWO:
            found.append((maps.shape[-1], path, module))

    hooks = [
        module.register_forward_pre_hook(lambda module, inputs, path=path: note(path, module, inputs[0]))
        for path, module in network.named_modules()
        if isinstance(module, _STRIDED)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _offset(found: list[tuple[int, str, nn.Module]], output_stride: int) -> float:
    """Of branches side by side (a block and its shortcut) the mean counts."""
    first = 0.0  # pixel at which the first position of the last maps looks
    for edge in {edge for edge, _, _ in found}:
        starts = [_window_middle(module, edge) for size, _, module in found if size == edge]
        first += sum(starts) / len(starts) * _EDGE / edge
    return first + 0.5 - output_stride / 2


def _window_middle(module: nn.Module, edge: int) -> float:
    """The middle of a module's first window, in pixels of its input, the first pixel being 0."""
    kernel, padding = _one(module.kernel_size), _one(module.padding)
    if type(module).__name__.endswith("Same"):  # timm's, which pads as it runs, less before than after
        padding = max(kernel - 2 + edge % 2, 0) // 2
    return (kernel - 1) / 2 - padding


def _one(value: int | tuple[int, ...]) -> int:
    return value[-1] if isinstance(value, tuple) else value


@torch.no_grad()
def _tried(network: nn.Module, in_channels: int, refusal: CxrError) -> int:
    """The edge of the last maps of a black image, in evaluation mode so that no statistics move."""
    was_training = network.training
    network.eval()
    try:
        maps = network.forward_features(torch.zeros(1, in_channels, _EDGE, _EDGE))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise refusal from error
    finally:
        network.train(was_training)
    if not isinstance(maps, torch.Tensor) or maps.ndim != 4 or maps.shape[-1] != maps.shape[-2]:
        raise refusal
    return maps.shape[-1]
