"""How well a classifier still ranks images that were changed to mislead it: AUROC against the size of the change."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from cxrmonai.data.tasks import Task
from cxrmonai.errors import CxrError
from cxrmonai.explain.ascent import Ball, Objective, ascend
from cxrmonai.explain.pixels import PixelClassifier
from cxrmonai.metrics import classification_summary
from cxrmonai.metrics.multiclass import class_numbers, one_hot
from cxrmonai.progress import progress_bar

OBJECTIVES = ("margin", "loss")
KINDS = ("attack", "noise")


def untargeted(classifier: PixelClassifier, target: torch.Tensor, objective: str = "margin") -> Objective:
    """What an attack raises.

    Args:
        classifier: under attack.
        target: (B, K) 1, 0 and NaN, which counts nothing.
        objective: `margin` takes logits of positives down and those of negatives up; `loss` raises the binary
            cross-entropy. For `multiclass` the first takes the true class's logit below the largest of the others, the
            second raises the cross-entropy.

    Returns:
        Images (B, 1, S, S) → (B,).

    Raises:
        CxrError: an unknown objective.
    """
    if objective not in OBJECTIVES:
        raise CxrError(f"objective '{objective}': known are {', '.join(OBJECTIVES)}")
    known = ~torch.isnan(target)
    truth = torch.nan_to_num(target)

    def raised(images: torch.Tensor) -> torch.Tensor:
        logits = classifier(images)
        if classifier.kind == "multiclass":
            return _exclusive(logits, truth, objective) * known.all(dim=1)
        if objective == "margin":
            each = torch.where(truth == 1, -logits, logits)
        else:
            each = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        return torch.where(known, each, torch.zeros_like(each)).sum(dim=1)

    return raised


def _exclusive(logits: torch.Tensor, truth: torch.Tensor, objective: str) -> torch.Tensor:
    if objective == "loss":
        return -(logits.log_softmax(dim=1) * truth).sum(dim=1)
    return logits.masked_fill(truth == 1, -torch.inf).amax(dim=1) - (logits * truth).sum(dim=1)


def check_radii(linf: Sequence[float], l2: Sequence[float]) -> dict[str, list[float]]:
    """Radii for each norm that has any.

    Args:
        linf: of `Linf`, rising from 0 or more; none leaves the norm out.
        l2: of `L2`, likewise.

    Raises:
        CxrError: they do not rise, or there are none.
    """
    for key, radii in (("epsilons_linf", linf), ("epsilons_l2", l2)):
        if sorted(set(radii)) != list(radii) or (radii and min(radii) < 0):
            raise CxrError(f"{key} {list(radii)}: must rise, from 0 or more")
    if not (linf or l2):
        raise CxrError("epsilons_linf and epsilons_l2 are both empty; give radii to one of them")
    return {norm: list(radii) for norm, radii in (("Linf", linf), ("L2", l2)) if radii}


def binary_targets(task: Task) -> np.ndarray:
    """(N, K) float32 1, 0 and NaN of each class, one against the rest for `multiclass`."""
    if task.kind == "multilabel":
        return task.targets
    numbers = class_numbers(task.targets[:, 0], len(task.class_names))
    return one_hot(numbers, len(task.class_names)).astype(np.float32)


def attacked_logits(
    classifier: PixelClassifier,
    data_file: str | os.PathLike[str],
    rows: np.ndarray,
    target: np.ndarray,
    epsilons: Mapping[str, Sequence[float]],
    objective: str = "margin",
    iterations: int = 10,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, dict[str, np.ndarray]]:
    """Logits of some images after attacks and after noise of the same size.

    An attack at one ε begins from what the attack at the ε before found, so that its objective never falls as ε grows.
    Its step is 2.5 ε / iterations, with which any point of the ball can be reached (Madry et al., 2018). At ε 0 the
    images are as they are.

    Args:
        classifier: under attack.
        data_file: the store.
        rows: (N,) of its images.
        target: (rows of the store, K) see `binary_targets`; what is not known is not attacked.
        epsilons: radii for each norm, see `check_radii`.
        objective: see `untargeted`.
        iterations: steps of an attack.
        batch_size: images a step.
        seed: of the noise.
        progress: whether to show a bar.

    Returns:
        For each norm `attack` and `noise`, (E, N, K) each.
    """
    generator = torch.Generator().manual_seed(seed)
    found = {norm: {name: [[] for _ in radii] for name in KINDS} for norm, radii in epsilons.items()}
    total = len(rows) * sum(len(radii) for radii in epsilons.values())
    done = 0
    with progress_bar("attack", total, "img", progress) as bar:
        for images in classifier.batches(data_file, rows, batch_size):
            truth = torch.from_numpy(target[rows[done : done + len(images)]]).to(images)
            raised = untargeted(classifier, truth, objective)
            done += len(images)
            for norm, radii in epsilons.items():
                changed = images
                for place, radius in enumerate(radii):
                    ball = Ball(norm, radius)
                    if radius:
                        step = 2.5 * radius / max(1, iterations)
                        changed = ascend(raised, images, ball, step, iterations, start=changed).images
                    noisy = ball.draw(images, generator) if radius else images
                    for name, shown in zip(KINDS, (changed, noisy), strict=True):
                        with torch.no_grad():
                            found[norm][name][place].append(classifier(shown).float().cpu().numpy())
                    bar.update(len(images))
    return {
        norm: {name: np.stack([np.concatenate(part) for part in parts[name]]) for name in KINDS}
        for norm, parts in found.items()
    }


def robustness_summary(
    logits: Mapping[str, Mapping[str, np.ndarray]],
    epsilons: Mapping[str, Sequence[float]],
    truth: np.ndarray,
    class_names: Sequence[str],
    kind: str = "multilabel",
    patients: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, list[dict[str, Any]]]:
    """AUROC at each ε, with intervals by patient.

    Args:
        logits: of `attacked_logits`.
        epsilons: the radii that were given there.
        truth: (N, K) 1, 0 and NaN.
        class_names: K names.
        kind: `multilabel`, or `multiclass`, whose probabilities are ranked.
        patients: (N,) patient of each image.
        resamples: of the bootstrap; all curves use the same.
        seed: of the bootstrap.

    Returns:
        For each norm a list over ε of `epsilon`, `attack` and `noise`, the last two as
        `metrics.classification_summary` has them.
    """
    curves: dict[str, list[dict[str, Any]]] = {}
    for norm, radii in epsilons.items():
        curves[norm] = [{"epsilon": float(radius)} for radius in radii]
        for place, point in enumerate(curves[norm]):
            for name in KINDS:
                score = logits[norm][name][place]
                if kind == "multiclass":
                    score = torch.from_numpy(score).double().softmax(dim=1).numpy()
                point[name] = classification_summary(truth, score, class_names, patients, resamples, seed)
    return curves
