"""Losses of pretext tasks against loops in float64."""

import math

import numpy as np
import pytest
import torch

from cxrmonai.errors import CxrError
from cxrmonai.losses.pretext import mean_cross_entropy, weighted_mse


def test_mean_cross_entropy_is_the_mean_of_three():
    random = np.random.default_rng(0)
    logits, sizes = random.normal(size=(7, 10)), (4, 3, 3)
    targets = [random.integers(size, size=7) for size in sizes]
    expected, start = [], 0
    for size, target in zip(sizes, targets, strict=True):
        part = logits[:, start : start + size]
        start += size
        rows = [math.log(sum(math.exp(value) for value in row)) - row[k] for row, k in zip(part, target, strict=True)]
        expected.append(sum(rows) / len(rows))
    found = mean_cross_entropy(torch.from_numpy(logits), [torch.from_numpy(target) for target in targets], sizes)
    assert found.item() == pytest.approx(sum(expected) / 3, rel=1e-12)


def test_heads_that_do_not_fit_the_logits_are_refused():
    with pytest.raises(CxrError, match="9 logits for heads of 4, 3, 3"):
        mean_cross_entropy(torch.zeros(2, 9), [torch.zeros(2).long()] * 3, (4, 3, 3))


def test_weighted_mse_counts_what_is_known_and_weighs():
    random = np.random.default_rng(1)
    prediction, target, weight = (random.random((5, 3)) for _ in range(3))
    target[1, 2] = np.nan
    total = whole = plain = known = 0.0
    for p, t, w in zip(prediction.ravel(), target.ravel(), weight.ravel(), strict=True):
        if not math.isnan(t):
            total, whole, plain, known = total + w * (p - t) ** 2, whole + w, plain + (p - t) ** 2, known + 1
    prediction, target, weight = (torch.from_numpy(value) for value in (prediction, target, weight))
    prediction.requires_grad_()
    assert weighted_mse(prediction, target, weight).item() == pytest.approx(total / whole, rel=1e-12)
    loss = weighted_mse(prediction, target)
    assert loss.item() == pytest.approx(plain / known, rel=1e-12)
    loss.backward()
    assert prediction.grad.isfinite().all()
    assert prediction.grad[1, 2] == 0


def test_nothing_known_is_no_loss():
    assert weighted_mse(torch.ones(2, 1), torch.full((2, 1), torch.nan)).item() == 0
