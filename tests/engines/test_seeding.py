import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.transforms import Compose, RandGaussianNoised, RandShiftIntensityd

from cxrmonai import distributed
from cxrmonai.engines import EpochSeed, seed_everything


def make_transform():
    return Compose([RandShiftIntensityd("image", offsets=1.0, prob=1.0), RandGaussianNoised("image", prob=1.0)])


def draw(transforms=()):
    """What every generator gives next."""
    numbers = [random.random(), np.random.random(), torch.rand(()).item()]  # noqa: NPY002
    return numbers + [transform({"image": torch.zeros(1, 4, 4)})["image"].sum().item() for transform in transforms]


def at_epoch(epoch, seed=0, transforms=None, **options):
    transforms = [make_transform(), make_transform()] if transforms is None else transforms
    EpochSeed(seed, transforms, **options)(SimpleNamespace(state=SimpleNamespace(epoch=epoch)))
    return draw(transforms)


def test_is_a_function_of_seed_and_epoch_and_of_nothing_before():
    first = at_epoch(3, seed=5)
    used = [make_transform(), make_transform()]
    draw(used)
    draw(used)
    assert at_epoch(3, seed=5, transforms=used) == first
    for other in (at_epoch(4, seed=5), at_epoch(3, seed=6), at_epoch(5, seed=3)):
        assert all(a != b for a, b in zip(first, other, strict=True))


def test_two_transforms_draw_differently():
    *_, first, second = at_epoch(1)
    assert first != second


def test_ranks_draw_differently(monkeypatch):
    first = at_epoch(1)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert all(a != b for a, b in zip(first, at_epoch(1), strict=True))


def test_every_epoch_off_repeats_the_transforms_and_leaves_the_global_generators():
    seed_everything(0)
    undisturbed = draw()
    seed_everything(0)
    first = at_epoch(1, every_epoch=False)
    assert first[:3] == undisturbed
    assert at_epoch(2, every_epoch=False)[3:] == first[3:]
    assert at_epoch(2, seed=1, every_epoch=False)[3:] != first[3:]


def test_every_epoch_off_is_the_same_on_all_ranks(monkeypatch):
    first = at_epoch(1, every_epoch=False)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert at_epoch(1, every_epoch=False)[3:] == first[3:]


@pytest.mark.parametrize(("every_epoch", "expected"), [(True, [1, 2, 3]), (False, [0, 0, 0])])
def test_sampler_hears_of_the_epoch_before_the_loader_is_read(every_epoch, expected):
    class Loader:
        def __init__(self):
            self.epoch, self.read_at = None, []

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            self.read_at.append(self.epoch)
            return iter([0, 1])

        def __len__(self):
            return 2

    loader = Loader()
    engine = Engine(lambda *_: None)
    EpochSeed(0, sampler=loader, every_epoch=every_epoch).attach(engine)
    engine.run(loader, max_epochs=3)
    assert loader.read_at == expected


def test_seed_everything():
    seed_everything(2**32 + 1)  # more than NumPy's global generator takes
    first = draw()
    seed_everything(2**32 + 1)
    assert draw() == first
    seed_everything(2)
    assert all(a != b for a, b in zip(first, draw(), strict=True))
