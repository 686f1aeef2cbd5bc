import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from cxrmonai.engines import CollapseMonitor
from cxrmonai.metrics.contrastive import deviations, effective_rank, spread


class Writer:
    def __init__(self):
        self.scalars = []

    def add_scalar(self, name, value, step):
        self.scalars.append((name, value, step))


def run(module, batches, epochs=1, **options):
    """A run that feeds batches to a module; returns the monitor and what it wrote."""
    writer = Writer()
    monitor = CollapseMonitor(module, writer, **options)
    engine = Engine(lambda _, batch: module(batch))
    monitor.attach(engine)
    engine.run(batches, max_epochs=epochs)
    return monitor, writer.scalars


def noise(count, size, seed=0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def by_hand(batches):
    rows = []
    for batch in batches:
        unit = np.array([np.array(row) / math.sqrt(sum(x * x for x in row)) for row in batch.tolist()])
        rows.append(unit - unit.mean(0))
    return np.concatenate(rows)


def test_deviations_are_from_the_mean_of_the_batch():
    batches = [noise(7, 5), noise(9, 5, 1) + 3]
    np.testing.assert_allclose(deviations([*batches, noise(1, 5)]), by_hand(batches), atol=1e-6)
    assert math.isnan(spread(deviations([noise(1, 5)])))
    assert math.isnan(effective_rank(deviations([])))


def test_spread_is_the_distance_from_the_mean_direction():
    batches = [noise(40, 5).double(), noise(20, 5, 1).double()]
    expected = math.sqrt(np.mean(np.sum(by_hand(batches) ** 2, axis=1)))
    assert spread(deviations(batches)) == pytest.approx(expected, rel=1e-12)
    assert spread(deviations([torch.cat([torch.eye(4), -torch.eye(4)])])) == pytest.approx(1)
    assert spread(deviations([torch.ones(6, 3) * torch.arange(1, 7)[:, None]])) == pytest.approx(0, abs=1e-8)


def test_effective_rank_counts_the_dimensions_in_use():
    even = torch.cat([torch.eye(5), -torch.eye(5)])
    assert effective_rank(deviations([even])) == pytest.approx(5)
    assert effective_rank(deviations([torch.cat([even, torch.zeros(10, 3)], 1)])) == pytest.approx(5)
    assert effective_rank(deviations([torch.tensor([[1.0, 0], [-1, 0], [1, 0]])])) == pytest.approx(1)
    assert effective_rank(deviations([torch.ones(6, 3)])) == 0
    values = np.linalg.svd(by_hand([noise(30, 4)]), compute_uv=False)
    share = values / values.sum()
    found = effective_rank(deviations([noise(30, 4)]))
    assert found == pytest.approx(math.exp(-sum(p * math.log(p) for p in share)), rel=1e-6)


def test_a_network_that_drifts_as_a_whole_has_collapsed_all_the_same():
    batches = [torch.eye(6)[k].repeat(8, 1) for k in range(6)]
    assert spread(deviations(batches)) == pytest.approx(0, abs=1e-12)


def test_a_collapsed_run_is_told_once(capsys):
    module = torch.nn.Linear(3, 8)
    torch.nn.init.zeros_(module.weight)
    monitor, scalars = run(module, [noise(16, 3), noise(16, 3, 1)], epochs=3)
    assert monitor.collapsed
    assert {name for name, *_ in scalars} == {"embedding/spread", "embedding/effective_rank"}
    assert [step for name, _, step in scalars if name == "embedding/spread"] == [2, 4, 6]
    (line,) = capsys.readouterr().err.splitlines()
    assert "collapsed by epoch 1" in line
    assert "of 8" in line


def test_a_run_along_one_line_has_collapsed(capsys):
    torch.manual_seed(0)
    monitor, _ = run(torch.nn.Linear(1, 8, bias=False), [noise(64, 1)])
    assert monitor.spread > 0.5
    assert monitor.collapsed
    assert "effective rank 1.0" in capsys.readouterr().err


def test_a_sound_run_is_not(capsys):
    torch.manual_seed(0)
    monitor, _ = run(torch.nn.Linear(6, 8), [noise(64, 6)])
    assert not monitor.collapsed
    assert capsys.readouterr().err == ""


def test_only_the_last_embeddings_of_training_count():
    module = torch.nn.Identity()
    monitor = CollapseMonitor(module, images=32)
    monitor.start(SimpleNamespace())
    for k in range(5):
        module(noise(16, 4, k))
    module.eval()
    module(torch.ones(16, 4))
    monitor.measure(SimpleNamespace())
    assert monitor.spread == pytest.approx(spread(deviations([noise(16, 4, 3), noise(16, 4, 4)])))


def test_measures_every_so_many_steps_and_lets_go_at_the_end():
    module = torch.nn.Linear(3, 4)
    _, scalars = run(module, [noise(8, 3, k) for k in range(5)], every=2)
    assert [step for name, _, step in scalars if name == "embedding/spread"] == [2, 4, 5]
    assert len(module._forward_hooks) == 0
