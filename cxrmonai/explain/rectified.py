"""Gradients by the input with another rule at each activation: deconvolution, guided backpropagation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import timm.layers
import torch
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.explain.class_activation import gradcam
from cxrmonai.explain.input_gradients import input_slopes
from cxrmonai.explain.observing import RawMaps
from cxrmonai.explain.scaling import resized

_ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.SiLU,
    nn.GELU,
    nn.Hardswish,
    timm.layers.GELU,
    timm.layers.GELUTanh,
    timm.layers.QuickGELU,
    timm.layers.Swish,
)


def guidedbackprop(network: nn.Module, images: torch.Tensor, targets: Sequence[int] | None = None) -> RawMaps:
    """Guided backpropagation: at each activation only positive gradients go on (Springenberg et al., 2015).

    A gradient passes a ReLU where it is positive and the activation's input was; at smooth activations (GELU, SiLU)
    its positive part is multiplied by the slope there. Negative values of the result are left out. One forward pass,
    and a backward pass for each class.

    Args:
        network: with activations as modules.
        images: (B, C, H, W).
        targets: class indices.

    Raises:
        CxrError: it has none.
    """
    with _rectifying(network, _guided):
        slopes, logits = input_slopes(network, images, targets)
    return RawMaps(slopes.sum(dim=2).relu(), logits)


def deconvolution(network: nn.Module, images: torch.Tensor, targets: Sequence[int] | None = None) -> RawMaps:
    """Deconvolution: at each activation positive gradients go on, whatever its input was (Zeiler & Fergus, 2014).

    Cost and result as `guidedbackprop`.

    Args:
        network: with activations as modules.
        images: (B, C, H, W).
        targets: class indices.

    Raises:
        CxrError: it has none.
    """
    with _rectifying(network, _deconvolved):
        slopes, logits = input_slopes(network, images, targets)
    return RawMaps(slopes.sum(dim=2).relu(), logits)


def guidedgradcam(
    network: nn.Module, images: torch.Tensor, targets: Sequence[int] | None = None, layer: str | None = None
) -> RawMaps:
    """Guided Grad-CAM: the product of `guidedbackprop` and the enlarged `gradcam` (Selvaraju et al., 2017).

    Args:
        network: fit for both.
        images: (B, C, H, W).
        targets: class indices.
        layer: of `gradcam`.

    Raises:
        CxrError: see both.
    """
    coarse, logits = gradcam(network, images, targets, layer)
    fine, _ = guidedbackprop(network, images, targets)
    return RawMaps(fine * resized(coarse, tuple(images.shape[2:])), logits)


def _guided(slope: torch.Tensor, local: torch.Tensor) -> torch.Tensor:
    return slope.relu() * local


def _deconvolved(slope: torch.Tensor, local: torch.Tensor) -> torch.Tensor:
    return slope.relu()


class _Rule(torch.autograd.Function):
    """An activation whose backward pass is `rule(gradient, slope of the activation)`."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor, activation: Callable, rule: Callable) -> torch.Tensor:
        with torch.enable_grad():
            inputs = values.detach().requires_grad_()
            output = activation(inputs.clone())  # which may act in place
            (local,) = torch.autograd.grad(output.sum(), inputs)
        context.save_for_backward(local)
        context.rule = rule
        return output.detach()

    @staticmethod
    def backward(context: Any, slope: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return context.rule(slope, *context.saved_tensors), None, None


@contextmanager
def _rectifying(network: nn.Module, rule: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Gives every activation module of a network another backward rule.

    Their `forward` is replaced, since backward hooks of PyTorch refuse the in-place ReLUs of most backbones.
    """
    found = [module for module in network.modules() if isinstance(module, _ACTIVATIONS)]
    if not found:
        raise CxrError("the network has no ReLU, GELU or SiLU modules for guided backpropagation; use saliency")
    try:
        for module in found:
            module.forward = _with_rule(module.forward, rule)
        yield
    finally:
        for module in found:
            module.__dict__.pop("forward", None)


def _with_rule(activation: Callable, rule: Callable) -> Callable:
    return lambda values: _Rule.apply(values, activation, rule)
