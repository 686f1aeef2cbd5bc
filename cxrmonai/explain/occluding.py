"""Occlusion: what a logit loses when a part of the image is covered."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.explain.observing import RawMaps, class_indices


@torch.no_grad()
def occlusion(
    network: nn.Module,
    images: torch.Tensor,
    targets: Sequence[int] | None = None,
    window: int | None = None,
    stride: int | None = None,
    baseline: float = 0.0,
) -> RawMaps:
    """Occlusion: the mean loss of a class's logit over the windows that cover a pixel (Zeiler & Fergus, 2014).

    A forward pass for each place of the window (by default 225), for all classes together. Where covering raises the
    logit, the map is 0.

    Args:
        network: any.
        images: (B, C, H, W).
        targets: class indices.
        window: edge of the square in pixels; an eighth of the image by default.
        stride: its steps in pixels, up to `window`; half of it by default. The last windows are cut off by the edge.
        baseline: grey level of the cover, as the network sees it; 0 is mid-grey.

    Raises:
        CxrError: window or stride out of range.
    """
    height, width = images.shape[2:]
    window = max(1, min(height, width) // 8) if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    if not 1 <= stride <= window <= min(height, width):
        raise CxrError(f"window {window}, stride {stride}: must be 1 ≤ stride ≤ window ≤ {min(height, width)}")
    logits = network(images)
    chosen = class_indices(targets, logits.shape[1])
    loss = torch.zeros((len(images), len(chosen), height, width), device=images.device)
    count = torch.zeros((height, width), device=images.device)
    for top in _starts(height, window, stride):
        for left in _starts(width, window, stride):
            place = (..., slice(top, top + window), slice(left, left + window))
            covered = images.clone()
            covered[place] = baseline
            loss[place] += (logits - network(covered)).float()[:, chosen, None, None]
            count[place] += 1
    return RawMaps((loss / count).relu(), logits)


def _starts(edge: int, window: int, stride: int) -> range:
    return range(0, edge - window + stride, stride)
