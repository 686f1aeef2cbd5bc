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


def images(count, seed=1):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_weights_follow_by_the_formula_and_statistics_are_those_of_the_keys():
    network, copy = make_network(), MomentumCopy(make_network(), 0.9)
    expected = {name: value.numpy() for name, value in numbers(network).items() if "running" not in name}
    for step in range(5):
        with torch.no_grad():
            for weight in network.parameters():
                weight += 0.1 * torch.randn_like(weight)
        network(images(8))
        keys = 1 + images(8, seed=step + 2)
        activations = copy.copy[0](keys)
        mean = 0.9 * copy.copy[1].running_mean + 0.1 * activations.mean(0)
        var = 0.9 * copy.copy[1].running_var + 0.1 * activations.var(0)
        copy(keys)
        torch.testing.assert_close(copy.copy[1].running_mean, mean)
        torch.testing.assert_close(copy.copy[1].running_var, var)
        copy.move(network)
        for name, weight in network.named_parameters():
            expected[name] = 0.9 * expected[name] + 0.1 * weight.detach().numpy()
            np.testing.assert_allclose(dict(copy.copy.named_parameters())[name].detach(), expected[name], rtol=1e-12)
        torch.testing.assert_close(copy.copy[1].running_mean, mean)
    assert copy.copy[1].num_batches_tracked == 5


def test_never_learns():
    network = make_network()
    copy = MomentumCopy(network, 0.9)
    assert not copy(images(4)).requires_grad
    assert not any(weight.requires_grad for weight in copy.parameters())
    assert all(weight.requires_grad for weight in network.parameters())


def test_keys_are_normalised_in_groups_drawn_at_random_and_come_in_order():
    copy = MomentumCopy(make_network(), 0.9)
    given = images(8)
    torch.manual_seed(5)
    found = copy(given, groups=2)
    torch.manual_seed(5)
    order = torch.randperm(8)
    assert sorted(order[:4].tolist()) not in ([0, 1, 2, 3], [4, 5, 6, 7])
    plain = make_network()
    for part in (order[:4], order[4:]):
        torch.testing.assert_close(found[part], plain(given[part]))
    assert not torch.allclose(found, make_network()(given))


@pytest.mark.parametrize(("count", "groups"), [(8, 1), (3, 4)])
def test_groups_are_not_made_smaller_than_two(count, groups):
    copy = MomentumCopy(make_network(), 0.9)
    torch.testing.assert_close(copy(images(count), groups=groups), make_network()(images(count)))


def test_nothing_is_shuffled_in_evaluation():
    copy = MomentumCopy(make_network(), 0.9).eval()
    torch.testing.assert_close(copy(images(8), groups=2)[:1], copy(images(8)[:1]))


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
    assert all(torch.equal(value, numbers(second)[name]) for name, value in numbers(first).items())
