"""Losses of segmenters against loops over pixels; unknown pixels have no part and no gradient."""

from __future__ import annotations

import math

import pytest
import torch

from cxrmonai.errors import CxrError
from cxrmonai.losses import SoftDiceLoss, make_segmentation_loss
from cxrmonai.losses.segmentation import SEGMENTATION_LOSSES


@pytest.fixture
def some():
    """Logits and targets of 3 images, 3 classes, 5 × 4 pixels; some unknown, the last class wholly."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 3, 5, 4, generator=generator, dtype=torch.float64)
    target = (torch.rand(3, 3, 5, 4, generator=generator) < 0.4).double()
    target[torch.rand(3, 3, 5, 4, generator=generator) < 0.3] = torch.nan
    target[:, 2] = torch.nan
    return logits, target


def each_pixel(logits, target, k):
    for score, true in zip(logits[:, k].flatten().tolist(), target[:, k].flatten().tolist(), strict=True):
        if not math.isnan(true):
            yield 1 / (1 + math.exp(-score)), true


def dice_by_loop(logits, target):
    losses = []
    for k in range(logits.shape[1]):
        pixels = list(each_pixel(logits, target, k))
        if pixels:
            both = sum(p * g for p, g in pixels)
            whole = sum(p for p, _ in pixels) + sum(g for _, g in pixels)
            losses.append(1 - (2 * both + 1) / (whole + 1))
    return sum(losses) / len(losses)


def mean_by_loop(logits, target, term):
    terms = [term(p, g) for k in range(logits.shape[1]) for p, g in each_pixel(logits, target, k)]
    return sum(terms) / len(terms)


def cross_entropy(p, g):
    return -math.log(p if g else 1 - p)


def focal(p, g):
    right, alpha = (p, 0.25) if g else (1 - p, 0.75)
    return -alpha * (1 - right) ** 2 * math.log(right)


def test_losses_equal_loops(some):
    parts = {
        "dice": dice_by_loop(*some),
        "bce": mean_by_loop(*some, cross_entropy),
        "focal": mean_by_loop(*some, focal),
    }
    for name in SEGMENTATION_LOSSES:
        expected = sum(parts[part] for part in name.split("_"))
        assert make_segmentation_loss(name)(*some).item() == pytest.approx(expected, rel=1e-6), name


@pytest.mark.parametrize("name", SEGMENTATION_LOSSES)
def test_unknown_pixels_have_no_part_and_no_gradient(some, name):
    logits, target = some
    loss = make_segmentation_loss(name)
    leaf = logits.clone().requires_grad_()
    loss(leaf, target).backward()
    assert (leaf.grad[target.isnan()] == 0).all()
    assert (leaf.grad[~target.isnan()] != 0).all()
    changed = torch.where(target.isnan(), 50.0, logits)
    torch.testing.assert_close(loss(changed, target), loss(logits, target))
    nothing = loss(leaf, torch.full_like(target, torch.nan))
    assert nothing.item() == 0
    nothing.backward()


def test_an_absent_class_is_learned_as_absent():
    logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    SoftDiceLoss()(logits, torch.zeros(1, 1, 4, 4)).backward()
    assert (logits.grad > 0).all()
    assert SoftDiceLoss()(torch.full((1, 1, 4, 4), -40.0), torch.zeros(1, 1, 4, 4)).item() == pytest.approx(0, abs=1e-6)


def test_faults_are_named():
    with pytest.raises(CxrError, match="known are dice, bce"):
        make_segmentation_loss("iou")
    with pytest.raises(CxrError, match="do not fit"):
        make_segmentation_loss("dice")(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4))
    with pytest.raises(CxrError, match="above 0"):
        SoftDiceLoss(smooth=0)
