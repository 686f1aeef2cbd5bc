"""Probes of a frozen encoder: features once, and a whole classifier at the end."""

import numpy as np
import pytest
import torch
from monai.transforms import Compose
from sklearn.neighbors import NearestNeighbors

from cxrmonai.data.store import open_store
from cxrmonai.data.tasks import Task, make_task
from cxrmonai.engines import FeatureBank, FrozenProbe, LinearTraining, predict
from cxrmonai.errors import CxrError
from cxrmonai.losses import make_loss
from cxrmonai.metrics.multiclass import mean_auroc
from cxrmonai.networks import Classifier, load_classifier
from cxrmonai.transforms import BatchNormalized, BatchResized, BatchScaleIntensityd

NAMES = ["Cardiomegaly", "Pleural Effusion"]
VIEW = Compose([BatchScaleIntensityd("image"), BatchResized("image", 32), BatchNormalized("image")])


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    made = Classifier(NAMES, encoder="resnet10t", image_size=32)
    for module in made.modules():  # statistics that a batch would not have, and that a forward in training would move
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
    return made


@pytest.fixture(scope="module")
def rows(small_phantom):
    store = open_store(small_phantom)
    return {split: store.rows(split) for split in ("train", "val", "test")}


def probe(network, store, folder, rows, method, task=None, **options):
    task = task or make_task(store, classes=NAMES)
    values = {"training": LinearTraining("AdamW", 0.01, max_epochs=3, batch_size=16), "c": 0.1, **options}
    return FrozenProbe(
        network, store, task, VIEW, method, folder, rows, lambda some: make_loss("auto", task, some), **values
    )


def test_features_depend_on_neither_batch_nor_order_nor_the_mode_of_the_network(network, small_phantom, rows):
    some = rows["train"]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    found = FeatureBank(network.train(), small_phantom, VIEW, batch_size=16).of(some)
    assert network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    for size in (1, 7, 128):
        bank = FeatureBank(network.eval(), small_phantom, VIEW, batch_size=size)
        shuffled = np.random.default_rng(size).permutation(some)
        np.testing.assert_allclose(bank.of(shuffled), found[np.searchsorted(some, shuffled)], atol=2e-5)
    store = open_store(small_phantom)
    images = VIEW({"image": torch.from_numpy(store.images[some[:3]])[:, None]})["image"]
    with torch.no_grad():
        np.testing.assert_allclose(found[:3], network.eval().encoder(images).numpy(), atol=2e-5)


def test_an_image_goes_through_the_network_once(network, small_phantom, rows):
    bank = FeatureBank(network, small_phantom, VIEW)
    seen = []
    hook = network.encoder.conv1[0].register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    bank.of(rows["train"])
    everything = bank.of(np.arange(len(open_store(small_phantom))))
    bank.of(rows["test"])
    hook.remove()
    assert sum(seen) == len(everything)


@pytest.mark.parametrize("method", ["linear", "logistic"])
def test_what_is_fitted_is_a_whole_classifier(network, small_phantom, rows, tmp_path, method):
    made = probe(network, small_phantom, tmp_path, rows["train"], method)
    fitted = made.run()
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt"}
    loaded = load_classifier(tmp_path / "model.pt")
    found = predict(loaded, small_phantom, rows["test"], VIEW, "cpu", batch_size=5)
    np.testing.assert_allclose(found, fitted.probability(rows["test"]), atol=1e-5)
    assert found.std() > 0.001


def test_knn_votes_as_scikit_learn_finds_neighbours(network, small_phantom, rows, tmp_path):
    made = probe(network, small_phantom, tmp_path, rows["train"], "knn", neighbours=5)
    fitted = made.run()
    assert list(tmp_path.iterdir()) == []
    assert fitted.model is None
    bank, task = made.bank, made.task
    search = NearestNeighbors(n_neighbors=5, metric="cosine").fit(bank.of(rows["train"]))
    distance, nearest = search.kneighbors(bank.of(rows["test"]))
    weight = np.exp(-distance / 0.1)
    votes = task.targets[rows["train"]][nearest]
    expected = (weight[..., None] * votes).sum(1) / weight.sum(1, keepdims=True)
    np.testing.assert_allclose(fitted.probability(rows["test"]), expected, atol=1e-4)


@pytest.mark.parametrize("method", ["linear", "logistic", "knn"])
def test_several_classes_get_probabilities_that_add_up(small_phantom, rows, tmp_path, method):
    count = len(open_store(small_phantom))
    number = (np.arange(count) % 3).astype(np.float32)
    number[rows["train"][:2]] = np.nan
    task = Task("multiclass", ["none", "some", "much", "never"], number[:, None])
    network = Classifier(task.class_names, encoder="resnet10t", image_size=32, task="multiclass")
    fitted = probe(network, small_phantom, tmp_path, rows["train"], method, task).run()
    probability = fitted.probability(rows["test"])
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-6)
    if method != "linear":  # three epochs teach little
        assert probability[:, 3].max() < 1e-6
    assert 0 <= mean_auroc(task.targets[rows["test"]], probability, "multiclass") <= 1


def test_the_encoder_of_a_probe_does_not_move(network, small_phantom, rows, tmp_path):
    before = {key: value.clone() for key, value in network.encoder.state_dict().items()}
    probe(network, small_phantom, tmp_path, rows["train"], "linear").run()
    assert all(torch.equal(before[key], value) for key, value in network.encoder.state_dict().items())


@pytest.mark.parametrize("options", [{"pooling": "PCAM"}, {"attention": "CAM"}])
def test_features_that_are_not_the_encoders_are_refused(small_phantom, rows, tmp_path, options):
    network = Classifier(NAMES, encoder="resnet10t", image_size=32, **options)
    with pytest.raises(CxrError, match="leave pooling PCAM and attention to --method full"):
        probe(network, small_phantom, tmp_path, rows["train"], "logistic").run()
    with pytest.raises(CxrError, match="a probe is one of linear, logistic, knn"):
        probe(network, small_phantom, tmp_path, rows["train"], "svm").run()
