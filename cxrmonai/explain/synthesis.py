"""Images that a classifier finds full of a finding: what it looks for, shown by what raises its score most.

Targeted projected gradient ascent on the pixels, as in Santurkar et al., "Image synthesis with a single (robust)
classifier", NeurIPS 2019, with the regularisers of feature visualisation (Olah et al., Distill 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from cxrmonai.errors import CxrError
from cxrmonai.explain.ascent import Ascent, Ball, ascend
from cxrmonai.explain.localising import chosen_classes
from cxrmonai.explain.pixels import PixelClassifier
from cxrmonai.networks import Classifier
from cxrmonai.progress import progress_bar
from cxrmonai.transforms.batch import gaussian_blur


@dataclass(frozen=True)
class Trajectory:
    """What a synthesis went through, for B images.

    Attributes:
        iterations: (T,) steps that were kept, from 0 to the last.
        images: (T, B, S, S) float32, 0–1.
        probability: (T, B, K) of the classifier's classes.
        best: (B, S, S) the images with the highest objective.
        best_probability: (B, K).
        steps: (B,) at which step they were passed.
        wanted: (B, K) bool, the classes whose probability was raised.
    """

    iterations: list[int]
    images: np.ndarray
    probability: np.ndarray
    best: np.ndarray
    best_probability: np.ndarray
    steps: np.ndarray
    wanted: np.ndarray

    @property
    def start(self) -> np.ndarray:
        """(B, S, S) the images it began with."""
        return self.images[0]

    def distances(self) -> dict[str, np.ndarray]:
        """How far the best images are from the start: `L2` and `Linf`, (B,) each."""
        change = (self.best - self.start).reshape(len(self.best), -1)
        return {"L2": np.linalg.norm(change, axis=1), "Linf": np.abs(change).max(axis=1)}


def wanted_classes(network: Classifier, findings: str | Sequence[str] | None) -> np.ndarray:
    """Which classes shall be raised, one row for each image that is made.

    Args:
        network: of K classes.
        findings: `A,B` or a list, in any spelling: one image with all of them. None makes an image for each class.

    Returns:
        (1, K) or (K, K) bool.

    Raises:
        CxrError: a class the classifier does not have, or several that exclude each other.
    """
    places = chosen_classes(network, findings)
    each = np.eye(len(network.class_names), dtype=bool)
    if not findings:
        return each
    if network.task == "multiclass" and len(places) > 1:
        raise CxrError(f"findings {findings}: the classes exclude each other; name one")
    return each[places].any(axis=0, keepdims=True)


def maximise(
    classifier: PixelClassifier,
    start: torch.Tensor,
    wanted: np.ndarray,
    norm: str = "L2",
    epsilon: float = 20.0,
    step_size: float = 0.4,
    iterations: int = 100,
    tv_weight: float = 0.0,
    jitter: int = 0,
    blur: float = 0.0,
    blur_every: int = 10,
    frames: int = 21,
    batch_size: int = 16,
    seed: int = 0,
    progress: bool = False,
) -> Trajectory:
    """Changes images until a classifier finds them full of what is wanted.

    The objective of an image is the sum over its wanted classes of log p, less `tv_weight` times the total variation
    of the change. Where one class is sure already, the others get the gradient.

    Args:
        classifier: of K classes.
        start: (C, 1, S, S), 0–1; each is taken for each row of `wanted`.
        wanted: (W, K) bool, at least one a row.
        norm: of the ball about the start, `L2` or `Linf`.
        epsilon: radius of the ball.
        step_size: length of a step in that norm.
        iterations: steps.
        tv_weight: of the mean over pixels of |Δx| + |Δy| of the change; 0 for none.
        jitter: before each gradient all images are shifted by up to so many pixels, edges mirrored.
        blur: standard deviation in pixels of a Gaussian blur of the change; 0 for none.
        blur_every: at every how many steps the change is blurred.
        frames: how many steps are kept, evenly spread, with the first and the last.
        batch_size: images at once.
        seed: of the jitter.
        progress: whether to show a bar.

    Returns:
        The trajectory of B = W · C images: all starts for the first row of `wanted`, then for the second, ….

    Raises:
        CxrError: see `Ball` and `ascend`; or a jitter as large as the image.
    """
    if not 0 <= jitter < start.shape[-1]:
        raise CxrError(f"jitter {jitter}: must be 0 to {start.shape[-1] - 1} pixels")
    every = start.to(classifier.device).repeat(len(wanted), 1, 1, 1)
    goals = np.repeat(wanted, len(start), axis=0)
    ball = Ball(norm, epsilon)
    kept = sorted({round(step) for step in np.linspace(0, iterations, max(2, frames))})
    parts: list[Trajectory] = []
    batches = [slice(first, first + batch_size) for first in range(0, len(every), batch_size)]
    with progress_bar("synthesis", len(batches) * (iterations + 1), "step", progress) as bar:
        for batch in batches:
            change = _Change(classifier, every[batch], goals[batch], kept, tv_weight, bar)
            found = ascend(
                change.objective,
                every[batch],
                ball,
                step_size,
                iterations,
                view=_Jitter(jitter, seed) if jitter else None,
                smooth=_Blur(every[batch], blur, blur_every) if blur > 0 else None,
                watch=change.watch,
            )
            parts.append(change.trajectory(found))
    return Trajectory(
        kept,
        *(np.concatenate([getattr(part, name) for part in parts], axis=1) for name in ("images", "probability")),
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("best", "best_probability", "steps")),
        goals,
    )


class _Change:
    """The objective of some images, and a record of what they go through."""

    def __init__(
        self,
        classifier: PixelClassifier,
        start: torch.Tensor,
        wanted: np.ndarray,
        kept: list[int],
        tv_weight: float,
        bar: tqdm,
    ) -> None:
        self.classifier, self.start, self.wanted = classifier, start, wanted
        self.goal = torch.from_numpy(wanted).to(start)
        self.kept, self.tv_weight, self.bar = kept, tv_weight, bar
        self.images: list[np.ndarray] = []
        self.probability: list[np.ndarray] = []

    def objective(self, images: torch.Tensor) -> torch.Tensor:
        value = (self.classifier.log_probabilities(images) * self.goal).sum(dim=1)
        return value - self.tv_weight * total_variation(images - self.start) if self.tv_weight else value

    def watch(self, step: int, images: torch.Tensor) -> None:
        self.bar.update(1)
        if step in self.kept:
            self.images.append(images[:, 0].cpu().numpy())
            self.probability.append(self.classifier.probabilities(images))

    def trajectory(self, found: Ascent) -> Trajectory:
        best = found.images
        return Trajectory(
            self.kept,
            np.stack(self.images),
            np.stack(self.probability),
            best[:, 0].cpu().numpy(),
            self.classifier.probabilities(best),
            found.steps.numpy(),
            self.wanted,
        )


def total_variation(images: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) → (B,) mean over pixels of the absolute differences to the right and to the lower neighbour."""
    across, down = images.diff(dim=3).abs(), images.diff(dim=2).abs()
    return (across.flatten(1).sum(1) + down.flatten(1).sum(1)) / images[0].numel()


class _Jitter:
    """Shifts all images of a batch by the same few pixels, drawn anew at each call."""

    def __init__(self, reach: int, seed: int) -> None:
        self.reach, self.random = reach, np.random.default_rng(seed)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) → the same shape."""
        height, width = images.shape[-2:]
        down, across = self.random.integers(0, 2 * self.reach + 1, 2)
        padded = F.pad(images, [self.reach] * 4, mode="reflect")
        return padded[..., down : down + height, across : across + width]


class _Blur:
    """Blurs how much images differ from their start, at every few steps (Yosinski et al., 2015)."""

    def __init__(self, start: torch.Tensor, sigma: float, every: int) -> None:
        self.start, self.sigma, self.every = start, sigma, every

    def __call__(self, images: torch.Tensor, step: int) -> torch.Tensor:
        """(B, 1, H, W) and the number of the step → the same shape."""
        if step % self.every:
            return images
        change = images - self.start
        return self.start + gaussian_blur(change, np.full(len(change), self.sigma), 3 * self.sigma)
