"""Synthesis: seeds, objective, regularisers, trajectory."""

import numpy as np
import pytest
import torch
from linear_models import linear
from scipy.special import log_expit

from cxrmonai.data.store import open_store
from cxrmonai.errors import CxrError
from cxrmonai.explain.seeds import GaussianImages, start_images
from cxrmonai.explain.synthesis import maximise, total_variation, wanted_classes
from cxrmonai.networks import Classifier


def some_images(count=40, size=16, seed=0):
    """Images with a covariance: a bright square that moves, and noise."""
    random = np.random.default_rng(seed)
    images = random.normal(0.5, 0.03, (count, 1, size, size))
    images[:, :, 4:12, 4:12] += random.normal(0, 0.1, (count, 1, 1, 1))
    return torch.from_numpy(images).float()


def test_gaussian_has_mean_and_covariance_of_the_images():
    images = some_images()
    small = images.reshape(40, 4, 4, 4, 4).mean(dim=(2, 4)).reshape(40, 16).double().numpy()
    fitted = GaussianImages([images[:30], images[30:]], shrink=4)
    drawn = fitted.draw(4_000, seed=1)
    assert drawn.shape == (4_000, 1, 16, 16)
    weights = torch.randn(4_000, 40, generator=torch.Generator().manual_seed(1)) / 39**0.5
    few = (fitted.mean.flatten() + weights @ fitted.deviations).double().numpy()
    np.testing.assert_allclose(fitted.mean.flatten(), small.mean(axis=0), atol=1e-6)
    covariance = np.cov(small.T)
    np.testing.assert_allclose(few.mean(axis=0), small.mean(axis=0), atol=0.008)
    np.testing.assert_allclose(np.cov(few.T), covariance, atol=0.12 * covariance.max())
    # the middle of a small pixel's block keeps nearly all its variance when it is brought back to size
    centre = drawn[:, 0, 6:10, 6:10].reshape(4_000, -1).mean(dim=1)
    assert float(centre.std()) == pytest.approx(small.reshape(40, 4, 4)[:, 1:3, 1:3].mean(axis=(1, 2)).std(ddof=1), 0.1)


def test_gaussian_draws_are_those_of_the_seed_and_blur_smooths():
    fitted = GaussianImages([some_images(size=32)], shrink=2)
    one = fitted.draw(3, seed=5)
    assert torch.equal(one, fitted.draw(3, seed=5))
    assert not torch.equal(one, fitted.draw(3, seed=6))
    assert total_variation(fitted.draw(3, seed=5, blur=2.0)).mean() < total_variation(one).mean()
    assert one.min() >= 0
    assert one.max() <= 1


def test_starts_of_a_store(small_phantom):
    classifier = linear(np.ones((1, 64, 64)))
    store = open_store(small_phantom)
    name = store.column("image_id")[3]
    by_id = start_images(classifier, small_phantom, "image", image_id=name)
    np.testing.assert_allclose(by_id[0, 0], store.images[3] / 255, atol=1e-6)
    assert torch.equal(by_id, start_images(classifier, small_phantom, "image", row=3))
    noise = start_images(classifier, small_phantom, "noise", 50, seed=1)
    assert noise.shape == (50, 1, 64, 64)
    assert float(noise.mean()) == pytest.approx(0.5, abs=0.01)
    drawn = start_images(classifier, small_phantom, "gaussian", 2, seed=1, limit=20)
    assert torch.equal(drawn, start_images(classifier, small_phantom, "gaussian", 2, seed=1, limit=20))
    for arguments, words in (
        ({"start": "mean"}, "start 'mean'"),
        ({"start": "image"}, "name the image"),
        ({"start": "image", "row": 10_000}, "row 10000"),
        ({"start": "image", "image_id": "nobody"}, "no image 'nobody'"),
        ({"start": "noise", "row": 1}, "start is noise"),
        ({"start": "gaussian", "shrink": 0}, "shrink 0"),
    ):
        with pytest.raises(CxrError, match=words):
            start_images(classifier, small_phantom, **arguments)


