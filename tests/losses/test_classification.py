import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cxrmonai.errors import CxrError
from cxrmonai.losses import (
    FocalLoss,
    MaskedBCELoss,
    MaskedCrossEntropyLoss,
    WeightedCELoss,
    class_weights,
    pos_weights,
)

NAN = math.nan
TARGET = torch.tensor([[1, 0, NAN], [NAN, -1, 0], [1, 1, 0], [0, 0, 0]], dtype=torch.float64)
GRADES = torch.tensor([2, 0, NAN, 1, -1, 0], dtype=torch.float64)


def logits_of(shape=(4, 3), seed=0, scale=2.0):
    values = scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.requires_grad_()


def entries(logits, target):
    """(probability, target, class) of all that is known."""
    for row, truth in zip(logits.tolist(), target.tolist(), strict=True):
        for k, (s, y) in enumerate(zip(row, truth, strict=True)):
            if y in (0, 1):
                yield 1 / (1 + math.exp(-s)), y, k


def average(values):
    values = list(values)
    return sum(values) / len(values)


def bce(pos_weight=(1, 1, 1)):
    def plain(logits, target):
        return average(-pos_weight[k] * math.log(p) if y else -math.log(1 - p) for p, y, k in entries(logits, target))

    return plain


def wcel(counts=None):
    """Equation 1 of Wang et al., 2017, over the number of labels."""

    def plain(logits, target):
        known = list(entries(logits, target))
        positives, negatives = counts or (sum(y == 1 for _, y, _ in known), sum(y == 0 for _, y, _ in known))
        beta_p, beta_n = (positives + negatives) / positives, (positives + negatives) / negatives
        total = -beta_p * sum(math.log(p) for p, y, _ in known if y) - beta_n * sum(
            math.log(1 - p) for p, y, _ in known if not y
        )
        return total / len(known)

    return plain


def focal(gamma, alpha):
    def plain(logits, target):
        terms = []
        for p, y, _ in entries(logits, target):
            chance = p if y else 1 - p
            weight = 1 if alpha is None else alpha if y else 1 - alpha
            terms.append(-weight * (1 - chance) ** gamma * math.log(chance))
        return average(terms)

    return plain


TRAINING = np.array([[1, 0, 0], [0, 0, NAN], [0, 1, 1], [0, 0, -1]])  # 3 positives, 7 negatives

MULTILABEL = {
    "bce": (MaskedBCELoss(), bce()),
    "bce weighted": (MaskedBCELoss([0.5, 3, 2]), bce((0.5, 3, 2))),
    "wcel of the batch": (WeightedCELoss(), wcel()),
    "wcel of the training set": (WeightedCELoss(TRAINING), wcel((3, 7))),
    "focal": (FocalLoss(), focal(2, 0.25)),
    "focal without alpha": (FocalLoss(1.5, None), focal(1.5, None)),
    "focal without gamma": (FocalLoss(0, None), bce()),
}


@pytest.mark.parametrize("name", MULTILABEL)
def test_against_plain_loops(name):
    loss, plain = MULTILABEL[name]
    logits = logits_of()
    value = loss(logits, TARGET)
    assert value.item() == pytest.approx(plain(logits, TARGET), rel=1e-12)
    value.backward()
    assert (logits.grad[~(TARGET >= 0)] == 0).all()
    assert (logits.grad[TARGET >= 0] != 0).all()
    step = 1e-6
    for i, k in [(0, 0), (1, 2), (2, 1), (3, 1)]:
        up, down = logits.detach().clone(), logits.detach().clone()
        up[i, k] += step
        down[i, k] -= step
        slope = (plain(up, TARGET) - plain(down, TARGET)) / (2 * step)
        assert logits.grad[i, k].item() == pytest.approx(slope, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", MULTILABEL)
def test_gradients(name):
    assert torch.autograd.gradcheck(lambda x: MULTILABEL[name][0](x, TARGET), logits_of(seed=3))


def test_wcel_per_class():
    per_class = WeightedCELoss(per_class=True)
    logits = logits_of()
    expected = sum(wcel()(logits[:, [k]], TARGET[:, [k]]) * int((TARGET[:, k] >= 0).sum()) for k in (0, 1))
    known = TARGET >= 0
    beta_n = 3 / 3  # the third class has three negatives and no positive
    expected += sum(beta_n * -math.log(1 - p) for p, _, k in entries(logits, TARGET) if k == 2)
    assert per_class(logits, TARGET).item() == pytest.approx(expected / int(known.sum()), rel=1e-12)
    with pytest.warns(UserWarning, match=r"not both positives and negatives of 2; the weight is 1"):
        of_set = WeightedCELoss(np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0.0]]), per_class=True)
    torch.testing.assert_close(of_set.weights, torch.tensor([[3, 1.5, 1], [1.5, 3, 1]], dtype=torch.float64))
    assert of_set(logits, TARGET).isfinite()


