"""Class activation maps: sums of a layer's maps, weighted for each class.

Negative sums, evidence against a class, count as none (Selvaraju et al., Grad-CAM, 2017), unless `positive` is off.
`cam` and `pcam` need the classifier's own last maps; the others take any layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.explain.observing import Observed, RawMaps, class_indices, observe
from cxrmonai.explain.scaling import resized, scaled
from cxrmonai.networks import Classifier
from cxrmonai.networks.pooling import SINGLE, class_scores, widened

MASKED_AT_ONCE = 64  # images of one pass of scorecam


def cam(
    network: nn.Module, images: torch.Tensor, targets: Sequence[int] | None = None, positive: bool = True
) -> RawMaps:
    """CAM: the linear layer's weights at each position (Zhou et al., 2016). One forward pass for all classes.

    Args:
        network: a classifier that pools each channel by itself, or with PCAM.
        images: (B, C, H, W).
        targets: class indices.
        positive: whether evidence against a class counts as none.

    Raises:
        CxrError: it is no such classifier.
    """
    if not isinstance(network, Classifier):
        raise CxrError("method cam needs a Classifier of this package; use gradcam with a layer")
    if network.pooling not in (*SINGLE, "PCAM"):
        raise CxrError(f"method cam: pooling {network.pooling} has no maps of classes; use gradcam")
    scores, _, logits = _class_scores(network, images, targets)
    return RawMaps(scores.relu() if positive else scores, logits)


def pcam(network: nn.Module, images: torch.Tensor, targets: Sequence[int] | None = None) -> RawMaps:
    """PCAM's own map: each class's probability at each position (Ye et al., 2020). One forward pass for all classes.

    Args:
        network: a classifier trained with pooling `PCAM`.
        images: (B, C, H, W).
        targets: class indices.

    Raises:
        CxrError: it is no such classifier.
    """
    if not isinstance(network, Classifier) or not network.pcam:
        raise CxrError("method pcam needs a classifier that was trained with --pooling PCAM; use cam or gradcam")
    scores, bias, logits = _class_scores(network, images, targets)
    return RawMaps((scores + bias[:, None, None]).sigmoid(), logits)


@torch.no_grad()
def _class_scores(
    network: Classifier, images: torch.Tensor, targets: Sequence[int] | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The linear layer without its bias at each position (B, K', h, w), that bias (K',), and the logits (B, K)."""
    chosen = class_indices(targets, len(network.class_names))
    maps = network.feature_maps(images)
    weight, bias = network.head.weight[chosen], network.head.bias[chosen]
    return widened(class_scores(maps, weight, torch.zeros_like(bias))), bias, network.classify_maps(maps)


def gradcam(
    network: nn.Module,
    images: torch.Tensor,
    targets: Sequence[int] | None = None,
    layer: str | None = None,
    positive: bool = True,
) -> RawMaps:
    """Grad-CAM: maps weighted by their mean gradient (Selvaraju et al., 2017).

    One forward pass, and for each class a backward pass from the logit to the layer: for the last maps through the
    head alone.

    Args:
        network: see `observing.observe`.
        images: (B, C, H, W).
        targets: class indices.
        layer: path of a submodule; `None` for the last maps.
        positive: whether evidence against a class counts as none. Without it places are told apart even where the
            evidence is below zero all over, as before the bias of a PCAM classifier.

    Raises:
        CxrError: see `observing.observe`.
    """
    seen = observe(network, images, layer)
    chosen = class_indices(targets, seen.logits.shape[1])
    return _summed(seen, [seen.slope(k).mean(dim=(2, 3)) for k in chosen], positive)


def gradcampp(
    network: nn.Module, images: torch.Tensor, targets: Sequence[int] | None = None, layer: str | None = None
) -> RawMaps:
    """Grad-CAM++: positive gradients, weighted for several places of one finding (Chattopadhay et al., 2018).

    A gradient g at a position weighs g² / (2g² + g³ ΣA), A the channel's map; that is the paper's formula for exp of
    the logit, whose factor falls out with the map's scale. As many passes as `gradcam`.

    Args:
        network: see `observing.observe`.
        images: (B, C, H, W).
        targets: class indices.
        layer: path of a submodule; `None` for the last maps.

    Raises:
        CxrError: see `observing.observe`.
    """
    seen = observe(network, images, layer)
    chosen = class_indices(targets, seen.logits.shape[1])
    total = widened(seen.maps).sum(dim=(2, 3), keepdim=True)
    return _summed(seen, [_plusplus_weight(widened(seen.slope(k)), total) for k in chosen])


def _plusplus_weight(slope: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    below = 2 + slope * total  # of g²/(2g² + g³ΣA), shortened by g², which underflows
    share = torch.where((slope != 0) & (below != 0), 1 / below.masked_fill(below == 0, 1), torch.zeros_like(below))
    return (slope.relu() * share).sum(dim=(2, 3))


def scorecam(
    network: nn.Module, images: torch.Tensor, targets: Sequence[int] | None = None, layer: str | None = None
) -> RawMaps:
    """Score-CAM: maps weighted by the logit of the image that they mask (Wang et al., 2020). No gradients.

    Each channel's map, enlarged and scaled to 0–1, multiplies the image; the softmax over channels of the logits are
    the weights. One forward pass for each channel (ResNet-18: 512), for all classes together.

    Args:
        network: see `observing.observe`.
        images: (B, C, H, W).
        targets: class indices.
        layer: path of a submodule; `None` for the last maps.

    Raises:
        CxrError: see `observing.observe`.
    """
    seen = observe(network, images, layer)
    chosen = class_indices(targets, seen.logits.shape[1])
    weights = torch.stack([_masked_logits(network, *pair) for pair in zip(images, seen.maps, strict=True)])
    weights = weights[:, :, chosen].softmax(dim=1)
    return _summed(seen, list(weights.unbind(dim=2)))


@torch.no_grad()
def _masked_logits(network: nn.Module, image: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """(C, H, W) and (C', h, w) → (C', K) logits of the image under each of its maps."""
    parts = []
    for some in maps.split(MASKED_AT_ONCE):
        masks = scaled(resized(some[:, None].to(image.dtype), tuple(image.shape[1:])))
        parts.append(network(image * masks))
    return widened(torch.cat(parts))


def _summed(seen: Observed, weights: list[torch.Tensor], positive: bool = True) -> RawMaps:
    """Sums maps by weights, K' of (B, C)."""
    weight = torch.stack([widened(each) for each in weights], dim=1)
    total = torch.einsum("bkc,bchw->bkhw", weight, widened(seen.maps))
    return RawMaps(total.relu() if positive else total, seen.logits)
