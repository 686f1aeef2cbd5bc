"""Losses of classifiers that leave out what is not known.

A target is unknown where it is NaN, or below 0 (an uncertain label that no policy has settled). A batch without any
known target gives 0, with gradients of 0. All is computed in float32 at least, whatever the precision of the logits.
Every loss is a mean over what is known, so that its size depends neither on the batch size nor on how many labels are
blank.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cxrmonai.errors import CxrError

KINDS = ("none", "inverse", "effective")


class MaskedBCELoss(nn.Module):
    """Binary cross-entropy of each class, mean over the known entries.

    Args:
        pos_weight: (K,) factors of the positive terms, see `pos_weights`; by default 1.

    Raises:
        CxrError: a factor is not above 0.
    """

    def __init__(self, pos_weight: Sequence[float] | np.ndarray | torch.Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("pos_weight", _factors(pos_weight, "pos_weight"))

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss.

        Args:
            logits: (B, K).
            target: (B, K) with 0 to 1, NaN or −1 where not known.

        Returns:
            A scalar.

        Raises:
            CxrError: the shapes differ, or there are not as many factors as classes.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits, known, target = _prepared(logits, target)
            factors = _on(self.pos_weight, logits, "pos_weight")
            terms = F.binary_cross_entropy_with_logits(logits, target, pos_weight=factors, reduction="none")
            return _mean(terms, known)


class WeightedCELoss(nn.Module):
    """W-CEL: positives and negatives weigh as much as each other (Wang et al., ChestX-ray8, 2017, section 3.2).

    −β_P Σ_positive log σ(s) − β_N Σ_negative log(1 − σ(s)) with β_P = (P + N) / P and β_N = (P + N) / N, divided by the
    number of known entries. As published, P and N are counted over all classes of the batch; a side that the batch
    lacks has no term.

    Args:
        labels: (N, K) targets of the training set, to count P and N there instead.
        per_class: whether each class has its own P and N. A class of one kind in `labels` then weighs 1, with a
            warning.

    Raises:
        CxrError: `labels` has no known positive or no known negative at all.
    """

    def __init__(self, labels: np.ndarray | torch.Tensor | None = None, per_class: bool = False) -> None:
        super().__init__()
        self.per_class = per_class
        weights = None if labels is None else _set_weights(labels, per_class)
        self.register_buffer("weights", weights)  # (2, K or 1): of positives, of negatives

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss.

        Args:
            logits: (B, K).
            target: (B, K) with 1, 0, NaN or −1 where not known.

        Returns:
            A scalar.

        Raises:
            CxrError: the shapes differ, or the training set has other classes.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits, known, target = _prepared(logits, target)
            if self.weights is None:
                positives, negatives = _counts(target, known, self.per_class)
                whole = positives + negatives
                positive, negative = whole / positives.clamp(min=1), whole / negatives.clamp(min=1)
            else:
                if self.weights.shape[1] not in (1, logits.shape[1]):
                    raise CxrError(f"labels of {self.weights.shape[1]} classes, but the network has {logits.shape[1]}")
                positive, negative = self.weights.to(logits)
            terms = -(positive * target * F.logsigmoid(logits) + negative * (1 - target) * F.logsigmoid(-logits))
            return _mean(terms, known)


class FocalLoss(nn.Module):
    """Focal loss of each class, −α_t (1 − p_t)^γ log p_t (Lin et al., 2017), mean over the known entries.

    Lin et al. divide by the number of positive anchors instead, since nearly all of theirs are background.

    Args:
        gamma: at least 0; how far easy examples are played down.
        alpha: weight of positives, 0 to 1, negatives having the rest; `None` for weight 1 of both.

    Raises:
        CxrError: a number out of range.
    """

    def __init__(self, gamma: float = 2.0, alpha: float | None = 0.25) -> None:
        super().__init__()
        if not gamma >= 0:
            raise CxrError(f"gamma {gamma}: must be 0 or above")
        if alpha is not None and not 0 <= alpha <= 1:
            raise CxrError(f"alpha {alpha}: must be from 0 to 1, or null")
        self.gamma, self.alpha = gamma, alpha

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss.

        Args:
            logits: (B, K).
            target: (B, K) with 1, 0, NaN or −1 where not known.

        Returns:
            A scalar.

        Raises:
            CxrError: the shapes differ.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits, known, target = _prepared(logits, target)
            towards = logits * (2 * target - 1)  # p_t = σ(towards)
            terms = -F.logsigmoid(towards) * (self.gamma * F.logsigmoid(-towards)).exp()
            if self.alpha is not None:
                terms = terms * (self.alpha * target + (1 - self.alpha) * (1 - target))
            return _mean(terms, known)


class MaskedCrossEntropyLoss(nn.Module):
    """Cross-entropy of one class among several, mean over the images whose class is known.

    Args:
        class_weight: (K,) factors, see `class_weights`; the mean is then a weighted one, as PyTorch's is.
        label_smoothing: 0 to below 1, share of each target that is spread over all classes.

    Raises:
        CxrError: a factor is not above 0, or the smoothing is out of range.
    """

    def __init__(
        self,
        class_weight: Sequence[float] | np.ndarray | torch.Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise CxrError(f"label_smoothing {label_smoothing}: must be at least 0 and below 1")
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weight", _factors(class_weight, "class_weight"))

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss.

        Args:
            logits: (B, K).
            target: (B,) or (B, 1) with 0 … K − 1, NaN or −1 where not known.

        Returns:
            A scalar.

        Raises:
            CxrError: the shapes do not fit, or there are not as many factors as classes.
        """
        target = target.squeeze(1) if target.ndim == 2 and target.shape[1] == 1 else target
        if logits.ndim != 2 or target.shape != logits.shape[:1]:
            raise CxrError(
                f"targets {tuple(target.shape)} do not fit logits {tuple(logits.shape)}: one class per image"
            )
        with torch.autocast(logits.device.type, enabled=False):
            logits = _wide(logits)
            known = target >= 0
            index = torch.where(known, target, 0).long()
            factors = _on(self.class_weight, logits, "class_weight")
            terms = F.cross_entropy(
                torch.where(known[:, None], logits, 0),
                index,
                weight=factors,
                reduction="none",
                label_smoothing=self.label_smoothing,
            )
            share = known.to(logits) if factors is None else factors[index] * known
            whole = share.sum()
            return torch.where(known, terms, 0).sum() / torch.where(whole > 0, whole, 1)