def test_equal_to_pytorch_and_monai_where_all_is_known():
    from monai.losses import FocalLoss as MonaiFocalLoss
    from torchvision.ops import sigmoid_focal_loss

    logits, target = logits_of((6, 4)), (logits_of((6, 4), seed=1) > 0).double()
    weights = torch.tensor([1, 2, 3, 0.5], dtype=torch.float64)
    pairs = [
        (MaskedBCELoss(), F.binary_cross_entropy_with_logits(logits, target)),
        (MaskedBCELoss(weights), F.binary_cross_entropy_with_logits(logits, target, pos_weight=weights)),
        (FocalLoss(2, 0.25), sigmoid_focal_loss(logits, target, 0.25, 2, "mean")),
        (FocalLoss(2, None), MonaiFocalLoss(gamma=2)(logits, target)),
    ]
    for loss, expected in pairs:
        value = loss(logits, target)
        (ours,), (theirs,) = (
            torch.autograd.grad(value, logits),
            torch.autograd.grad(expected, logits, retain_graph=True),
        )
        assert value.item() == pytest.approx(expected.item(), rel=1e-6)  # MONAI works in float32
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def plain_cross_entropy(logits, target, weight=(1, 1, 1), smoothing=0.0):
    total = whole = 0
    for row, y in zip(logits.tolist(), target.tolist(), strict=True):
        if not y >= 0:
            continue
        logs = [s - math.log(sum(math.exp(t) for t in row)) for s in row]
        k = int(y)
        spread = smoothing / len(row)
        total -= (1 - smoothing) * weight[k] * logs[k] + spread * sum(w * x for w, x in zip(weight, logs, strict=True))
        whole += weight[k]
    return total / whole


