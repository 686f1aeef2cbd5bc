"""Losses and memories against loops in Python's own floats, and on two ranks against one."""

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.losses import BarlowTwinsLoss, CosineLoss, MemoryContrastLoss, SelfDistillationLoss
from cxrmonai.networks.memory import InstanceBank, KeyQueue, make_memories
from cxrmonai.networks.momentum import MomentumCopy


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def by_the_paper(queries, positives, negatives, own, temperature):
    """−log of the softmax at the positive, one query at a time; `own` (B, K) are left out."""
    total = 0.0
    for query, positive, mine in zip(queries.tolist(), positives.tolist(), own.tolist(), strict=True):
        near = math.exp(cosine(query, positive) / temperature)
        far = [cosine(query, each) for each, left_out in zip(negatives.tolist(), mine, strict=True) if not left_out]
        total -= math.log(near / (near + sum(math.exp(each / temperature) for each in far)))
    return total / len(queries)


def output_of(queries=1, count=4, size=3, jigsaw=False):
    made = {
        "query": numbers(queries, count, size, seed=1).requires_grad_(),
        "key": numbers(queries, count, size, seed=2),
    }
    return {**made, "jigsaw": numbers(count, size, seed=3)} if jigsaw else made


ROWS = torch.tensor([4, 7, 2, 9])


def filled_queue(size=6):
    queue = KeyQueue(size, 3).double()
    queue.update(torch.tensor([7, 1, 2]), numbers(3, 3, seed=5))
    return queue


def test_queue_loss_follows_the_paper():
    queue, output = filled_queue(), output_of()
    own = torch.zeros(4, 6, dtype=torch.bool)
    own[1, 0] = own[2, 2] = True  # rows 7 and 2 lie at places 0 and 2
    expected = by_the_paper(output["query"][0], output["key"][0], queue.keys, own, 0.2)
    loss = MemoryContrastLoss([queue], 0.2)
    assert loss(output, ROWS).item() == pytest.approx(expected, rel=1e-12)
    better = [
        all(cosine(q, p) > cosine(q, n) for n, mine in zip(queue.keys.tolist(), row, strict=True) if not mine)
        for q, p, row in zip(output["query"][0].tolist(), output["key"][0].tolist(), own.tolist(), strict=True)
    ]
    assert loss.accuracy.item() == pytest.approx(np.mean(better))


def test_gradient_is_that_of_the_value():
    output = output_of()
    loss = MemoryContrastLoss([filled_queue()], 0.2)
    loss(output, ROWS).backward()
    step = 1e-6
    for place in [(0, 0, 0), (0, 3, 2)]:
        values = []
        for sign in (1, -1):
            moved = output["query"].detach().clone()
            moved[place] += sign * step
            values.append(loss({**output, "query": moved}, ROWS).item())
        slope = (values[0] - values[1]) / (2 * step)
        assert output["query"].grad[place].item() == pytest.approx(slope, abs=1e-8)
        assert abs(slope) > 1e-4


def bank_of(rows=range(10)):
    return InstanceBank(list(rows), 3).double()


def test_bank_loss_compares_with_what_is_remembered_and_ignores_the_keys():
    bank, output = bank_of(), output_of()
    own = torch.arange(10) == ROWS[:, None]
    expected = by_the_paper(output["query"][0], bank.embeddings[ROWS], bank.embeddings, own, 0.07)
    loss = MemoryContrastLoss([bank], 0.07)
    assert loss(output, ROWS).item() == pytest.approx(expected, rel=1e-12)
    assert loss({**output, "key": 0 * output["key"]}, ROWS).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_jigsaw_is_mixed_in(weight):
    bank, output = bank_of(), output_of(jigsaw=True)
    own = torch.arange(10) == ROWS[:, None]
    whole, pieces = (
        by_the_paper(each, bank.embeddings[ROWS], bank.embeddings, own, 0.1)
        for each in (output["query"][0], output["jigsaw"])
    )
    value = MemoryContrastLoss([bank], 0.1, jigsaw_weight=weight)(output, ROWS).item()
    assert value == pytest.approx((1 - weight) * whole + weight * pieces, rel=1e-12)


