import numpy as np
import pytest
import torch
from monai.transforms import Compose
from torch import nn

from cxrmonai.data.dataset import StoreDataset, store_loader
from cxrmonai.engines import Probe, extract_features
from cxrmonai.engines.probe import knn_probe, linear_probe
from cxrmonai.errors import CxrError
from cxrmonai.metrics import auroc
from cxrmonai.transforms import BatchNormalized, BatchScaleIntensityd

PROBES = {"linear": linear_probe, "knn": knn_probe}


@pytest.fixture
def store(small_phantom):
    return str(small_phantom)


@pytest.fixture
def plain_view():
    return Compose([BatchScaleIntensityd("image"), BatchNormalized("image")])


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = [nn.AvgPool2d(8), nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten()]
    return nn.Sequential(*layers)


@pytest.fixture
def planted():
    """Features in which the first two of three findings are written, the first one larger than all else."""
    random = np.random.default_rng(0)
    truth = (random.random((300, 3)) < [0.5, 0.3, 0.5]).astype(float)
    features = random.normal(size=(300, 10)).astype(np.float32)
    features[:, 0] += 4 * truth[:, 0]
    features[:, 1] += 4 * truth[:, 1]
    features[:, 0] *= 3
    return features[:200], truth[:200], features[200:], truth[200:]


@pytest.mark.parametrize("name", PROBES)
def test_planted_findings_are_found_and_others_not(planted, name):
    train, truth, held_out, held_out_truth = planted
    score = PROBES[name](train, truth, held_out)
    assert score.shape == (100, 3)
    assert score.min() >= 0
    assert score.max() <= 1
    known = auroc(held_out_truth, score)
    assert known[0] > 0.95
    assert known[1] > (0.95 if name == "linear" else 0.7)
    assert 0.3 < known[2] < 0.7


@pytest.mark.parametrize("name", PROBES)
def test_unknown_labels_are_left_out(planted, name):
    """Rows without a label count as if they were not there, column by column."""
    train, truth, held_out, _ = planted
    truth = truth.copy()
    truth[:60, 0] = np.nan
    score = PROBES[name](train, truth, held_out)
    if name == "knn":
        np.testing.assert_allclose(score[:, :1], knn_probe(train[60:], truth[60:, :1], held_out), atol=1e-6)
    flipped = np.where(np.isnan(truth), truth, 1 - truth)
    np.testing.assert_allclose(PROBES[name](train, flipped, held_out), 1 - score, atol=1e-3)
    np.testing.assert_array_equal(score[:, 1:], PROBES[name](train, truth[:, 1:], held_out))
    moved = train.copy()
    moved[:60] = moved[:60][::-1]  # the rows without a label trade places: features' statistics stay
    np.testing.assert_allclose(PROBES[name](moved, truth[:, :1], held_out), score[:, :1], atol=1e-5)
    assert not np.allclose(PROBES[name](moved, truth[:, 1:2], held_out), score[:, 1:2], atol=1e-3)


@pytest.mark.parametrize("name", PROBES)
def test_columns_of_one_class_or_none_score_one_half(planted, name):
    train, truth, held_out, _ = planted
    truth = truth.copy()
    truth[:, 0], truth[:, 1] = 1, np.nan
    truth[:5, 0] = np.nan
    score = PROBES[name](train, truth, held_out)
    assert (score[:, :2] == 0.5).all()
    assert not (score[:, 2] == 0.5).any()


def test_knn_is_the_weighted_vote_of_the_nearest():
    train = np.array([[1, 0], [0.6, 0.8], [0, 2], [-1, 0]])
    truth = np.array([[1.0], [0.0], [1.0], [0.0]])
    weight = np.exp(np.array([1, 0.6]) / 0.2)
    score = knn_probe(train, truth, np.array([[5.0, 0]]), neighbours=2, temperature=0.2)
    assert score.item() == pytest.approx(weight[0] / weight.sum())
    assert knn_probe(train, truth, np.array([[5.0, 0]]), neighbours=99).item() > 0.9