@pytest.mark.parametrize("weight", [None, (0.1, 0.2, 0.05)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy(weight, smoothing):
    logits = logits_of((6, 3))
    loss = MaskedCrossEntropyLoss(weight, smoothing)
    value = loss(logits, GRADES)
    assert value.item() == pytest.approx(plain_cross_entropy(logits, GRADES, weight or (1, 1, 1), smoothing), rel=1e-12)
    known = GRADES >= 0
    factors = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    theirs = F.cross_entropy(logits[known], GRADES[known].long(), factors, label_smoothing=smoothing)
    (ours,), (slopes,) = torch.autograd.grad(value, logits), torch.autograd.grad(theirs, logits)
    torch.testing.assert_close(ours, slopes)
    assert torch.autograd.gradcheck(lambda x: loss(x, GRADES), logits)
    for same in (GRADES[:, None], GRADES.nan_to_num(-1).long(), GRADES.float()):
        assert loss(logits, same).item() == pytest.approx(value.item(), rel=1e-12)


EVERY = {**{name: loss for name, (loss, _) in MULTILABEL.items()}, "ce": MaskedCrossEntropyLoss([1, 2, 3])}


def unknown(name, shape=(4, 3)):
    return torch.full(shape[:1] if name == "ce" else shape, NAN)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("value", [NAN, -1.0])
def test_batch_without_any_known_label(name, value):
    logits = logits_of().detach().float().requires_grad_()
    loss = EVERY[name](logits, unknown(name).nan_to_num(value) if value == value else unknown(name))
    assert loss.item() == 0
    loss.backward()
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name, dtype):
    logits = logits_of(scale=8).detach().to(dtype).requires_grad_()
    target = torch.tensor([0, 2, NAN, 1]) if name == "ce" else TARGET.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = EVERY[name](logits, target)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(EVERY[name](logits.detach().double(), target).item(), rel=1e-5)
    loss.backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", EVERY)
def test_extreme_logits(name):
    logits = torch.tensor([[300.0, -300, 300], [-300, 300, -300]], requires_grad=True)
    target = torch.tensor([1.0, 0]) if name == "ce" else torch.tensor([[0, 1, 1], [0, 1, NAN]])
    loss = EVERY[name](logits, target)
    loss.backward()
    assert loss.isfinite()
    assert loss > 10
    assert logits.grad.isfinite().all()


def test_wcel_of_a_batch_of_one_kind():
    logits = logits_of((2, 2))
    for kind in (0.0, 1.0):
        target = torch.full((2, 2), kind, dtype=torch.float64)
        expected = F.binary_cross_entropy_with_logits(logits, target)
        assert WeightedCELoss()(logits, target).item() == pytest.approx(expected.item(), rel=1e-12)


def test_pos_weights():
    labels = np.array([[1, 0, 1, NAN], [0, 0, 1, NAN], [0, NAN, NAN, NAN], [-1, 0, 1, NAN]])
    with pytest.warns(UserWarning, match="not both positives and negatives of b, c, d; the weight is 1"):
        weights = pos_weights(labels, ["a", "b", "c", "d"])
    np.testing.assert_array_equal(weights, np.float32([2, 1, 1, 1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(pos_weights(torch.tensor(TRAINING)), np.float32([3, 3, 1]))


def test_class_weights():
    from sklearn.utils.class_weight import compute_class_weight

    grades = np.array([0, 0, 0, 1, 2, 2, NAN, -1])
    np.testing.assert_array_equal(class_weights(grades, 3), np.ones(3, np.float32))
    balanced = compute_class_weight("balanced", classes=np.arange(3), y=grades[:6])
    np.testing.assert_allclose(class_weights(grades, 3, "inverse"), balanced, rtol=1e-6)
    rare = [(1 - 0.9) / (1 - 0.9**n) for n in (3, 1, 2)]
    expected = [value / average(rare) for value in rare]
    np.testing.assert_allclose(class_weights(torch.tensor(grades[:, None]), 3, "effective", 0.9), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["inverse", "effective"])
def test_weights_of_classes_that_are_not_there(kind):
    with pytest.warns(UserWarning, match="class 1, 3 is not in the training set; its weight is 1"):
        weights = class_weights(np.array([0, 2, 2]), 4, kind)
    np.testing.assert_array_equal(weights[[1, 3]], 1)
    assert weights[0] > weights[2]
    with pytest.warns(UserWarning, match="class 0, 1"):
        np.testing.assert_array_equal(class_weights(np.array([NAN]), 2, kind), 1)


def test_losses_take_what_the_weights_give():
    loss = MaskedBCELoss(pos_weights(np.array([[1, 0], [0, 1], [0, 1]])))
    torch.testing.assert_close(loss.pos_weight, torch.tensor([2, 0.5], dtype=torch.float64))
    assert MaskedCrossEntropyLoss(class_weights(np.array([0, 1, 1]), 2, "inverse")).class_weight[0] == 1.5


FAULTS = [
    (lambda: MaskedBCELoss()(torch.zeros(2, 3), torch.zeros(2, 2)), r"targets \(2, 2\) do not fit logits \(2, 3\)"),
    (lambda: MaskedBCELoss([1, 2])(torch.zeros(2, 3), torch.zeros(2, 3)), "pos_weight: 2 factors for 3 classes"),
    (lambda: MaskedBCELoss([1, 0]), "pos_weight: every factor must be above 0"),
    (lambda: MaskedBCELoss([1, NAN]), "pos_weight: every factor must be above 0"),
    (lambda: WeightedCELoss(np.zeros((3, 2))), "no known positive or no known negative"),
    (
        lambda: WeightedCELoss(np.eye(2), per_class=True)(torch.zeros(1, 3), torch.zeros(1, 3)),
        "labels of 2 classes, but the network has 3",
    ),
    (lambda: FocalLoss(gamma=-1), "gamma -1: must be 0 or above"),
    (lambda: FocalLoss(alpha=2), "alpha 2: must be from 0 to 1"),
    (lambda: MaskedCrossEntropyLoss(label_smoothing=1), "label_smoothing 1: must be at least 0 and below 1"),
    (lambda: MaskedCrossEntropyLoss()(torch.zeros(2, 3), torch.zeros(2, 3)), "one class per image"),
    (lambda: MaskedCrossEntropyLoss([1, -1]), "class_weight: every factor must be above 0"),
    (lambda: class_weights(np.array([0, 1]), 2, "sqrt"), "class weights 'sqrt': known are none, inverse, effective"),
    (lambda: class_weights(np.array([0, 2]), 2, "inverse"), "whole numbers from 0 to 1, or blank"),
    (lambda: class_weights(np.array([0, 0.5]), 2), "whole numbers from 0 to 1, or blank"),
    (lambda: class_weights(np.array([0, 1]), 2, "effective", 1.0), r"beta 1\.0: must be at least 0 and below 1"),
]


@pytest.mark.parametrize(("fault", "words"), FAULTS)
def test_faults(fault, words):
    with pytest.raises(CxrError, match=words):
        fault()
