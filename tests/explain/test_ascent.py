"""Projected gradient ascent: the ball, the steps, and optima that can be written down."""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from cxrmonai.errors import CxrError
from cxrmonai.explain.ascent import Ball, ascend


def images(count=5, size=7, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(size=(count, 1, size, size))).float()


def nearest_by_root(image, centre, radius):
    """The nearest point of the L2 ball within the box, by the root of the distance along t."""

    def along(t):
        return np.clip(centre + t * (image - centre), 0, 1)

    if np.linalg.norm(along(1) - centre) <= radius:
        return along(1)
    return along(brentq(lambda t: np.linalg.norm(along(t) - centre) - radius, 0, 1))


@pytest.mark.parametrize("radius", [0.0, 0.4, 2.0, 100.0])
def test_l2_projection_is_the_nearest_point_of_ball_and_box(radius):
    centre, moved = images(seed=1), images(seed=2) * 6 - 3
    found = Ball("L2", radius).project(moved, centre)
    for one, image, middle in zip(found, moved, centre, strict=True):
        expected = nearest_by_root(image.double().numpy(), middle.double().numpy(), radius)
        np.testing.assert_allclose(one, expected, atol=2e-5)
    again = Ball("L2", radius).project(found, centre)
    torch.testing.assert_close(again, found, atol=1e-5, rtol=0)


def test_linf_projection_clips_each_pixel():
    centre, moved = images(seed=1), images(seed=2) * 6 - 3
    found = Ball("Linf", 0.1).project(moved, centre)
    expected = np.clip(np.clip(moved, centre - 0.1, centre + 0.1), 0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize(("norm", "length"), [("L2", lambda x: np.linalg.norm(x)), ("Linf", lambda x: np.abs(x).max())])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_direction_has_length_one_whatever_the_gradient(norm, length, scale):
    gradient = (images(seed=3) - 0.5) * scale
    found = Ball(norm, 1.0).direction(gradient)
    for one, slope in zip(found.numpy(), gradient.numpy(), strict=True):
        assert length(one) == pytest.approx(1, abs=1e-5)
        assert (one * (slope / scale)).sum() > 0
    assert not Ball(norm, 1.0).direction(torch.zeros(2, 1, 3, 3)).any()


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_ascent_reaches_the_optimum_of_a_linear_objective(norm):
    centre = images(3, seed=4)
    weight = torch.randn(1, 7, 7, generator=torch.Generator().manual_seed(5))
    radius = {"L2": 1.5, "Linf": 0.2}[norm]
    found = ascend(lambda x: (x * weight).sum(dim=(1, 2, 3)), centre, Ball(norm, radius), radius / 10, 200)
    for one, middle, value in zip(found.images.numpy(), centre.numpy(), found.values, strict=True):
        if norm == "Linf":
            best = np.clip(middle + radius * np.sign(weight.numpy()), 0, 1)
        else:  # from the centre along w, clipped, until the ball ends

            def along(t, middle=middle):
                return np.clip(middle + t * weight.numpy(), 0, 1)

            best = along(brentq(lambda t, middle=middle: np.linalg.norm(along(t, middle) - middle) - radius, 0, 100))
        optimum = (best * weight.numpy()).sum()
        assert value == pytest.approx(optimum, rel=2e-4)
        assert value <= optimum + 1e-4
        np.testing.assert_allclose(one, best, atol=0.05 if norm == "L2" else 1e-6)


@pytest.mark.parametrize("norm", ["L2", "Linf"])
def test_every_iterate_stays_in_ball_and_box(norm):
    centre, passed = images(seed=6), []
    ball = Ball(norm, 0.3)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.LazyLinear(1))
    torch.manual_seed(0)
    ascend(lambda x: network(x)[:, 0], centre, ball, 0.2, 15, watch=lambda _, x: passed.append(x.clone()))
    assert len(passed) == 16
    assert torch.equal(passed[0], centre)
    for each in passed:
        assert each.min() >= 0
        assert each.max() <= 1
        assert (ball.distance(each, centre) <= 0.3 + 1e-6).all()
    assert not torch.equal(passed[1], passed[0])


def test_the_best_iterate_is_kept_and_named():
    centre, values = torch.full((1, 1, 2, 2), 0.5), []

    def hill(x):  # highest at 0.6, which steps of 0.15 leap over and back
        value = -(x - 0.6).square().sum(dim=(1, 2, 3))
        values.append(float(value.detach()))
        return value

    found = ascend(hill, centre, Ball("Linf", 0.4), 0.15, 7)
    assert float(found.values) == max(values)
    assert found.steps.tolist() == [int(np.argmax(values))]
    assert float(hill(found.images)) == pytest.approx(float(found.values))


def test_a_random_view_moves_the_gradient_and_not_the_judgement():
    centre = images(2, seed=7)
    shown = []

    def objective(x):
        shown.append(x.detach().clone())
        return x.sum(dim=(1, 2, 3))

    found = ascend(objective, centre, Ball("Linf", 0.1), 0.05, 3, view=lambda x: x.flip(3))
    torch.testing.assert_close(found.values, found.images.sum(dim=(1, 2, 3)))
    assert torch.equal(shown[0], centre.flip(3))
    assert torch.equal(shown[1], centre)


def test_noise_lies_at_the_edge_of_the_ball():
    centre = torch.full((4, 1, 8, 8), 0.5)
    for norm in ("L2", "Linf"):
        ball = Ball(norm, 0.2)
        noisy = ball.draw(centre, torch.Generator().manual_seed(0))
        torch.testing.assert_close(ball.distance(noisy, centre), torch.full((4,), 0.2))
        assert torch.equal(noisy, ball.draw(centre, torch.Generator().manual_seed(0)))


def test_faults():
    with pytest.raises(CxrError, match="norm 'L1'"):
        Ball("L1", 1.0)
    with pytest.raises(CxrError, match="epsilon -1"):
        Ball("L2", -1)
    with pytest.raises(CxrError, match="no finite numbers"):
        ascend(lambda x: x.sum(dim=(1, 2, 3)) * float("nan"), images(), Ball("L2", 1.0), 0.1, 2)
