"""From labels to what a loss or a metric sees: the uncertainty policy is applied here, and only here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cxrmonai.errors import CxrError

POLICIES = ("ignore", "zeros", "ones")


def make_targets(
    labels: np.ndarray, class_names: Sequence[str], policy: str | Mapping[str, str] = "ignore"
) -> np.ndarray:
    """Replaces uncertain labels by policy (Irvin et al., CheXpert, 2019: U-Ignore, U-Zeros, U-Ones).

    Args:
        labels: (N, C) with 1, 0, -1 (uncertain) and NaN (unknown).
        class_names: (C,) names of the columns.
        policy: `ignore`, `zeros` or `ones` for all, or by name; names that are absent are ignored where uncertain.

    Returns:
        (N, C) float32 with 1, 0 and NaN (to be masked).

    Raises:
        CxrError: unknown policy, or a policy for a class that is not there.
    """
    per_class = dict.fromkeys(class_names, policy) if isinstance(policy, str) else dict(policy)
    for name, choice in per_class.items():
        if choice not in POLICIES:
            raise CxrError(f"uncertainty policy '{choice}' for {name}: known are {', '.join(POLICIES)}")
        if name not in class_names:
            raise CxrError(f"uncertainty policy for '{name}', but the classes are {', '.join(class_names)}")
    value = {"ignore": np.nan, "zeros": 0.0, "ones": 1.0}
    fill = np.array([value[per_class.get(name, "ignore")] for name in class_names], np.float32)
    labels = np.asarray(labels, np.float32)
    return np.where(labels == -1, fill, labels)
