"""A network's maps and logits from one forward pass, with the gradients from one to the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.networks import Classifier


class RawMaps(NamedTuple):
    """What each method's function gives.

    Attributes:
        maps: (B, K', h, w) of the method's own resolution and range, larger for more evidence.
        logits: (B, K) of all classes.
    """

    maps: torch.Tensor
    logits: torch.Tensor


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Puts a network into evaluation mode, and each module back into its own afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def class_indices(targets: Sequence[int] | None, count: int) -> list[int]:
    """The classes to explain, all `count` for `None`.

    Raises:
        CxrError: there is no such class.
    """
    chosen = list(range(count)) if targets is None else [int(target) for target in targets]
    wrong = [target for target in chosen if not 0 <= target < count]
    if wrong:
        raise CxrError(f"there is no class {wrong[0]}; the network has {count}, counted from 0")
    return chosen


@dataclass
class Observed:
    """Maps of a layer and the logits that follow from them.

    Attributes:
        logits: (B, K).
        output: what the layer gave, of any layout; a leaf whose graph leads to `logits` and not back to the images.
        network: that was observed.
    """

    logits: torch.Tensor
    output: torch.Tensor
    network: nn.Module

    @property
    def maps(self) -> torch.Tensor:
        """(B, C, h, w) without gradient."""
        return self._arranged(self.output.detach())

    def slope(self, target: int) -> torch.Tensor:
        """Gradient of a class's logit, (B, C, h, w); one backward pass, from the logits to the layer only."""
        return self._arranged(torch.autograd.grad(self.logits[:, target].sum(), self.output, retain_graph=True)[0])

    def _arranged(self, values: torch.Tensor) -> torch.Tensor:
        return as_maps(values, getattr(self.network, "encoder", self.network))


def observe(network: nn.Module, images: torch.Tensor, layer: str | None = None) -> Observed:
    """Runs a network up to a layer without a graph, and from there on with one.

    Args:
        network: a classifier; another module needs a `layer`.
        images: (B, C, H, W).
        layer: path of a submodule, such as `encoder.layer3`; `None` for the maps that the classifier pools. With
            pooling `NATIVE` these are the encoder's last; where its features come from a class token, on which the
            other tokens act no more after the last block, they are the tokens that enter the last block's attention.

    Raises:
        CxrError: there is no such layer, or its output is no map.
    """
    if layer is not None:
        return _hooked(network, images, _submodule(network, layer), layer)
    if not isinstance(network, Classifier):
        raise CxrError(f"which maps of {type(network).__name__} are meant? Give layer, the path of a submodule")
    if not network.native:
        with torch.no_grad():
            maps = network.feature_maps(images)
        with torch.enable_grad():
            maps = maps.detach().requires_grad_()
            return Observed(network.classify_maps(maps), maps, network)
    encoder = network.encoder
    if getattr(encoder, "global_pool", None) in ("token", "map") and hasattr(encoder, "blocks"):
        return _hooked(network, images, encoder.blocks[-1].norm1, "encoder.blocks[-1].norm1")
    return _native(network, images)


def as_maps(output: torch.Tensor, encoder: nn.Module) -> torch.Tensor:
    """Tokens (B, N, C), (B, h, w, C) or (B, C, h, w) → (B, C, h, w).

    Args:
        output: of a layer.
        encoder: which tells by timm's `num_prefix_tokens` and `output_fmt` how its outputs are laid out.

    Raises:
        CxrError: the output is no map.
    """
    if output.ndim == 4:
        return output.permute(0, 3, 1, 2) if getattr(encoder, "output_fmt", "NCHW") == "NHWC" else output
    prefix = getattr(encoder, "num_prefix_tokens", 0)
    edge = math.isqrt(max(output.shape[1] - prefix, 0)) if output.ndim == 3 else 0
    if output.ndim != 3 or edge == 0 or edge * edge != output.shape[1] - prefix:
        raise CxrError(f"the layer gives {tuple(output.shape)}, which is neither maps nor tokens of a square")
    return output[:, prefix:].transpose(1, 2).reshape(len(output), output.shape[2], edge, edge)


def _submodule(network: nn.Module, layer: str) -> nn.Module:
    try:
        return network.get_submodule(layer)
    except AttributeError as error:
        prefix = "encoder." if hasattr(network, "encoder") else ""
        names = (prefix + name for name, _ in getattr(network, "encoder", network).named_children())
        raise CxrError(f"layer '{layer}' is not there; there are {', '.join(names)} and those below them") from error


class _Catch:
    """Keeps the first tensor it is shown as a leaf, and turns gradients on from there."""

    def __init__(self) -> None:
        self.leaf: torch.Tensor | None = None

    def __call__(self, output: Any) -> Any:
        if self.leaf is not None or not isinstance(output, torch.Tensor):
            return output
        torch.set_grad_enabled(True)
        self.leaf = output.detach().requires_grad_()
        return self.leaf.clone()  # what follows may act in place


def _hooked(network: nn.Module, images: torch.Tensor, module: nn.Module, name: str) -> Observed:
    catch = _Catch()
    handle = module.register_forward_hook(lambda module, inputs, output: catch(output))
    try:
        with torch.no_grad():
            logits = network(images)
    finally:
        handle.remove()
    if catch.leaf is None or not logits.requires_grad:
        raise CxrError(f"layer '{name}' gives no tensor that the network's output depends on; give another layer")
    return Observed(logits, catch.leaf, network)


def _native(network: Classifier, images: torch.Tensor) -> Observed:
    encoder, catch = network.encoder, _Catch()
    plain = encoder.forward_features
    encoder.forward_features = lambda *inputs, **options: catch(plain(*inputs, **options))
    try:
        with torch.no_grad():
            logits = network(images)
    finally:
        del encoder.forward_features
    if catch.leaf is None or not logits.requires_grad:
        raise CxrError(f"encoder '{encoder.description.name}' has no maps before its features; give a layer")
    return Observed(logits, catch.leaf, network)