def class_weights(
    labels: np.ndarray | torch.Tensor, classes: int, kind: str = "none", beta: float = 0.9999
) -> np.ndarray:
    """Weights of classes for `MaskedCrossEntropyLoss`, from how often each is in the training set.

    Args:
        labels: (N,) or (N, 1) with 0 … K − 1, NaN or −1 where not known.
        classes: K.
        kind: `none`, all 1; `inverse`, N / (K·n_c), as scikit-learn's "balanced"; `effective`, (1 − β) / (1 − β^n_c)
            scaled to a mean of 1 over the classes that are there (Cui et al., Class-balanced loss, 2019).
        beta: of `effective`, 0 to below 1.

    Returns:
        (K,) float32; 1, with a warning, for a class that is not there.

    Raises:
        CxrError: unknown kind, a beta out of range, or labels that are no class.
    """
    if kind not in KINDS:
        raise CxrError(f"class weights '{kind}': known are {', '.join(KINDS)}")
    if not 0 <= beta < 1:
        raise CxrError(f"beta {beta}: must be at least 0 and below 1")
    values = np.asarray(labels, np.float64).ravel()
    values = values[values >= 0]
    if (values >= classes).any() or (values % 1 != 0).any():
        raise CxrError(f"labels must be whole numbers from 0 to {classes - 1}, or blank")
    if kind == "none":
        return np.ones(classes, np.float32)
    counts = np.bincount(values.astype(np.int64), minlength=classes)
    there = counts > 0
    if not there.all():
        missing = ", ".join(str(k) for k in np.flatnonzero(~there))
        warnings.warn(f"class {missing} is not in the training set; its weight is 1", stacklevel=2)
    weights = np.ones(classes)
    if kind == "inverse":
        weights[there] = len(values) / (classes * counts[there])
    elif there.any():
        rare = (1 - beta) / (1 - beta ** counts[there])
        weights[there] = rare / rare.mean()
    return weights.astype(np.float32)


