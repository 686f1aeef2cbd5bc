"""Insertion and deletion against closed forms of a linear model."""

import numpy as np
import pytest
import torch
from linear_models import linear
from scipy.special import expit

from cxrmonai.data.store import open_store
from cxrmonai.data.tasks import make_task
from cxrmonai.errors import CxrError
from cxrmonai.explain.faithfulness import (
    Items,
    curves,
    faithfulness,
    item_table,
    make_baseline,
    mean_intervals,
    method_maps,
    pixel_ranks,
    positive_items,
)
from cxrmonai.networks import Classifier

SIZE = 8


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def some(seed=0, count=3):
    """Images, and the weights of one class."""
    random = np.random.default_rng(seed)
    images = torch.from_numpy(random.uniform(size=(count, 1, SIZE, SIZE))).float()
    return images, random.normal(size=(SIZE, SIZE))


@pytest.mark.parametrize("baseline", ["black", "blur"])
@pytest.mark.parametrize("steps", [1, 7, 64])
def test_a_linear_score_follows_the_sum_of_what_is_left(baseline, steps):
    images, weight = some()
    base = make_baseline(images, baseline, 1.0)
    share = torch.from_numpy(weight * (images - base)[:, 0].numpy())  # of each pixel in the score
    ranks = pixel_ranks(share, generator())
    found = curves(lambda x: (x[:, 0].double() * torch.from_numpy(weight)).sum((1, 2)), images, base, ranks, steps)
    np.testing.assert_allclose(found.share, np.linspace(0, 1, steps + 1))
    for place in range(len(images)):
        whole = (weight * images[place, 0].numpy()).sum()
        nothing = (weight * base[place, 0].numpy()).sum()
        ordered = np.sort(share[place].numpy().ravel())[::-1]
        gone = np.array([ordered[: round(step * 64 / steps)].sum() for step in range(steps + 1)])
        np.testing.assert_allclose(found.deletion[place], whole - gone, atol=1e-5)
        np.testing.assert_allclose(found.insertion[place], nothing + gone, atol=1e-5)
    deletion, insertion = found.areas()
    expected = [np.trapezoid(row, dx=1 / steps) if hasattr(np, "trapezoid") else None for row in found.deletion]
    np.testing.assert_allclose(deletion, expected)
    # what deletion loses insertion gains, so that the two areas add up to the score of both ends
    both = found.deletion[:, 0] + found.insertion[:, 0]
    np.testing.assert_allclose(deletion + insertion, both, rtol=1e-6)


def test_no_order_does_better_than_that_of_the_shares():
    images, weight = some(1)
    share = torch.from_numpy(weight * images[:, 0].numpy())

    def score(x):
        return (x[:, 0].double() * torch.from_numpy(weight)).sum((1, 2))

    best = curves(score, images, torch.zeros_like(images), pixel_ranks(share, generator()))
    other = curves(score, images, torch.zeros_like(images), pixel_ranks(torch.zeros_like(share), generator()))
    assert (best.areas()[0] < other.areas()[0]).all()
    assert (best.areas()[1] > other.areas()[1]).all()


def test_ranks_fall_with_the_map_and_equals_are_drawn():
    maps = torch.zeros(2, 4, 4)
    maps[:, 3, 3], maps[:, 0, 2] = 1.0, 0.5
    ranks = pixel_ranks(maps, generator())
    assert ranks[:, 3, 3].tolist() == [0, 0]
    assert ranks[:, 0, 2].tolist() == [1, 1]
    for each in ranks:
        assert sorted(each.flatten().tolist()) == list(range(16))
    assert not torch.equal(ranks[0], ranks[1])
    assert torch.equal(ranks, pixel_ranks(maps, generator()))
    places = torch.stack([pixel_ranks(maps, generator(seed))[0, 0, 0] for seed in range(300)]).float()
    assert float(places.mean()) == pytest.approx(8.5, abs=0.8)  # of 2 to 15, whatever the place


def test_positive_items_show_the_finding():
    target = np.random.default_rng(0).choice([0, 1, np.nan], (50, 3))
    rows = np.arange(10, 50)
    items = positive_items(target, rows, [2, 0], limit=5, seed=1)
    assert items.classes.tolist() == [2] * 5 + [0] * 5
    assert (target[items.rows, items.classes] == 1).all()
    assert len(set(items.rows[:5])) == 5
    assert items.rows.min() >= 10
    batches = list(items.batches(3))
    assert [(len(places), finding) for places, finding in batches] == [(3, 0), (2, 0), (3, 2), (2, 2)]
    assert (items.classes[batches[0][0]] == 0).all()
    with pytest.raises(CxrError, match="no image of the split shows"):
        positive_items(target, rows[target[rows, 1] != 1], [1], 5)


