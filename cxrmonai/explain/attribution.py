"""One call for every attribution map."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.explain.class_activation import cam, gradcam, gradcampp, pcam, scorecam
from cxrmonai.explain.input_gradients import gradientshap, integratedgradients, saliency, smoothgrad
from cxrmonai.explain.observing import RawMaps, evaluating
from cxrmonai.explain.occluding import occlusion
from cxrmonai.explain.rectified import deconvolution, guidedbackprop, guidedgradcam
from cxrmonai.explain.scaling import resized, scaled

METHODS: dict[str, Callable[..., RawMaps]] = {
    function.__name__: function
    for function in (
        cam,
        gradcam,
        gradcampp,
        scorecam,
        pcam,
        guidedbackprop,
        guidedgradcam,
        deconvolution,
        saliency,
        smoothgrad,
        integratedgradients,
        gradientshap,
        occlusion,
    )
}


class Attribution(NamedTuple):
    """What `attribute_with_logits` gives.

    Attributes:
        maps: (B, K', S, S) float32, see `attribute`.
        logits: (B, K) of all classes, from the same forward pass.
    """

    maps: torch.Tensor
    logits: torch.Tensor


def attribute(
    network: nn.Module,
    images: torch.Tensor,
    targets: Sequence[int] | None = None,
    method: str = "gradcam",
    **options: Any,
) -> torch.Tensor:
    """Where in each image a network sees each class.

    Args:
        network: a `networks.Classifier`, or another module (B, C, H, W) → (B, K); it is used in evaluation mode, and
            left in the mode it was in. What a method needs of it says the method's own function.
        images: (B, C, H, W) float, prepared as the network's input.
        targets: class indices, the same for all images; `None` for all classes.
        method: one of `METHODS`.
        options: `size`, the edge of the maps in pixels (that of the images); `scale`, `False` for the method's own
            values instead of 0–1; and those of the method's function, such as `layer` for `gradcam`.

    Returns:
        (B, len(targets), S, S) float32; each map min-max scaled to 0–1, large where the evidence for the class is, and
        zero where the map is constant.

    Raises:
        CxrError: an unknown method or option, a class that is not there, a network that the method does not fit, or
            one that gives no finite numbers.
    """
    return attribute_with_logits(network, images, targets, method, **options).maps


def attribute_with_logits(
    network: nn.Module,
    images: torch.Tensor,
    targets: Sequence[int] | None = None,
    method: str = "gradcam",
    *,
    size: int | None = None,
    scale: bool = True,
    **options: Any,
) -> Attribution:
    """As `attribute`, with the logits that the method computes anyway.

    Args:
        network: see `attribute`.
        images: see `attribute`.
        targets: see `attribute`.
        method: see `attribute`.
        size: edge of the maps in pixels, or `None` for that of the images; bilinear. Each cell of an encoder with an
            `output_stride` is put where it looks, see `networks.strides.keep_resolution`.
        scale: whether each map is brought to 0–1.
        options: of the method.

    Raises:
        CxrError: see `attribute`.
    """
    check_method(method)
    known = list(inspect.signature(METHODS[method]).parameters)[3:]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise CxrError(f"method {method} has no option '{unknown[0]}'; it has {', '.join(['size', 'scale', *known])}")
    if images.ndim != 4 or not images.is_floating_point():
        raise CxrError(f"images of shape {tuple(images.shape)} and type {images.dtype}: give (B, C, H, W) floats")
    with torch.inference_mode(False), evaluating(network):  # MONAI's evaluators turn it on, and gradients off for good
        images = images.clone() if images.is_inference() else images
        raw, logits = METHODS[method](network, images, targets, **options)
    raw, logits = raw.detach().float(), logits.detach()
    if not (torch.isfinite(raw).all() and torch.isfinite(logits).all()):
        raise CxrError("the network gives numbers that are not finite; use other weights, or check the images")
    if scale:
        raw = scaled(raw)  # before the resizing, whose rounding would make a constant map look like none
    shape = tuple(images.shape[2:]) if size is None else (size, size)
    if tuple(raw.shape[2:]) != shape:
        raw = resized(raw, shape, window_offset(network, raw, images))
        raw = scaled(raw) if scale else raw
    return Attribution(raw, logits)


def window_offset(network: nn.Module, maps: torch.Tensor, images: torch.Tensor) -> tuple[float, float]:
    """How far from their cells the values of maps belong, as parts of the image's edges, see `scaling.resized`.

    Args:
        network: that made them.
        maps: (B, K, h, w).
        images: (B, C, H, W).

    Returns:
        The encoder's `window_offset` for maps of its `output_stride`, whichever layer they are of; none for others.
    """
    encoder = getattr(network, "encoder", None)
    offset = getattr(encoder, "window_offset", 0.0)
    if not offset or maps.shape[-1] != -(-images.shape[-1] // encoder.description.output_stride):
        return 0.0, 0.0
    return offset / images.shape[-2], offset / images.shape[-1]


def check_method(method: str) -> str:
    """Returns the name of a method.

    Raises:
        CxrError: it is none of `METHODS`.
    """
    if method not in METHODS:
        raise CxrError(f"method '{method}': known are {', '.join(METHODS)}")
    return method
