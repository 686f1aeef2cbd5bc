import numpy as np
import pytest
import torch
from torch import nn

from cxrmonai.networks.momentum import MomentumCopy


def make_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double()


def numbers(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def test_weights_and_statistics_follow_by_the_formula():
    network, copy = make_network(), MomentumCopy(make_network(), 0.9)
    expected = None
    for step in range(30):
        with torch.no_grad():
            for weight in network.parameters():
                weight += 0.1 * torch.randn_like(weight)
        network(torch.randn(8, 3, dtype=torch.float64))
        copy.move(network)
        stays = 0 if step == 0 else min(0.9, (1 + step) / (10 + step))
        now = {name: value.numpy() for name, value in numbers(network).items()}
        expected = now if expected is None else {
            name: value if name.endswith("tracked") else stays * expected[name] + (1 - stays) * value
            for name, value in now.items()
        }  # fmt: skip
        for name, value in numbers(copy.copy).items():
            np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-10, atol=1e-12, err_msg=name)
    assert copy.moves == 30
    assert not torch.equal(copy.copy[1].running_mean, network[1].running_mean)


def test_never_learns_and_what_it_says_of_an_image_depends_on_no_other():
    network = make_network()
    copy = MomentumCopy(network, 0.9).train()
    before = numbers(copy)
    images = torch.randn(6, 3, dtype=torch.float64)
    together = copy(images)
    assert not together.requires_grad
    assert not any(weight.requires_grad for weight in copy.parameters())
    assert all(weight.requires_grad for weight in network.parameters())
    torch.testing.assert_close(copy(images[:1]), together[:1])
    assert all(torch.equal(value, before[name]) for name, value in numbers(copy).items())


def test_aligning_makes_it_equal():
    network, copy = make_network(), MomentumCopy(make_network(), 0.9)
    with torch.no_grad():
        network[0].weight += 1
        network[1].running_var += 1
    copy.align(network)
    assert all(torch.equal(value, numbers(copy.copy)[name]) for name, value in numbers(network).items())


def test_state_goes_on_exactly():
    network, first = make_network(), MomentumCopy(make_network(), 0.5)
    first.move(network)
    second = MomentumCopy(make_network(), 0.5)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        network[0].weight *= 3
    first.move(network)
    second.move(network)
    assert second.moves == 2
    assert all(torch.equal(value, numbers(second)[name]) for name, value in numbers(first).items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeps_its_type(dtype):
    network = make_network().to(dtype)
    copy = MomentumCopy(network, 0.99)
    copy.move(network)
    copy.move(network)
    assert {value.dtype for value in copy.parameters()} == {dtype}