def test_two_views_are_compared_with_the_other_views_memory():
    """CMC: query 0 (view 1) is near to key 0 (view 2), so that memory 0 remembers view 2; the losses are summed."""
    views = numbers(2, 4, 3, seed=1)
    output = {"query": views, "key": views.flip(0)}
    banks = [bank_of(), bank_of()]
    banks[1].embeddings.copy_(banks[1].embeddings.flip(0))
    own = torch.arange(10) == ROWS[:, None]
    expected = sum(by_the_paper(views[k], banks[k].embeddings[ROWS], banks[k].embeddings, own, 0.1) for k in range(2))
    loss = MemoryContrastLoss(banks, 0.1)
    assert loss(output, ROWS).item() == pytest.approx(expected, rel=1e-12)
    before = banks[0].embeddings.clone()
    loss.update(output, ROWS)
    moved = before[ROWS] / 2 + torch.nn.functional.normalize(views[1], dim=1) / 2
    torch.testing.assert_close(banks[0].embeddings[ROWS], torch.nn.functional.normalize(moved, dim=1))


def test_cosine_loss_is_symmetric_and_follows_byol():
    output = output_of(queries=2)
    query, key = output["query"].tolist(), output["key"].tolist()
    expected = sum(np.mean([2 - 2 * cosine(query[v][k], key[v][k]) for k in range(4)]) for v in range(2))
    loss = CosineLoss()
    assert loss(output, ROWS).item() == pytest.approx(expected, rel=1e-12)
    swapped = {name: value.flip(0) for name, value in output.items()}
    assert loss(swapped, ROWS).item() == pytest.approx(expected, rel=1e-12)
    simsiam = -sum(np.mean([cosine(query[v][k], key[v][k]) for k in range(4)]) for v in range(2)) / 2
    assert loss(output, ROWS).item() / 4 - 1 == pytest.approx(simsiam, rel=1e-12)


def test_barlow_twins_follows_the_paper():
    output = output_of(queries=2, count=6)
    first, second = output["query"].detach().numpy()
    correlation = [
        [np.corrcoef(first[:, i], second[:, j])[0, 1] for j in range(3)] for i in range(3)
    ]  # fmt: skip
    expected = sum((1 - correlation[i][i]) ** 2 for i in range(3))
    expected += 0.01 * sum(correlation[i][j] ** 2 for i in range(3) for j in range(3) if i != j)
    loss = BarlowTwinsLoss(0.01)
    assert loss(output, ROWS).item() == pytest.approx(expected, rel=1e-9)
    swapped = {**output, "query": output["query"].flip(0)}
    assert loss(swapped, ROWS).item() == pytest.approx(expected, rel=1e-9)
    with pytest.raises(CxrError, match="batch_size 1"):
        loss(output_of(queries=2, count=1), ROWS[:1])


