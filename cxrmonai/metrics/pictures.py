"""How like a picture is to another, image by image."""

from __future__ import annotations

import torch
from monai.metrics import SSIMMetric


def psnr(prediction: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Peak signal-to-noise ratio of images whose range is 0–1.

    Args:
        prediction: (B, C, H, W).
        target: likewise.
        weight: likewise, which pixels count and how much; all by default.

    Returns:
        (B,) decibels; infinite for equal images, NaN where nothing counts.
    """
    weight = torch.ones_like(target) if weight is None else weight
    squares = (weight * (prediction.float() - target.float()) ** 2).flatten(1).sum(1)
    return -10 * torch.log10(squares / weight.flatten(1).sum(1))


def ssim(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Structural similarity of images whose range is 0–1 (Wang et al., 2004; Gaussian window of 11 pixels, σ 1.5).

    Args:
        prediction: (B, C, H, W), 11 pixels an edge at least.
        target: likewise.

    Returns:
        (B,), 1 for equal images.
    """
    return SSIMMetric(spatial_dims=2, data_range=1.0)(prediction.float(), target.float()).flatten()