def test_linear_probe_standardises_and_obeys_its_strength(planted):
    train, truth, held_out, _ = planted
    scale, offset = np.geomspace(1e-2, 1e2, 10, dtype=np.float32), np.float32(3)
    score = linear_probe(train, truth, held_out)
    np.testing.assert_allclose(linear_probe(train * scale + offset, truth, held_out * scale + offset), score, atol=1e-3)
    assert np.ptp(linear_probe(train, truth, held_out, strength=1e6), axis=0).max() < 0.05
    constant = np.zeros((200, 1), np.float32), np.zeros((100, 1), np.float32)
    padded = linear_probe(np.hstack([train, constant[0]]), truth, np.hstack([held_out, constant[1]]))
    np.testing.assert_allclose(padded, score, atol=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_extraction_leaves_the_network_as_it_was(store, plain_view, network, training):
    network.train(training)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    loader = store_loader(StoreDataset(store, "val"), 4)
    first = extract_features(network, loader, plain_view, "cpu")
    assert network.training == training
    assert all(module.training == training for module in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    np.testing.assert_array_equal(extract_features(network, loader, plain_view, "cpu"), first)  # no dropout
    assert first.dtype == np.float32
    assert len(first) == len(loader.dataset)
    assert first.std(0).max() > 0.01


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_features_depend_on_the_image_alone(store, plain_view, network, batch_size):
    rows = np.arange(10)
    whole = extract_features(network, store_loader(StoreDataset(store, rows=rows), 10), plain_view, "cpu")
    order = np.random.default_rng(0).permutation(rows)
    loader = store_loader(StoreDataset(store, rows=order), batch_size)
    np.testing.assert_allclose(extract_features(network, loader, plain_view, "cpu"), whole[order], atol=1e-5)
    assert np.ptp(whole, axis=0).max() > 0.01


@pytest.mark.parametrize("method", ["linear", "knn"])
def test_probe_never_learns_from_held_out_labels(store, plain_view, network, method):
    probe = Probe(store, plain_view, method=method, batch_size=16, neighbours=5)
    splits = probe.store.column("split")
    assert set(splits[probe.held_out.rows]) == {"test"}
    assert set(splits[probe.train.rows]) == {"train"}
    features = probe.features(network)
    honest = probe.fit(features)
    labels = probe.store.labels.copy()
    for split, changes in (("test", False), ("val", False), ("train", True)):
        rows = np.flatnonzero(splits == split)
        probe.store.__dict__["labels"] = labels.copy()
        probe.store.labels[rows] = 1 - labels[rows]
        poisoned = probe.fit(features)
        assert np.array_equal(poisoned.score, honest.score) != changes
        assert np.array_equal(poisoned.truth, honest.truth) == (split != "test")


@pytest.mark.parametrize("method", ["linear", "knn"])
def test_probe_never_learns_from_held_out_features(store, plain_view, network, method):
    """Each held-out score depends on that image and the training images only; standardisation included."""
    probe = Probe(store, plain_view, method=method, neighbours=5)
    features = probe.features(network)
    honest = probe.fit(features)
    poisoned = features.copy()
    poisoned[len(probe.train) + 1 :] *= 100
    assert np.array_equal(probe.fit(poisoned).score[0], honest.score[0])
    assert not np.array_equal(probe.fit(poisoned).score[1:], honest.score[1:])


def test_probe_result_lines_up_with_the_store(store, plain_view, network):
    probe = Probe(store, plain_view, split="all", classes=["Pleural Effusion", "Mass"])
    result = probe(network)
    np.testing.assert_array_equal(result.rows, np.flatnonzero(probe.store.column("split") != "train"))
    truth = probe.store.table[["Pleural Effusion", "Mass"]].to_numpy(np.float32)[result.rows]
    np.testing.assert_array_equal(result.truth, truth)
    assert result.class_names == ["Pleural Effusion", "Mass"]
    assert result.score.shape == truth.shape
    np.testing.assert_array_equal(probe.patients(result), probe.store.column("patient_id")[result.rows])
    summary = probe.summary(result, resamples=20)
    assert 0 <= summary["mean_auroc_ci"][0] <= summary["mean_auroc"] <= summary["mean_auroc_ci"][1] <= 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "svm"}, "probe 'svm': known are linear, knn"),
        ({"split": "train"}, "split 'train': a probe scores"),
        ({"classes": ["gout"]}, "no finding 'gout'; it has"),
    ],
)
def test_faults(store, plain_view, options, words):
    with pytest.raises(CxrError, match=words):
        Probe(store, plain_view, **options)


def test_classes_are_a_list_or_a_text(store, plain_view):
    for classes in ("Edema, Mass", ["Edema", "Mass"]):
        assert Probe(store, plain_view, classes=classes).class_names == ["Edema", "Mass"]
    with pytest.raises(CxrError, match="no finding 'Gout'"):
        Probe(store, plain_view, classes="Gout")


def test_a_limit_draws_so_many_images_of_each_part(store, plain_view):
    whole, part = (Probe(store, plain_view, split="all", limit=limit) for limit in (0, 5))
    assert (len(part.train), len(part.held_out), len(part.both)) == (5, 5, 10)
    assert set(part.train.rows) < set(whole.train.rows)
    assert set(part.held_out.rows) < set(whole.held_out.rows)
    np.testing.assert_array_equal(part.both.rows, Probe(store, plain_view, split="all", limit=5).both.rows)
