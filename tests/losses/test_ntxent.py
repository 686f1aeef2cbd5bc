import math

import numpy as np
import pytest
import torch
import torch.distributed as dist

from cxrmonai.errors import CxrError
from cxrmonai.losses import NTXentLoss


def by_the_paper(embeddings, temperature):
    """Chen et al., 2020, equation 1 and algorithm 1, loop by loop in Python's own floats."""
    rows = embeddings.tolist()
    count = len(rows)

    def similarity(a, b):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))

    total = 0.0
    for i in range(count):
        j = (i + count // 2) % count
        denominator = sum(math.exp(similarity(rows[i], rows[k]) / temperature) for k in range(count) if k != i)
        total -= math.log(math.exp(similarity(rows[i], rows[j]) / temperature) / denominator)
    return total / count


def embeddings_of(count, size, seed=0, dtype=torch.float64):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("pairs", [2, 3, 8])
@pytest.mark.parametrize("size", [2, 7])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_value_and_gradient_follow_the_paper(pairs, size, temperature):
    embeddings = embeddings_of(2 * pairs, size, seed=pairs).requires_grad_()
    loss = NTXentLoss(temperature)(embeddings)
    assert loss.item() == pytest.approx(by_the_paper(embeddings, temperature), rel=1e-12)
    loss.backward()
    assert embeddings.grad.abs().max() > 1e-6
    step = 1e-6
    for i, k in [(0, 0), (pairs, size - 1), (2 * pairs - 1, 0)]:
        up, down = embeddings.detach().clone(), embeddings.detach().clone()
        up[i, k] += step
        down[i, k] -= step
        slope = (by_the_paper(up, temperature) - by_the_paper(down, temperature)) / (2 * step)
        assert embeddings.grad[i, k].item() == pytest.approx(slope, abs=1e-8)


def test_swapping_the_views_changes_nothing():
    embeddings = embeddings_of(12, 5)
    first, second = embeddings.chunk(2)
    assert NTXentLoss()(torch.cat([second, first])).item() == pytest.approx(NTXentLoss()(embeddings).item(), rel=1e-14)
    assert NTXentLoss()(torch.cat([first, second.flip(0)])).item() != pytest.approx(NTXentLoss()(embeddings).item())


def test_length_of_embeddings_does_not_matter():
    embeddings = embeddings_of(8, 5)
    scaled = embeddings * torch.linspace(0.01, 100, 8, dtype=torch.float64)[:, None]
    assert NTXentLoss()(scaled).item() == pytest.approx(NTXentLoss()(embeddings).item(), rel=1e-12)


@pytest.mark.parametrize("pairs", [2, 16])
def test_equals_monai(pairs):
    from monai.losses import ContrastiveLoss  # here, so that the processes below need not import MONAI

    embeddings = embeddings_of(2 * pairs, 6, dtype=torch.float32)
    theirs = ContrastiveLoss(temperature=0.3)(*embeddings.chunk(2))
    assert NTXentLoss(0.3)(embeddings).item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    embeddings = (30 * embeddings_of(64, 16)).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = NTXentLoss(0.01)(embeddings)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(NTXentLoss(0.01)(embeddings.detach().double()).item(), rel=1e-4)
    assert embeddings.grad.dtype == dtype
    assert embeddings.grad.isfinite().all()


def test_identical_embeddings_are_finite():
    embeddings = torch.ones(8, 4, requires_grad=True)
    loss = NTXentLoss(0.01)(embeddings)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(7), rel=1e-5)
    assert embeddings.grad.isfinite().all()


def test_single_pair_has_nothing_to_be_told_from():
    embeddings = embeddings_of(2, 4).requires_grad_()
    loss = NTXentLoss()(embeddings)
    loss.backward()
    assert loss.item() == 0
    assert (embeddings.grad == 0).all()


def test_faults():
    with pytest.raises(CxrError, match="5 embeddings"):
        NTXentLoss()(torch.zeros(5, 3))
    with pytest.raises(CxrError, match=r"temperature 0.*above 0"):
        NTXentLoss(0)


def make_network():
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 4)).double()


def views_of(count):
    return embeddings_of(count, 6, seed=1), embeddings_of(count, 6, seed=2)


def _rank(rank, world, folder, count):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=world)
    network = torch.nn.parallel.DistributedDataParallel(make_network())
    mine = slice(rank * count // world, (rank + 1) * count // world)
    batch = torch.cat([view[mine] for view in views_of(count)])
    together = NTXentLoss(0.2)(network(batch))
    together.backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    alone = NTXentLoss(0.2, gather=False)(network(batch))
    torch.save({"loss": together.detach(), "alone": alone.detach(), "grads": gradients}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_equal_one_on_the_joined_batch(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    count, world = 10, 2
    torch.multiprocessing.spawn(_rank, (world, str(tmp_path), count), nprocs=world)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]
    network = make_network()
    loss = NTXentLoss(0.2)(network(torch.cat(views_of(count))))
    loss.backward()
    assert np.mean([rank["loss"].item() for rank in ranks]) == pytest.approx(loss.item(), abs=1e-12)
    for k, parameter in enumerate(network.parameters()):
        assert parameter.grad.abs().max() > 1e-4
        for rank in ranks:
            torch.testing.assert_close(rank["grads"][k], parameter.grad, rtol=0, atol=1e-12)
    for rank, part in zip(ranks, (slice(0, 5), slice(5, 10)), strict=True):
        expected = NTXentLoss(0.2)(network(torch.cat([view[part] for view in views_of(count)])))
        assert rank["alone"].item() == pytest.approx(expected.item(), abs=1e-12)