def pos_weights(labels: np.ndarray | torch.Tensor, class_names: Sequence[str] | None = None) -> np.ndarray:
    """Weights of positives for `MaskedBCELoss`: negatives / positives in the training set, as PCAM uses.

    Args:
        labels: (N, K) targets with 1, 0, NaN or −1 where not known.
        class_names: (K,) for the warning.

    Returns:
        (K,) float32; 1, with a warning, for a class without known positives or without known negatives.
    """
    labels = np.asarray(labels)
    positives, negatives = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    both = _both(positives, negatives, class_names)
    return np.where(both, negatives / np.maximum(positives, 1), 1).astype(np.float32)


def _both(positives: np.ndarray, negatives: np.ndarray, class_names: Sequence[str] | None) -> np.ndarray:
    both = (positives > 0) & (negatives > 0)
    if not both.all():
        names = [str(k) for k in range(len(both))] if class_names is None else class_names
        short = ", ".join(names[k] for k in np.flatnonzero(~both))
        warnings.warn(
            f"the training set has not both positives and negatives of {short}; the weight is 1", stacklevel=3
        )
    return both


def _set_weights(labels: np.ndarray | torch.Tensor, per_class: bool) -> torch.Tensor:
    labels = np.asarray(labels)
    positives, negatives = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    if not (positives.sum() and negatives.sum()):
        raise CxrError("the training set's labels have no known positive or no known negative; W-CEL cannot weigh them")
    if not per_class:
        positives, negatives = positives.sum(keepdims=True), negatives.sum(keepdims=True)
    both = _both(positives, negatives, None)
    whole = positives + negatives
    weights = [np.where(both, whole / np.maximum(count, 1), 1) for count in (positives, negatives)]
    return torch.from_numpy(np.stack(weights))


def _counts(target: torch.Tensor, known: torch.Tensor, per_class: bool) -> tuple[torch.Tensor, torch.Tensor]:
    axes = [0] if per_class else [0, 1]
    return (target * known).sum(dim=axes), ((1 - target) * known).sum(dim=axes)


def _prepared(logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Wide logits, where the target is known, and a target of 0 where it is not."""
    if logits.shape != target.shape:
        raise CxrError(f"targets {tuple(target.shape)} do not fit logits {tuple(logits.shape)}")
    logits = _wide(logits)
    known = target >= 0
    return logits, known, torch.where(known, target, 0).to(logits)


def _mean(terms: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    return torch.where(known, terms, 0).sum() / known.sum().clamp(min=1)


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _factors(values: Sequence[float] | np.ndarray | torch.Tensor | None, name: str) -> torch.Tensor | None:
    if values is None:
        return None
    factors = torch.as_tensor(np.asarray(values, np.float64)).flatten()
    if not bool((factors.isfinite() & (factors > 0)).all()):
        raise CxrError(f"{name}: every factor must be above 0 and finite")
    return factors


def _on(factors: torch.Tensor | None, logits: torch.Tensor, name: str) -> torch.Tensor | None:
    if factors is None:
        return None
    if len(factors) != logits.shape[1]:
        raise CxrError(f"{name}: {len(factors)} factors for {logits.shape[1]} classes")
    return factors.to(logits)
