"""Linear models on frozen features, against scikit-learn itself."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxrmonai.engines import LinearTraining
from cxrmonai.engines.linear_models import PENALTIES, USUAL_C, fit_linear, fit_logistic
from cxrmonai.losses import MaskedBCELoss
from cxrmonai.losses.classification import MaskedCrossEntropyLoss
from cxrmonai.networks import Classifier

NAMES = ["A", "B", "C"]


@pytest.fixture(scope="module")
def planted():
    """Features (N, 12) of odd scales, in which two of three findings are written; some labels are unknown."""
    random = np.random.default_rng(0)
    truth = (random.random((240, 3)) < [0.5, 0.3, 0.5]).astype(np.float32)
    features = random.normal(size=(240, 12)).astype(np.float32)
    features[:, :2] += 2 * truth[:, :2]
    features = features * random.uniform(0.1, 30, 12).astype(np.float32) + 5
    truth[::7, 0] = np.nan
    return features[:160], truth[:160], features[160:], truth[160:]


def pipeline(features, column, c):
    known = ~np.isnan(column)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
    model["standardscaler"].fit(features)
    model["logisticregression"].fit(model["standardscaler"].transform(features[known]), column[known])
    return model


def test_each_column_is_scikit_learns_model(planted):
    features, truth, others, _ = planted
    model = fit_logistic(features, truth, NAMES, c=USUAL_C)
    expected = [pipeline(features, column, USUAL_C).predict_proba(others)[:, 1] for column in truth.T]
    np.testing.assert_allclose(model.probability(others, "multilabel").T, expected, atol=1e-6)


def test_the_penalty_is_the_best_on_validation(planted):
    features, truth, others, other_truth = planted
    model = fit_logistic(features, truth, NAMES, validation=(others, other_truth))
    for k, name in enumerate(NAMES):
        known = ~np.isnan(other_truth[:, k])
        areas = [
            roc_auc_score(other_truth[known, k], pipeline(features, truth[:, k], c).decision_function(others[known]))
            for c in PENALTIES
        ]
        chosen = pipeline(features, truth[:, k], PENALTIES[int(np.argmax(areas))])
        np.testing.assert_allclose(
            model.probability(others, "multilabel")[:, k], chosen.predict_proba(others)[:, 1], atol=1e-5
        )
        assert f"{name} {PENALTIES[int(np.argmax(areas))]:g}" in model.notes[0]


def test_several_classes_are_scikit_learns_and_absent_ones_have_no_probability(planted):
    features, _, others, _ = planted
    number = (features[:, 0] > np.median(features[:, 0])).astype(np.float32) + (features[:, 1] > 8)
    scaler = StandardScaler().fit(features)
    reference = LogisticRegression(C=0.1, max_iter=1000).fit(scaler.transform(features), number)
    model = fit_logistic(features, number[:, None], [*NAMES, "absent"], "multiclass", c=0.1)
    found = model.probability(others, "multiclass")
    np.testing.assert_allclose(found[:, :3], reference.predict_proba(scaler.transform(others)), atol=1e-5)
    assert found[:, 3].max() < 1e-9
    two = fit_logistic(features, np.minimum(number, 1)[:, None], ["A", "B"], "multiclass", c=0.1)
    reference.fit(scaler.transform(features), np.minimum(number, 1))
    expected = reference.predict_proba(scaler.transform(others))
    np.testing.assert_allclose(two.probability(others, "multiclass"), expected, atol=1e-5)


def test_columns_of_one_class_and_short_runs_are_told(planted):
    features, truth, others, _ = planted
    truth = truth.copy()
    truth[:, 1], truth[:, 2] = 0, np.nan
    model = fit_logistic(features, truth, NAMES, c=100, max_iter=1)
    assert (model.probability(others, "multilabel")[:, 1:] == 0.5).all()
    assert [note.split(":")[0] for note in model.notes[:2]] == ["B", "C"]
    assert "logistic regression of A did not converge in 1 steps" in model.notes
    blind = fit_logistic(features, planted[1], NAMES, validation=(others, np.zeros((len(others), 3), np.float32)))
    assert f"A: the validation images show one class only, so that C is {USUAL_C}" in blind.notes


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_a_trained_layer_finds_what_is_planted(planted, optimizer):
    features, truth, others, other_truth = planted
    rate = 0.1 if optimizer == "SGD" else 0.02
    training = LinearTraining(optimizer, rate, max_epochs=15, batch_size=32)
    made = [
        fit_linear(features, truth, MaskedBCELoss(), 3, "multilabel", training, (others, other_truth)) for _ in range(2)
    ]
    np.testing.assert_array_equal(made[0].weight, made[1].weight)
    score = made[0].probability(others, "multilabel")
    known = ~np.isnan(other_truth[:, 0])
    assert roc_auc_score(other_truth[known, 0], score[known, 0]) > 0.8
    assert roc_auc_score(other_truth[:, 1], score[:, 1]) > 0.8


def test_the_best_epoch_on_validation_is_kept_and_patience_ends_a_run(planted):
    features, truth, others, other_truth = planted
    truth, other_truth = truth[:, :1], other_truth[:, :1]
    longer = LinearTraining("SGD", 5.0, schedule="constant", max_epochs=8, batch_size=16)
    kept = fit_linear(features, truth, MaskedBCELoss(), 1, "multilabel", longer, (others, other_truth))
    last = fit_linear(features, truth, MaskedBCELoss(), 1, "multilabel", longer)
    known = ~np.isnan(other_truth[:, 0])
    area = [roc_auc_score(other_truth[known], model.logits(others)[known]) for model in (kept, last)]
    assert area[0] >= area[1]
    assert not np.array_equal(kept.weight, last.weight)


def test_several_classes_are_trained(planted):
    features, _, others, _ = planted
    number = (features[:, 0] > np.median(features[:, 0])).astype(np.float32)[:, None]
    training = LinearTraining("SGD", 0.1, max_epochs=10, batch_size=32)
    model = fit_linear(features, number, MaskedCrossEntropyLoss(), 2, "multiclass", training)
    probability = model.probability(others, "multiclass")
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    truth = others[:, 0] > np.median(features[:, 0])
    assert roc_auc_score(truth, probability[:, 1]) > 0.95


def test_folded_into_a_classifier_the_probabilities_are_the_same(planted):
    features, truth, others, _ = planted
    model = fit_logistic(features, truth, NAMES, c=0.1)
    network = Classifier(NAMES, encoder="resnet10t", image_size=32)
    wide = {key: np.zeros((3, 512)) if key == "weight" else np.ones(512) for key in ("weight", "mean", "std")}
    wide["weight"][:, :12], wide["mean"][:12], wide["std"][:12] = model.weight, model.mean, model.std
    network.set_head(*(torch.from_numpy(x) for x in (wide["weight"], model.bias, wide["mean"], wide["std"])))
    padded = np.pad(others, ((0, 0), (0, 500)))
    with torch.no_grad():
        found = network.head(torch.from_numpy(padded)).double().sigmoid().numpy()
    np.testing.assert_allclose(found, model.probability(others, "multilabel"), atol=1e-5)
