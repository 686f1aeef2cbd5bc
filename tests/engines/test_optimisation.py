"""Optimisers, schedules, averages and the range test do what their names say."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from PIL import Image
from torch import nn

from cxrmonai.engines import StepSchedule
from cxrmonai.engines.averaging import UpdateAverage, WeightAverage
from cxrmonai.engines.optimisation import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule, suggest_learning_rate
from cxrmonai.engines.range_test import find_learning_rate
from cxrmonai.errors import CxrError


class Trained:
    """A linear fit of a known line by MONAI's trainer."""

    def __init__(self, handlers=(), epochs=4, steps=5, accumulation_steps=1, network=None, optimizer=None):
        torch.manual_seed(0)
        self.network = network or nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        self.optimizer = optimizer or torch.optim.SGD(self.network.parameters(), lr=0.1)
        random = torch.Generator().manual_seed(1)
        images = [torch.rand(6, 4, generator=random) for _ in range(steps)]
        self.data = [{"image": image, "label": image.sum(1, keepdim=True)} for image in images]
        self.trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=epochs,
            train_data_loader=Loader(self.data),
            network=self.network,
            optimizer=self.optimizer,
            loss_function=nn.MSELoss(),
            prepare_batch=lambda batch, *_, **__: (batch["image"], batch["label"]),
            decollate=False,
            accumulation_steps=accumulation_steps,
            train_handlers=list(handlers),
        )


class Loader(list):
    sampler = None


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns(name):
    network = nn.Linear(4, 1)
    optimizer = make_optimizer(name, network.parameters(), 1.0 if name == "Adadelta" else 0.05)
    assert type(optimizer).__name__ == name
    run = Trained(epochs=30, network=nn.Sequential(nn.Flatten(), network), optimizer=optimizer)
    before = run.trainer.loss_function(network(run.data[0]["image"]), run.data[0]["label"]).item()
    run.trainer.run()
    after = run.trainer.loss_function(network(run.data[0]["image"]), run.data[0]["label"]).item()
    assert after < 0.5 * before


def test_options_reach_the_optimizer():
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": 0.5}, {"params": [nn.Parameter(torch.zeros(1))]}]
    optimizer = make_optimizer("SGD", groups, 0.1, weight_decay=0.01, momentum=0.8)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.1]
    assert all(group["weight_decay"] == 0.01 and group["momentum"] == 0.8 for group in optimizer.param_groups)
    assert all(group["nesterov"] for group in optimizer.param_groups)
    assert not make_optimizer("SGD", [nn.Parameter(torch.zeros(1))], 0.1, momentum=0).param_groups[0]["nesterov"]
    with pytest.raises(CxrError, match="optimizer 'Lion': known are Adam"):
        make_optimizer("Lion", groups, 0.1)


def rates(name, epochs=4, steps=5, **options):
    """Learning rate used in each update of a run."""
    used = []
    optimizer = torch.optim.SGD(nn.Linear(4, 1).parameters(), lr=0.1)
    schedule = make_schedule(name, optimizer, steps, epochs, **options)
    run = Trained([StepSchedule(schedule)], epochs, steps, optimizer=optimizer)
    run.trainer.add_event_handler(Events.ITERATION_STARTED, lambda _: used.append(optimizer.param_groups[0]["lr"]))
    # the schedule alone is of interest: the optimiser moves another network
    run.trainer.run()
    return used


def test_schedules():
    assert rates("constant") == [0.1] * 20
    np.testing.assert_allclose(rates("step", step_epochs=[1, 3], factor=0.1), [0.1] * 5 + [0.01] * 10 + [0.001] * 5)
    cosine = rates("cosine", warmup_epochs=1)
    np.testing.assert_allclose(cosine[:5], [0.0, 0.02, 0.04, 0.06, 0.08])
    np.testing.assert_allclose(cosine[5:], [0.1 * 0.5 * (1 + math.cos(math.pi * k / 15)) for k in range(15)])
    cycle = rates("one_cycle", warmup_epochs=2)
    assert max(cycle) == pytest.approx(0.1, abs=1e-3)
    assert 8 <= cycle.index(max(cycle)) <= 11
    assert cycle[0] == pytest.approx(0.1 / 25)
    assert cycle[-1] < 0.01


