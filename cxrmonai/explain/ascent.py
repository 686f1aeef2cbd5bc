"""Projected gradient ascent on pixels: what synthesis and attacks have in common (Madry et al., ICLR 2018)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from cxrmonai.errors import CxrError

NORMS = ("L2", "Linf")
BISECTIONS = 40

Objective = Callable[[torch.Tensor], torch.Tensor]
Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Ball:
    """Images within a distance of others, and of pixels from 0 to 1.

    Args:
        norm: `L2`, the root of the sum over an image's pixels of the squared change; or `Linf`, the largest change.
        radius: of the ball, in units of the 0–1 range; 0 or more.

    Raises:
        CxrError: an unknown norm, or a radius below 0.
    """

    norm: str
    radius: float

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise CxrError(f"norm '{self.norm}': known are {', '.join(NORMS)}")
        if not self.radius >= 0:
            raise CxrError(f"epsilon {self.radius}: must be 0 or more")

    def distance(self, images: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
        """(B,) distances of images (B, C, H, W) from their centres."""
        return self._length(images - centre)

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """The step of length 1 that rises most, (B, C, H, W); zero where the gradient is zero."""
        if self.norm == "Linf":
            return gradient.sign()
        largest = gradient.abs().flatten(1).amax(1).clamp_min(torch.finfo(gradient.dtype).tiny)
        scaled = gradient / largest[:, None, None, None]  # so that the squares of tiny gradients do not vanish
        return scaled / self._length(scaled).clamp_min(1e-12)[:, None, None, None]

    def project(self, images: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
        """The nearest images (B, C, H, W) in the ball whose pixels are in 0–1.

        In the L2 norm the nearest is clip(c + t(x − c)) with the largest t up to 1 that stays in the ball, found by
        bisection; to scale first and clip afterwards would stay short of it.

        Args:
            images: (B, C, H, W).
            centre: the same shape, 0–1.
        """
        if self.norm == "Linf":
            return torch.minimum(torch.maximum(images, centre - self.radius), centre + self.radius).clamp_(0, 1)
        whole = images.clamp(0, 1)
        outside = (self.distance(whole, centre) > self.radius).nonzero()[:, 0]
        if len(outside):
            middle, offset = centre[outside], images[outside] - centre[outside]
            low, high = offset.new_zeros(len(outside)), offset.new_ones(len(outside))
            for _ in range(BISECTIONS):
                share = (low + high) / 2
                beyond = self.distance(_along(middle, offset, share), middle) > self.radius
                low, high = torch.where(beyond, low, share), torch.where(beyond, share, high)
            whole[outside] = _along(middle, offset, low)
        return whole

    def draw(self, centre: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Random images at the ball's edge: centre plus noise of the length of the radius, clipped to 0–1.

        The noise is Gaussian, scaled, for L2; plus or minus the radius in each pixel for Linf.

        Args:
            centre: (B, C, H, W), 0–1.
            generator: on the CPU, so that a seed draws the same on every device.
        """
        noise = torch.randn(centre.shape, generator=generator).to(centre)
        return (centre + self.radius * self.direction(noise)).clamp(0, 1)

    def _length(self, change: torch.Tensor) -> torch.Tensor:
        return change.flatten(1).norm(dim=1) if self.norm == "L2" else change.abs().flatten(1).amax(1)


def _along(centre: torch.Tensor, offset: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    return (centre + share[:, None, None, None] * offset).clamp(0, 1)


class Ascent(NamedTuple):
    """What an ascent found: the best images (B, C, H, W), their values (B,), and the step they were passed at (B,)."""

    images: torch.Tensor
    values: torch.Tensor
    steps: torch.Tensor


def ascend(
    objective: Objective,
    centre: torch.Tensor,
    ball: Ball,
    step_size: float,
    iterations: int,
    start: torch.Tensor | None = None,
    view: Change | None = None,
    smooth: Callable[[torch.Tensor, int], torch.Tensor] | None = None,
    watch: Callable[[int, torch.Tensor], None] | None = None,
) -> Ascent:
    """Raises an objective of each image by steps along its normalised gradient, and keeps the best image passed.

    Args:
        objective: images (B, C, H, W), 0–1, → (B,) values to raise, each a function of its image alone.
        centre: of the ball, (B, C, H, W), 0–1.
        ball: where the images stay.
        step_size: length of a step in the ball's norm.
        iterations: how many steps; 0 only evaluates the start.
        start: where to begin; the centre by default.
        view: a random change of the images before the gradient is taken, such as a shift; the best is judged without.
        smooth: images after a step and its number, from 1 → images, which are projected afterwards.
        watch: is told of each iterate, from 0 (the start) to `iterations`, as it is reached.

    Returns:
        The best of the iterates of each image, the earliest where several are as good.

    Raises:
        CxrError: the objective gives no numbers.
    """
    images = ball.project(centre if start is None else start, centre)
    best, record, steps = images, None, torch.zeros(len(images), dtype=torch.long)
    for iteration in range(iterations + 1):
        last = iteration == iterations
        value, gradient = _value_and_gradient(objective, images, view, last)
        if not torch.isfinite(value).all():
            raise CxrError("the network gives no finite numbers for these images; train it anew or use other weights")
        better = torch.ones_like(value, dtype=torch.bool) if record is None else value > record
        record = value if record is None else torch.where(better, value, record)
        best = torch.where(better[:, None, None, None], images, best)
        steps[better.cpu()] = iteration
        if watch is not None:
            watch(iteration, images)
        if gradient is None:
            break
        images = images + step_size * ball.direction(gradient)
        if smooth is not None:
            images = smooth(images, iteration + 1)
        images = ball.project(images, centre)
    return Ascent(best, record, steps)


def _value_and_gradient(
    objective: Objective, images: torch.Tensor, view: Change | None, last: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    if last:
        with torch.no_grad():
            return objective(images), None
    with torch.enable_grad():
        leaf = images.detach().requires_grad_(True)
        value = objective(leaf if view is None else view(leaf))
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    if view is not None:
        with torch.no_grad():
            value = objective(images)
    return value.detach(), gradient
