"""Maps from the gradient of a class's logit by the input's pixels.

Whatever is drawn at random is the same for every image of a batch and set by a seed, so that a map does not depend on
the images beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.explain.observing import RawMaps, class_indices


def saliency(network: nn.Module, images: torch.Tensor, targets: Sequence[int] | None = None) -> RawMaps:
    """Saliency: the gradient's magnitude, the largest over the channels (Simonyan et al., 2014).

    One forward pass, and a backward pass for each class.

    Args:
        network: any.
        images: (B, C, H, W).
        targets: class indices.
    """
    slopes, logits = input_slopes(network, images, targets)
    return RawMaps(slopes.abs().amax(dim=2), logits)


def smoothgrad(
    network: nn.Module,
    images: torch.Tensor,
    targets: Sequence[int] | None = None,
    samples: int = 16,
    noise: float = 0.15,
    seed: int = 0,
) -> RawMaps:
    """SmoothGrad: the magnitude of the mean gradient under Gaussian noise (Smilkov et al., 2017).

    `samples` times the passes of `saliency`, and a forward pass for the logits.

    Args:
        network: any.
        images: (B, C, H, W).
        targets: class indices.
        samples: number of noisy images, above 0.
        noise: standard deviation, relative to each image's span.
        seed: of the noise.

    Raises:
        CxrError: no samples.
    """
    span = images.amax(dim=(1, 2, 3), keepdim=True) - images.amin(dim=(1, 2, 3), keepdim=True)
    total = 0
    for draw in _normal(images, samples, seed):
        total = total + input_slopes(network, images + noise * span * draw, targets)[0]
    return RawMaps((total / samples).abs().amax(dim=2), _logits(network, images))


def integratedgradients(
    network: nn.Module,
    images: torch.Tensor,
    targets: Sequence[int] | None = None,
    baseline: float = 0.0,
    steps: int = 32,
) -> RawMaps:
    """Integrated gradients: what each pixel adds to the logit on the way from a baseline (Sundararajan et al., 2017).

    The unscaled values add up to the difference of the logits, negative ones left out of the map. Gauss-Legendre
    quadrature; `steps` forward passes, each with a backward pass for each class.

    Args:
        network: any.
        images: (B, C, H, W).
        targets: class indices.
        baseline: grey level of the image that the way starts from, as the network sees it; 0 is mid-grey.
        steps: points of the quadrature, above 0.

    Raises:
        CxrError: no steps.
    """
    if steps < 1:
        raise CxrError(f"steps {steps}: must be at least 1")
    places, weights = np.polynomial.legendre.leggauss(steps)
    total = 0
    for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
        slopes, _ = input_slopes(network, baseline + float(place) * (images - baseline), targets)
        total = total + float(weight) * slopes
    return RawMaps(_added(total * (images - baseline)[:, None]), _logits(network, images))


def gradientshap(
    network: nn.Module,
    images: torch.Tensor,
    targets: Sequence[int] | None = None,
    baselines: torch.Tensor | float = 0.0,
    samples: int = 16,
    noise: float = 0.1,
    seed: int = 0,
) -> RawMaps:
    """Gradient SHAP: expected gradients between noisy images and baselines drawn at random (Lundberg & Lee, 2017).

    `samples` forward passes, each with a backward pass for each class.

    Args:
        network: any.
        images: (B, C, H, W).
        targets: class indices.
        baselines: (M, C, H, W) prepared images to draw from, or one grey level as the network sees it.
        samples: number of draws, above 0.
        noise: standard deviation, as the network sees it.
        seed: of the draws.

    Raises:
        CxrError: no samples, or baselines of another shape.
    """
    pool = torch.as_tensor(baselines, dtype=images.dtype, device=images.device)
    pool = pool.expand(1, *images.shape[1:]) if pool.ndim == 0 else pool
    if pool.shape[1:] != images.shape[1:]:
        raise CxrError(f"baselines of shape {tuple(pool.shape)} do not fit images of {tuple(images.shape)}")
    random = np.random.default_rng(seed)
    total = 0
    for draw in _normal(images, samples, seed):
        baseline, way = pool[random.integers(len(pool))], float(random.uniform())
        noisy = images + noise * draw
        slopes, _ = input_slopes(network, baseline + way * (noisy - baseline), targets)
        total = total + slopes * (noisy - baseline)[:, None]
    return RawMaps(_added(total / samples), _logits(network, images))


def input_slopes(
    network: nn.Module, images: torch.Tensor, targets: Sequence[int] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients (B, K', C, H, W) of the classes' logits by the input, and the logits (B, K)."""
    with torch.enable_grad():
        inputs = images.detach().requires_grad_()
        logits = network(inputs)
    chosen = class_indices(targets, logits.shape[1])
    slopes = [torch.autograd.grad(logits[:, k].sum(), inputs, retain_graph=True)[0] for k in chosen]
    return torch.stack(slopes, dim=1), logits.detach()


def _added(contributions: torch.Tensor) -> torch.Tensor:
    """(B, K, C, H, W) signed contributions → (B, K, H, W), those for the class."""
    return contributions.sum(dim=2).relu()


def _normal(images: torch.Tensor, samples: int, seed: int) -> Iterator[torch.Tensor]:
    """Standard normal (C, H, W), drawn on the CPU so that every device sees the same."""
    if samples < 1:
        raise CxrError(f"samples {samples}: must be at least 1")
    generator = torch.Generator().manual_seed(seed)
    for _ in range(samples):
        yield torch.randn(images.shape[1:], generator=generator).to(images.device, images.dtype)


@torch.no_grad()
def _logits(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return network(images)
