"""The loss of a classifier by name, weighted by what its training images show."""

from __future__ import annotations

import numpy as np
from torch import nn

from cxrmonai.data.tasks import Task
from cxrmonai.errors import CxrError
from cxrmonai.losses.classification import (
    FocalLoss,
    MaskedBCELoss,
    MaskedCrossEntropyLoss,
    WeightedCELoss,
    class_weights,
    pos_weights,
)

LOSSES = {"multilabel": ("bce", "weighted_ce", "focal"), "multiclass": ("cross_entropy",)}
WEIGHTINGS = ("none", "inverse", "effective")


def make_loss(name: str, task: Task, rows: np.ndarray, weighting: str = "none", focal_gamma: float = 2.0) -> nn.Module:
    """Builds a loss.

    Args:
        name: `bce`, `weighted_ce` (Wang's W-CEL, counted in each batch) or `focal` for targets that are each by
            themselves, `cross_entropy` for one class of several; or `auto`, the first that fits the task.
        task: what is learned.
        rows: of the training images in the task's store.
        weighting: `none`; `inverse`, rare classes (of `bce`: the rarer of present and absent) weigh more; `effective`,
            likewise by the effective number of samples, for `cross_entropy` only.
        focal_gamma: of `focal`.

    Raises:
        CxrError: an unknown name, or one that does not fit the task or the weighting.
    """
    fitting = LOSSES[task.kind]
    name = fitting[0] if name == "auto" else name
    if name not in fitting:
        raise CxrError(f"loss '{name}' does not fit a {task.kind} target; there are {', '.join(fitting)}")
    if weighting not in WEIGHTINGS:
        raise CxrError(f"class_weighting '{weighting}': known are {', '.join(WEIGHTINGS)}")
    targets = task.targets[rows]
    if name == "cross_entropy":
        kept = None if weighting == "none" else class_weights(targets, len(task.class_names), weighting)
        return MaskedCrossEntropyLoss(kept)
    if weighting == "effective" or (weighting == "inverse" and name != "bce"):
        raise CxrError(f"class_weighting {weighting} does not go with loss {name}; set it to none")
    if name == "bce":
        return MaskedBCELoss(pos_weights(targets) if weighting == "inverse" else None)
    return WeightedCELoss() if name == "weighted_ce" else FocalLoss(focal_gamma)