def test_self_distillation_follows_dino():
    output = output_of(queries=2)
    loss = SelfDistillationLoss(3, temperature=0.1, key_temperature=0.05, centre_decay=0.9).double()
    loss.centre.copy_(numbers(3, seed=9))

    def softmax(values):
        total = sum(math.exp(value) for value in values)
        return [math.exp(value) / total for value in values]

    terms = []
    for view in range(2):
        for query, key in zip(output["query"][view].tolist(), output["key"][view].tolist(), strict=True):
            wanted = softmax([(k - c) / 0.05 for k, c in zip(key, loss.centre.tolist(), strict=True)])
            given = softmax([q / 0.1 for q in query])
            terms.append(-sum(w * math.log(g) for w, g in zip(wanted, given, strict=True)))
    assert loss(output, ROWS).item() == pytest.approx(np.mean(terms), rel=1e-10)
    before = loss.centre.clone()
    loss.update(output, ROWS)
    expected = 0.9 * before.numpy() + 0.1 * output["key"].numpy().reshape(-1, 3).mean(0)
    np.testing.assert_allclose(loss.centre.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    output = {name: value.detach().to(dtype) for name, value in output_of(queries=2).items()}
    for loss in (
        MemoryContrastLoss([filled_queue().float(), filled_queue().float()], 0.01), CosineLoss(), BarlowTwinsLoss(),
        SelfDistillationLoss(3),
    ):  # fmt: skip
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(output, ROWS)
        assert value.dtype == torch.float32
        assert value.isfinite()
        loss.update(output, ROWS)
        assert all(buffer.dtype in (torch.float32, torch.int64) for buffer in loss.buffers())


def test_accuracy_without_a_memory_is_of_the_batch():
    queries = torch.eye(4)[None]
    loss = CosineLoss()
    loss({"query": queries, "key": queries + 0.1}, ROWS)
    assert loss.accuracy == 1
    loss({"query": queries, "key": queries.roll(1, 1)}, ROWS)
    assert loss.accuracy == 0


def test_a_memory_of_another_size_is_refused_in_words():
    state = MemoryContrastLoss([filled_queue(6)]).state_dict()
    with pytest.raises(CxrError, match="memory of another size"):
        MemoryContrastLoss([filled_queue(5)]).load_state_dict(state)


def test_faults():
    with pytest.raises(CxrError, match="temperature 0"):
        MemoryContrastLoss([], 0)
    with pytest.raises(CxrError, match="jigsaw_weight 2"):
        MemoryContrastLoss([], jigsaw_weight=2)


class TinyNetwork(nn.Module):
    """What a `JointEmbeddingNetwork` puts out, without batch norms, which would not be those of the joined batch."""

    def __init__(self, momentum):
        super().__init__()
        torch.manual_seed(3)
        self.online = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4)).double()
        self.momentum = MomentumCopy(self.online, 0.9) if momentum else None

    def forward(self, images):
        query = self.online(images)
        key = query.detach() if self.momentum is None else self.momentum(images)
        return {"query": query.unflatten(0, (2, -1)), "key": key.unflatten(0, (2, -1)).flip(0)}


LOSSES = {
    "queue": lambda: MemoryContrastLoss(make_memories("queue", range(24), 4, count=2, queue_size=10), 0.2),
    "bank": lambda: MemoryContrastLoss(make_memories("bank", range(24), 4, count=2), 0.2),
    "cosine": CosineLoss,
    "barlow": BarlowTwinsLoss,
    "dino": lambda: SelfDistillationLoss(4),
}


def train(name, rank=0, world=1):
    """Three updates on batches of 8; rank r of R takes every R-th image, as `EpochSampler` shares them out."""
    network = TinyNetwork(momentum=name in ("queue", "cosine", "dino"))
    wrapped = nn.parallel.DistributedDataParallel(network) if world > 1 else network
    loss = LOSSES[name]().double()
    optimizer = torch.optim.SGD(network.online.parameters(), lr=0.1)
    for step in range(3):
        rows = torch.arange(8 * step, 8 * step + 8)[rank::world]
        views = numbers(2, 24, 5, seed=7)[:, rows]
        output = wrapped(views.flatten(0, 1))
        optimizer.zero_grad()
        loss(output, rows).backward()
        optimizer.step()
        loss.update(output, rows)
        if network.momentum is not None:
            network.momentum.move(network.online)
    return {**network.state_dict(), **{f"loss.{key}": value for key, value in loss.state_dict().items()}}


def _rank(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=world)
    torch.save({name: train(name, rank, world) for name in LOSSES}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_learn_and_remember_as_one(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.multiprocessing.start_processes(_rank, (2, str(tmp_path)), nprocs=2, start_method="fork")
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name in LOSSES:
        alone = train(name)
        begun = TinyNetwork(momentum=False).state_dict()
        assert max((alone[key] - value).abs().max() for key, value in begun.items()) > 1e-3
        for rank in ranks:
            assert rank[name].keys() == alone.keys()
            for key, value in alone.items():
                torch.testing.assert_close(rank[name][key], value, rtol=0, atol=1e-12, msg=f"{name}: {key}")
