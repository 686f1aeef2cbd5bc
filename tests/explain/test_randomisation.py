"""The sanity check: what it re-initialises, what it compares, and whom it flags."""

import numpy as np
import pytest
import torch
from linear_models import as_floats, as_is
from scipy.stats import rankdata
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.explain.faithfulness import Items
from cxrmonai.explain.pixels import PixelClassifier
from cxrmonai.explain.randomisation import (
    cascade,
    randomisation_check,
    randomised,
    similarity,
    untrained_like,
)
from cxrmonai.networks import Classifier
from cxrmonai.report.faithfulness import summarise_check


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(7)
    made = Classifier(["A", "B"], encoder="resnet10t", image_size=32, attention="CAM").eval()
    with torch.no_grad():  # as if trained: no value is that of an initialisation
        for value in made.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.rand_like(value))
    return made


def test_cascade_goes_from_the_head_to_the_stem_and_leaves_nothing_out(network):
    parts = cascade(network)
    assert [label for label, _ in parts] == ["head", "attention", "stage 4", "stage 3", "stage 2", "stage 1", "stem"]
    keys = [key for _, part in parts for key in part]
    assert len(keys) == len(set(keys))
    assert {name for name, _ in network.named_parameters()} <= set(keys)
    assert {name for name, _ in network.named_buffers() if "running" in name} <= set(keys)
    assert all(key.startswith("encoder.layer4.") for key in dict(parts)["stage 4"])


def test_cascade_of_other_modules_goes_layer_by_layer():
    layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    assert [label for label, _ in cascade(layers)] == ["4", "1", "0"]
    assert "1.running_mean" in dict(cascade(layers))["1"]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "densenet121", "convnext_atto"])
def test_cascade_covers_other_encoders(name):
    other = Classifier(["A"], encoder=name, image_size=64)
    keys = [key for _, part in cascade(other) for key in part]
    assert len(keys) == len(set(keys))
    assert {name for name, _ in other.named_parameters()} <= set(keys)


def test_each_step_replaces_one_more_part(network):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fresh = untrained_like(network, seed=1)
    done = set()
    for (label, changed), (expected, keys) in zip(randomised(network, fresh), cascade(network), strict=True):
        assert label == expected
        done |= set(keys)
        for key, value in changed.state_dict().items():
            source = fresh.state_dict() if key in done else before
            assert torch.equal(value, source[key]), (label, key)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_untrained_is_of_the_seed_and_leaves_the_generator(network):
    torch.manual_seed(3)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    one, same, other = (untrained_like(network, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), drawn)
    assert all(torch.equal(one.state_dict()[key], value) for key, value in same.state_dict().items())
    assert not torch.equal(one.head.weight, other.head.weight)
    assert one.settings == network.settings
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    assert not torch.equal(untrained_like(plain)[0].weight, plain[0].weight)

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

    with pytest.raises(CxrError, match="no reset_parameters"):
        untrained_like(nn.Sequential(Bare()))


def test_similarity():
    random = np.random.default_rng(0)
    one = random.uniform(size=(16, 16))
    assert similarity(one, one) == {"spearman": pytest.approx(1), "ssim": pytest.approx(1)}
    assert similarity(one, one**3)["spearman"] == pytest.approx(1)
    other = np.round(random.uniform(size=(16, 16)), 1)  # with ties
    ranks = np.corrcoef(rankdata(one), rankdata(other))[0, 1]
    assert similarity(one, other)["spearman"] == pytest.approx(ranks)
    assert similarity(one, np.zeros((16, 16)))["spearman"] == 0


def edges(network, images, finding):
    """An edge detector, which looks at the image and at no network."""
    change = images.diff(dim=3, append=images[..., -1:]).abs() + images.diff(dim=2, append=images[:, :, -1:]).abs()
    return (change / change.amax(dim=(1, 2, 3), keepdim=True))[:, 0]


def gradient(network, images, finding):
    images = images.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(network(images)[:, finding].sum(), images)
    slope = slope.abs()
    return (slope / slope.amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12))[:, 0]


@pytest.mark.parametrize(("method", "passes"), [(edges, False), (gradient, True)])
def test_who_ignores_the_network_is_flagged(network, small_phantom, method, passes):
    def halved(batch):
        return {"image": nn.functional.avg_pool2d(as_floats(batch)["image"], 2)}

    classifier = PixelClassifier(network, halved, as_is)
    items = Items(np.array([1, 5, 8, 12, 20]), np.array([0, 1, 0, 1, 0]))
    rows = randomisation_check(classifier, untrained_like(network), small_phantom, items, method, batch_size=2)
    assert [label for label, _ in rows] == ["other images", *(label for label, _ in cascade(network))]
    assert all(len(values) == 5 for _, part in rows for values in part.values())
    summary = summarise_check(rows, np.array(["a", "b", "c", "d", "e"]), resamples=100)
    assert summary["passed"] is passes
    assert ("FLAGGED" in summary["verdict"]) is not passes
    last = summary["cascade"][-1]
    assert last["randomised_down_to"] == "stem"
    if not passes:
        assert last["spearman"] == pytest.approx(1)
        assert last["ssim"] == pytest.approx(1)
        assert summary["other_images"]["spearman"] < 0.95
