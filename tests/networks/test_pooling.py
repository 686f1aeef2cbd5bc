import math

import pytest
import torch

from cxrmonai.errors import CxrError
from cxrmonai.networks.pooling import PCAMPooling, class_scores, make_pooling, pooled_size


def maps_of(shape=(2, 3, 4, 5), seed=0, scale=2.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def average(values):
    return sum(values) / len(values)


def exponential(values):
    return sum(x * math.exp(x) for x in values) / sum(math.exp(x) for x in values)


def linear(values):
    return sum(x * x for x in values) / (sum(values) + 1e-7)


def smooth(gamma):
    return lambda values: math.log(average([math.exp(gamma * x) for x in values])) / gamma


PLAIN = {
    "AVG": [average],
    "MAX": [max],
    "EXP": [exponential],
    "LINEAR": [linear],
    "LSE": [smooth(3.0)],
    "AVG_MAX": [average, max],
    "AVG_MAX_LSE": [average, max, smooth(3.0)],
}


@pytest.mark.parametrize("name", PLAIN)
def test_each_pooling_against_plain_sums(name):
    maps = maps_of().abs() if name == "LINEAR" else maps_of()
    pooled = make_pooling(name, lse_gamma=3.0)(maps)
    expected = [[f(maps[b, c].flatten().tolist()) for f in PLAIN[name] for c in range(3)] for b in range(2)]
    torch.testing.assert_close(pooled, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-13)
    assert pooled.shape[1] == pooled_size(name, 3)


@pytest.mark.parametrize("name", PLAIN)
def test_gradients(name):
    maps = maps_of((1, 2, 2, 3), seed=1).requires_grad_()
    assert torch.autograd.gradcheck(make_pooling(name), maps)


def test_linear_pooling_of_negative_values_lies_between_zero_and_the_maximum():
    """The published formula divides by the sum, which may vanish."""
    maps = torch.tensor([[-1.0, 1.0, -3.0, 2.0], [-1.0, -2.0, -3.0, -0.5]], dtype=torch.float64).reshape(1, 2, 2, 2)
    assert abs(linear([-1.0, 1.0, -2.0, 2.0])) > 1e6
    pooled = make_pooling("LINEAR")(maps)
    torch.testing.assert_close(pooled, torch.tensor([[5 / 3, 0]], dtype=torch.float64), rtol=1e-6, atol=0)


def test_lse_tends_to_the_mean_and_to_the_maximum():
    maps = maps_of()
    torch.testing.assert_close(make_pooling("LSE", 1e-6)(maps), maps.mean((2, 3)), rtol=0, atol=1e-4)
    torch.testing.assert_close(make_pooling("LSE", 1e5)(maps), maps.amax((2, 3)), rtol=0, atol=1e-4)


def pcam_by_loops(maps, weight, bias):
    batch, channels, height, width = maps.shape
    places = [(i, j) for i in range(height) for j in range(width)]
    pooled = torch.zeros(batch, len(weight), channels, dtype=torch.float64)
    for b in range(batch):
        for k in range(len(weight)):
            score = {p: float((weight[k] * maps[b, :, p[0], p[1]]).sum() + bias[k]) for p in places}
            chance = {p: 1 / (1 + math.exp(-s)) for p, s in score.items()}
            for p in places:
                pooled[b, k] += chance[p] / sum(chance.values()) * maps[b, :, p[0], p[1]]
    return pooled


def test_pcam_against_loops():
    maps, weight, bias = maps_of(), maps_of((4, 3), seed=1), maps_of((4,), seed=2)
    torch.testing.assert_close(PCAMPooling()(maps, weight, bias), pcam_by_loops(maps, weight, bias), rtol=1e-12, atol=0)
    tiny = maps_of((1, 2, 2, 2)).requires_grad_(), weight[:2, :2].clone().requires_grad_(), bias[:2].requires_grad_()
    assert torch.autograd.gradcheck(PCAMPooling(), tiny)


def test_pcam_where_every_probability_vanishes():
    maps = torch.ones(1, 1, 2, 2, requires_grad=True)
    pooled = PCAMPooling()(maps, torch.tensor([[-300.0]]), torch.zeros(1))
    pooled.sum().backward()
    assert pooled.item() == 1
    assert maps.grad.isfinite().all()


def test_class_scores_are_a_linear_layer_at_each_position():
    maps, weight, bias = maps_of(), maps_of((4, 3), seed=1), maps_of((4,), seed=2)
    expected = torch.nn.functional.linear(maps.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)
    torch.testing.assert_close(class_scores(maps, weight, bias), expected)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_pooled_in_float32(name, dtype):
    maps = (300 + maps_of()).to(dtype)
    pooled = make_pooling(name)(maps)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled.double(), make_pooling(name)(maps.double()), rtol=1e-5, atol=0)


def test_faults():
    with pytest.raises(CxrError, match=r"pooling 'MEAN': known are AVG, .*PCAM, NATIVE"):
        make_pooling("MEAN")
    for gamma in (0, -1, math.nan, math.inf):
        with pytest.raises(CxrError, match=r"lse_gamma .*: must be above 0"):
            make_pooling("LSE", gamma)