def test_a_plateau_is_waited_for():
    optimizer = torch.optim.SGD(nn.Linear(4, 1).parameters(), lr=0.1)
    schedule = make_schedule("plateau", optimizer, 5, 8, factor=0.5, plateau_epochs=1)
    validator, seen = Engine(lambda *_: None), []
    run = Trained(epochs=7, optimizer=optimizer)
    scores = [0.5, 0.6, 0.6, 0.6, 0.7, 0.1, 0.1]

    def validate(engine):
        seen.append(optimizer.param_groups[0]["lr"])
        validator.state.metrics["auroc"] = scores[engine.state.epoch - 1]

    run.trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    StepSchedule(schedule, validator, "auroc").attach(run.trainer)
    run.trainer.run()
    assert seen == [0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05]
    assert optimizer.param_groups[0]["lr"] == 0.025


def test_wrong_schedules():
    optimizer = torch.optim.SGD(nn.Linear(4, 1).parameters(), lr=0.1)
    with pytest.raises(CxrError, match="--step_epochs"):
        make_schedule("step", optimizer, 5, 4)
    with pytest.raises(CxrError, match=f"known are {', '.join(SCHEDULES)}"):
        make_schedule("linear", optimizer, 5, 4)


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_the_average_is_the_one_of_a_plain_loop(accumulation_steps):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    average = WeightAverage(network, 0.6)
    history = []
    run = Trained([UpdateAverage(average)], epochs=2, steps=5, accumulation_steps=accumulation_steps, network=network)
    run.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda _: history.append({k: v.clone() for k, v in network.state_dict().items()})
    )
    run.trainer.run()
    places = [k for k in range(10) if accumulation_steps == 1 or k % 5 in (1, 3, 4)]
    expected = {key: value.double() for key, value in history[places[0]].items()}
    for count, place in enumerate(places[1:], 1):
        decay = min(0.6, (1 + count) / (10 + count))
        expected = {key: decay * value + (1 - decay) * history[place][key].double() for key, value in expected.items()}
    found = average.network.state_dict()
    for key in found:
        if found[key].is_floating_point():
            np.testing.assert_allclose(found[key].double(), expected[key], rtol=1e-5, atol=1e-6)
    assert not torch.equal(found["1.weight"], network.state_dict()["1.weight"])


def test_without_decay_the_network_is_its_own_average():
    network = nn.Linear(2, 1)
    average = WeightAverage(network, 0)
    assert average.network is network
    assert average.state_dict() == {}
    average.update()
    average.load_state_dict({})


def test_an_average_goes_on_where_it_was():
    torch.manual_seed(0)
    network = nn.Linear(4, 1)
    first, second = WeightAverage(network, 0.9), WeightAverage(network, 0.9)
    engine = SimpleNamespace(state=SimpleNamespace(iteration=1, epoch_length=1), accumulation_steps=1)
    for k in range(6):
        with torch.no_grad():
            network.weight.add_(1)
        UpdateAverage(first)(engine)
        if k == 2:
            second.load_state_dict(first.state_dict())
        elif k > 2:
            UpdateAverage(second)(engine)
    torch.testing.assert_close(first.network.weight, second.network.weight)


def test_the_suggestion_is_the_steepest_fall():
    rates = [10.0**k for k in range(-6, 1)]
    assert suggest_learning_rate(rates, [1, 1, 0.9, 0.5, 0.4, 0.39, 5]) == pytest.approx(1e-3)
    with pytest.raises(CxrError, match="falls at no learning rate"):
        suggest_learning_rate(rates, [1, 2, 3, 4, 5, 6, 7])


def test_range_test_finds_a_rate_that_learns(tmp_path, capsys):
    run = Trained()
    run.trainer.data_loader.sampler = SimpleNamespace(set_epoch=lambda epoch: None)
    before = [group["lr"] for group in run.optimizer.param_groups]
    best = find_learning_rate(run.trainer, tmp_path, 1e-5, 100.0, 60)
    found = json.loads((tmp_path / "learning_rates.json").read_text())
    assert found["suggestion"] == best
    assert 1e-4 < best < 10
    assert found["rates"] == sorted(found["rates"])
    assert len(found["rates"]) == len(found["losses"]) < 60  # it ended where the loss ran away
    assert f"--learning_rate {best:.2g}" in capsys.readouterr().out
    with Image.open(tmp_path / "learning_rates.png") as picture:
        assert np.asarray(picture).std() > 0
    assert before == [0.1]
