"""Robustness: against the AUROC that a linear classifier must have, and against the clean one."""

import numpy as np
import pandas as pd
import pytest
import torch
from linear_models import linear
from scipy.special import log_softmax
from sklearn.metrics import roc_auc_score

from cxrmonai.data.dataset import StoreDataset, store_loader
from cxrmonai.data.geometry import letterbox_geometry
from cxrmonai.data.store import open_store, write_store
from cxrmonai.data.table import make_table
from cxrmonai.data.tasks import Task, make_task
from cxrmonai.engines import extract_features
from cxrmonai.errors import CxrError
from cxrmonai.explain.robustness import attacked_logits, binary_targets, robustness_summary, untargeted

SIZE, COUNT = 8, 60


@pytest.fixture(scope="module")
def mid_grey_store(tmp_path_factory):
    """Images far from black and white, so that small changes are never clipped, with labels that go with them."""
    random = np.random.default_rng(0)
    images = random.integers(96, 160, (COUNT, SIZE, SIZE), dtype=np.uint8)
    labels = random.integers(0, 2, (COUNT, 2)).astype(np.float32)
    labels[:9, 1] = np.nan
    images[:, :, :4] += (5 * labels[:, 0]).astype(np.uint8)[:, None, None]
    names = [f"i{k}" for k in range(COUNT)]
    columns = {"image": names, "image_id": names, "split": ["test"] * COUNT}
    columns["patient_id"] = [f"p{k // 2}" for k in range(COUNT)]
    table = make_table(columns, pd.DataFrame(labels, columns=["A", "B"]))
    path = tmp_path_factory.mktemp("robust") / "grey.h5"
    write_store(
        path,
        images=images,
        geometry=np.tile(letterbox_geometry(SIZE, SIZE, SIZE), (COUNT, 1)),
        table=table,
        class_names=["A", "B"],
        source="test",
    )
    return path


def single(weight, store):
    """A classifier of A alone, and its task."""
    return linear(weight[None]), make_task(store, classes="A")


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("objective", ["margin", "loss"])
def test_a_linear_classifier_has_the_analytic_auroc(mid_grey_store, norm, objective):
    weight = np.zeros((SIZE, SIZE))
    weight[:, :4] = np.random.default_rng(1).uniform(0.1, 1, (SIZE, 4))
    classifier, task = single(weight, mid_grey_store)
    radii = {"Linf": [0, 0.005, 0.01, 0.02], "L2": [0, 0.02, 0.05, 0.1]}[norm]
    rows = np.arange(COUNT)
    found = attacked_logits(
        classifier, mid_grey_store, rows, binary_targets(task), {norm: radii}, objective, iterations=5, batch_size=17
    )

    clean = np.einsum("nhw,hw->n", open_store(mid_grey_store).images / 255, weight)
    truth = task.targets[:, 0]
    dual = np.abs(weight).sum() if norm == "Linf" else np.linalg.norm(weight)
    points = robustness_summary(found, {norm: radii}, task.targets, ["A"], resamples=100)[norm]
    for radius, logits, point in zip(radii, found[norm]["attack"], points, strict=True):
        expected = clean + np.where(truth == 1, -1, 1) * radius * dual
        np.testing.assert_allclose(logits[:, 0], expected, atol=2e-3 * (1 + radius * dual))
        assert point["attack"]["mean_auroc"] == pytest.approx(roc_auc_score(truth, expected), abs=1e-3)
        assert point["epsilon"] == radius
    areas = [point["attack"]["mean_auroc"] for point in points]
    assert areas == sorted(areas, reverse=True)
    assert areas[0] > 0.6 > 0.3 > areas[-1]
    assert all(point["noise"]["mean_auroc"] > 0.5 for point in points)


def test_epsilon_zero_is_the_clean_network_to_the_last_bit(small_phantom):
    torch.manual_seed(0)
    weight = np.random.default_rng(2).normal(size=(10, 64, 64)) / 64
    classifier = linear(weight)
    task = make_task(small_phantom)
    rows = np.arange(20)
    found = attacked_logits(
        classifier, small_phantom, rows, binary_targets(task), {"L2": [0, 0.1]}, iterations=2, batch_size=8
    )

    loader = store_loader(StoreDataset(small_phantom, rows=rows), 8, shard=False)
    clean = extract_features(classifier.network, loader, classifier.seen, "cpu")
    assert np.array_equal(found["L2"]["attack"][0], clean)
    assert np.array_equal(found["L2"]["noise"][0], clean)
    assert not np.array_equal(found["L2"]["attack"][1], clean)


def test_what_is_unknown_is_not_attacked(mid_grey_store):
    weight = np.zeros((2, SIZE, SIZE))
    weight[0, :4], weight[1, 4:] = 1, 1
    task = make_task(mid_grey_store)
    rows = np.arange(COUNT)
    found = attacked_logits(linear(weight), mid_grey_store, rows, task.targets, {"Linf": [0, 0.01]}, iterations=4)
    change = found["Linf"]["attack"][1] - found["Linf"]["attack"][0]
    unknown = np.isnan(task.targets[:, 1])
    assert unknown.sum() == 9
    np.testing.assert_allclose(change[unknown, 1], 0, atol=1e-5)
    assert (np.abs(change[~unknown, 1]) > 0.1).all()
    assert (np.sign(change[:, 0]) == np.where(task.targets[:, 0] == 1, -1, 1)).all()


def test_a_larger_ball_never_serves_the_attack_worse(small_phantom):
    torch.manual_seed(3)
    classifier = linear(np.zeros((3, 64, 64)))
    classifier.network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 5, stride=4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(900, 3)
    ).eval()
    target = np.random.default_rng(0).integers(0, 2, (200, 3)).astype(np.float32)
    rows, radii = np.arange(12), [0.01, 0.05, 0.2]
    found = attacked_logits(classifier, small_phantom, rows, target, {"Linf": radii}, iterations=3)["Linf"]["attack"]
    margins = np.where(target[rows] == 1, -found, found).sum(axis=2)
    assert (np.diff(margins, axis=0) >= -1e-4).all()


@pytest.mark.parametrize("objective", ["margin", "loss"])
def test_objectives_of_exclusive_classes(objective):
    weight = np.random.default_rng(4).normal(size=(3, SIZE, SIZE))
    classifier = linear(weight, kind="multiclass")
    task = Task("multiclass", ["a", "b", "c"], np.array([[2], [np.nan], [0]], np.float32))
    target = binary_targets(task)
    assert np.array_equal(target[[0, 2]], [[0, 0, 1], [1, 0, 0]])
    assert np.isnan(target[1]).all()
    images = torch.rand(3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    value = untargeted(classifier, torch.from_numpy(target), objective)(images).detach().numpy()
    logits = np.einsum("nhw,khw->nk", images[:, 0].numpy(), weight)
    if objective == "margin":
        expected = [logits[0, :2].max() - logits[0, 2], 0, logits[2, 1:].max() - logits[2, 0]]
    else:
        expected = [-log_softmax(logits[0])[2], 0, -log_softmax(logits[2])[0]]
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def test_faults(mid_grey_store):
    classifier, task = single(np.ones((SIZE, SIZE)), mid_grey_store)
    for radii in ([0.1, 0.05], [-0.1], [0.1, 0.1]):
        with pytest.raises(CxrError, match="must rise"):
            attacked_logits(classifier, mid_grey_store, np.arange(2), task.targets, {"L2": radii})
    with pytest.raises(CxrError, match="objective 'hinge'"):
        untargeted(classifier, torch.zeros(1, 1), "hinge")