def test_wanted_classes():
    names = ["Mass", "Pleural Effusion", "Edema"]
    network, exclusive = (Classifier(names, "resnet10t", task=task) for task in ("multilabel", "multiclass"))
    assert wanted_classes(network, None).tolist() == np.eye(3, dtype=bool).tolist()
    assert wanted_classes(network, "Effusion,Mass").tolist() == [[True, True, False]]
    assert wanted_classes(exclusive, "Edema").tolist() == [[False, False, True]]
    with pytest.raises(CxrError, match="exclude each other"):
        wanted_classes(exclusive, "Edema,Mass")
    with pytest.raises(CxrError, match="no class 'Pneumothorax'"):
        wanted_classes(network, "Pneumothorax")


def two_classes(seed=0, size=16):
    return np.random.default_rng(seed).normal(size=(2, size, size))


def test_a_linear_classifier_is_driven_to_the_known_optimum():
    weight = two_classes()
    start = some_images(1)
    wanted = np.array([[True, False], [False, True], [True, True]])
    options = {"norm": "Linf", "epsilon": 0.1, "step_size": 0.02, "iterations": 30, "frames": 4, "batch_size": 2}
    found = maximise(linear(weight), start, wanted, **options)
    assert found.iterations == [0, 10, 20, 30]
    assert found.images.shape == (4, 3, 16, 16)
    assert found.probability.shape == (4, 3, 2)
    assert np.array_equal(found.start, start[:, 0].repeat(3, 1, 1).numpy())
    assert np.array_equal(found.wanted, wanted)
    for place in (0, 1):
        best = np.clip(start[0, 0].numpy() + 0.1 * np.sign(weight[place]), 0, 1)
        np.testing.assert_allclose(found.best[place], best, atol=1e-6)
        logit = (weight[place] * best).sum()
        assert found.best_probability[place, place] == pytest.approx(np.exp(log_expit(logit)), abs=1e-4)
    np.testing.assert_allclose(found.distances()["Linf"], 0.1, atol=1e-6)
    np.testing.assert_allclose(
        found.distances()["L2"], np.linalg.norm((found.best - found.start).reshape(3, -1), axis=1), rtol=1e-6
    )
    assert (found.best_probability[2] > found.probability[0, 2]).all()  # both at once


def test_total_variation_is_the_mean_of_both_differences():
    images = some_images(2, 5)
    expected = []
    for image in images[:, 0].numpy():
        total = 0.0
        for y in range(5):
            for x in range(5):
                total += abs(image[y, x] - image[y, x - 1]) if x else 0
                total += abs(image[y, x] - image[y - 1, x]) if y else 0
        expected.append(total / 25)
    np.testing.assert_allclose(total_variation(images), expected, rtol=1e-5)


@pytest.mark.parametrize("regulariser", [{"tv_weight": 20.0}, {"blur": 1.0, "blur_every": 1}])
def test_regularisers_make_the_change_smoother(regulariser):
    weight, start = two_classes(), some_images(1)
    options = {"wanted": np.array([[False, True]]), "epsilon": 2.0, "step_size": 0.1, "iterations": 25}
    plain, smooth = (maximise(linear(weight), start, **options, **more) for more in ({}, regulariser))

    def roughness(found):
        change = torch.from_numpy(found.best - found.start)[:, None]
        return float(total_variation(change) / change.abs().mean())

    assert roughness(smooth) < 0.8 * roughness(plain)
    assert smooth.best_probability[0, 1] > smooth.probability[0, 0, 1]


def test_jitter_is_of_the_seed_and_within_reach():
    weight, start = two_classes(), some_images(1)
    options = {"wanted": np.array([[True, False]]), "epsilon": 2.0, "step_size": 0.1, "iterations": 10}
    plain = maximise(linear(weight), start, **options)
    one, same, other = (maximise(linear(weight), start, jitter=3, seed=seed, **options) for seed in (1, 1, 2))
    assert np.array_equal(one.best, same.best)
    assert not np.array_equal(one.best, other.best)
    assert not np.array_equal(one.best, plain.best)
    with pytest.raises(CxrError, match="jitter 16"):
        maximise(linear(weight), start, jitter=16, **options)


def test_exclusive_classes_are_raised_by_softmax():
    classifier = linear(two_classes(3), kind="multiclass")
    found = maximise(classifier, some_images(1), np.array([[False, True]]), epsilon=1.0, step_size=0.1, iterations=10)
    np.testing.assert_allclose(found.best_probability.sum(axis=1), 1, atol=1e-6)
    assert found.best_probability[0, 1] > found.probability[0, 0, 1]