@pytest.mark.parametrize("kind", ["multilabel", "multiclass"])
def test_each_item_has_its_own_finding_and_map(small_phantom, kind):
    weight = np.random.default_rng(0).normal(size=(3, 64, 64)) / 40
    classifier = linear(weight, kind=kind)
    items = Items(np.array([4, 9, 2, 9]), np.array([2, 2, 0, 1]))

    def gradient(network, images, finding):
        assert not network.training
        return network.weight[finding] * images[:, 0]

    found, random = faithfulness(
        classifier, small_phantom, items, gradient, steps=4, random_maps=2, batch_size=2, seed=3
    )
    stored = open_store(small_phantom).images
    for place, (row, finding) in enumerate(zip(items.rows, items.classes, strict=True)):
        pixels = stored[row] / 255
        order = np.argsort(-(weight[finding] * pixels).ravel(), kind="stable")
        for step in range(5):
            left = pixels.ravel().copy()
            left[order[: round(step * 4096 / 4)]] = 0
            logits = weight.reshape(3, -1) @ left
            chance = (
                expit(logits)[finding]
                if kind == "multilabel"
                else np.exp(logits - np.log(np.exp(logits).sum()))[finding]
            )
            assert found.deletion[place, step] == pytest.approx(chance, abs=2e-4)
    np.testing.assert_allclose(random.deletion[:, 0], found.deletion[:, 0], atol=1e-6)
    np.testing.assert_allclose(random.insertion[:, -1], found.insertion[:, -1], atol=1e-6)
    table = item_table(found, random)
    assert (table["deletion_gain"] > 0).all()
    assert (table["insertion_gain"] > 0).all()
    np.testing.assert_allclose(table["deletion_gain"], table["random_deletion"] - table["deletion"])


def test_means_and_intervals_by_patient():
    random = np.random.default_rng(0)
    values = random.normal(size=30)
    patients = np.repeat([f"p{k}" for k in range(10)], 3)
    classes = np.tile([0, 1, 1], 10)
    found = mean_intervals({"area": values}, classes, ["A", "B"], patients, resamples=2000, seed=1)
    assert found["items"] == 30
    assert found["area"] == pytest.approx(values.mean())
    assert found["findings"]["B"]["items"] == 20
    assert found["findings"]["B"]["area"] == pytest.approx(values[classes == 1].mean())
    by_patient = values.reshape(10, 3)
    drawn = np.random.default_rng(2).integers(10, size=(20_000, 10))
    low, high = np.quantile(by_patient[drawn].mean(axis=(1, 2)), [0.025, 0.975])
    np.testing.assert_allclose(found["area_ci"], [low, high], atol=0.03)


def test_maps_of_a_method():
    network = Classifier(["A", "B"], encoder="resnet10t", image_size=64).eval()
    network.head.weight.data.abs_()  # so that no map of the last layer is zero
    images = torch.rand(2, 1, 64, 64, generator=generator())
    maps = method_maps("gradcam")(network, images, 1)
    assert maps.shape == (2, 64, 64)
    assert maps.min() == 0
    assert maps.max() == 1
    other = method_maps("gradcam", {"layer": "encoder.layer1"})(network, images, 1)
    assert other.shape == maps.shape
    assert not torch.equal(other, maps)
    with pytest.raises(CxrError, match="method 'tarot'"):
        method_maps("tarot")


def test_faults(small_phantom):
    images, _ = some()
    with pytest.raises(CxrError, match="baseline 'white'"):
        make_baseline(images, "white")
    with pytest.raises(CxrError, match="steps 0"):
        curves(lambda x: x.sum((1, 2, 3)), images, images, pixel_ranks(images[:, 0], generator()), 0)
    items = positive_items(make_task(small_phantom).targets, np.arange(40), [1], 2)
    with pytest.raises(CxrError, match="random_maps 0"):
        faithfulness(linear(np.ones((10, 64, 64))), small_phantom, items, lambda n, x, k: x[:, 0], random_maps=0)
