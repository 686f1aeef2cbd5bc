import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from cxrmonai.errors import CxrError
from cxrmonai.metrics import (
    apply_softmax_temperature,
    apply_temperatures,
    brier_score,
    expected_calibration_error,
    fit_softmax_temperature,
    fit_temperatures,
    reliability_curve,
)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    shares = np.exp(x - x.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.fixture
def overconfident():
    """500 images, 2 findings, logits twice and half as large as they should be; some labels unknown."""
    random = np.random.default_rng(5)
    logits = random.normal(size=(500, 2)) - [1.0, 0.2]
    truth = (random.random((500, 2)) < sigmoid(logits)).astype(float)
    truth[random.random(truth.shape) < 0.1] = np.nan
    return truth, sigmoid(logits * [2.0, 0.5])


def plain_ece(truth, probability, edges):
    total, error = len(truth), 0.0
    for b in range(len(edges) - 1):
        last = b == len(edges) - 2
        inside = [i for i, p in enumerate(probability) if edges[b] <= p and (p < edges[b + 1] or last)]
        if inside:
            gap = abs(np.mean([probability[i] for i in inside]) - np.mean([truth[i] for i in inside]))
            error += len(inside) / total * gap
    return error


def test_brier_agrees_with_sklearn(overconfident):
    truth, probability = overconfident
    scores = brier_score(truth, probability)
    for column in range(2):
        known = ~np.isnan(truth[:, column])
        expected = brier_score_loss(truth[known, column], probability[known, column])
        assert scores[column] == pytest.approx(expected, abs=1e-12)
        assert brier_score(truth[:, column], probability[:, column]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_ece_equals_a_plain_loop(overconfident, bins):
    truth, probability = overconfident
    errors = expected_calibration_error(truth, probability, bins)
    by_mass = expected_calibration_error(truth, probability, bins, "mass")
    for column in range(2):
        known = ~np.isnan(truth[:, column])
        y, p = truth[known, column], probability[known, column]
        assert errors[column] == pytest.approx(plain_ece(y, p, np.linspace(0, 1, bins + 1)), abs=1e-12)
        ordered, n = np.sort(p), len(p)
        edges = [0.0, *(ordered[int(np.ceil(n * b / bins - 0.5))] for b in range(1, bins)), 1.0]
        assert by_mass[column] == pytest.approx(plain_ece(y, p, edges), abs=1e-12)


def test_reliability_agrees_with_sklearn(overconfident):
    truth, probability = overconfident
    known = ~np.isnan(truth[:, 0])
    observed, predicted = calibration_curve(truth[known, 0], probability[known, 0], n_bins=10)
    curve = reliability_curve(truth[:, 0], probability[:, 0])
    np.testing.assert_allclose(curve.observed, observed, rtol=0, atol=1e-12)
    np.testing.assert_allclose(curve.predicted, predicted, rtol=0, atol=1e-12)
    assert curve.count.sum() == known.sum()
    assert (curve.low <= curve.observed + 1e-12).all()
    assert (curve.observed <= curve.high + 1e-12).all()


def test_wilson_interval_of_a_published_case():
    """81 of 263 at 95 %: 0.2553 to 0.3662 (Newcombe, Statistics in Medicine 1998;17:857-872, table I)."""
    truth = np.repeat([1.0, 0.0], [81, 182])
    curve = reliability_curve(truth, np.full(263, 0.3), bins=1)
    assert (curve.low[0], curve.high[0]) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_bins_of_equal_mass_keep_ties_together():
    truth = np.array([0, 1, 0, 1, 1, 0.0])
    probability = np.array([0.2, 0.2, 0.2, 0.2, 0.9, 0.9])
    order = [3, 5, 0, 2, 4, 1]
    for bins in (2, 3, 6):
        curve = reliability_curve(truth, probability, bins, "mass")
        assert curve.predicted == pytest.approx([0.2, 0.9])
        shuffled = expected_calibration_error(truth[order], probability[order], bins, "mass")
        assert shuffled == pytest.approx(expected_calibration_error(truth, probability, bins, "mass"), abs=1e-15)


def test_a_probability_of_one_falls_in_the_last_bin():
    assert reliability_curve([1, 1, 0], [1.0, 0.95, 0.0]).count.tolist() == [1, 2]


def test_perfect_and_worst_calibration():
    assert expected_calibration_error([1, 0], [1.0, 0.0]) == 0
    assert expected_calibration_error([1, 0], [0.0, 1.0]) == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("truth", [[np.nan, np.nan], []])
def test_nothing_known_is_nan(truth):
    probability = np.full(len(truth), 0.5)
    assert np.isnan(brier_score(truth, probability))
    for binning in ("width", "mass"):
        assert np.isnan(expected_calibration_error(truth, probability, binning=binning))
    assert len(reliability_curve(truth, probability).count) == 0


def test_temperature_is_that_of_a_general_minimiser(overconfident):
    truth, probability = overconfident
    temperatures, reasons = fit_temperatures(truth, probability)
    assert reasons == ["", ""]
    assert temperatures[0] > 1.5 > 1 > temperatures[1]
    for column in range(2):
        known = ~np.isnan(truth[:, column])
        y, logits = truth[known, column], np.log(probability[known, column] / (1 - probability[known, column]))

        def loss(inverse, y=y, logits=logits):
            return np.logaddexp(0, inverse * logits).mean() - (y * inverse * logits).mean()

        best = minimize_scalar(loss, bounds=(0.01, 20), method="bounded", options={"xatol": 1e-12}).x
        assert temperatures[column] == pytest.approx(1 / best, rel=1e-6)
        step = 1e-5
        slope = (loss(1 / temperatures[column] + step) - loss(1 / temperatures[column] - step)) / (2 * step)
        assert slope == pytest.approx(0, abs=1e-9)
    calibrated = apply_temperatures(probability, temperatures)
    known = ~np.isnan(truth[:, 0])
    assert log_loss(truth[known, 0], calibrated[known, 0]) < log_loss(truth[known, 0], probability[known, 0])
    assert (np.argsort(calibrated[:, 0]) == np.argsort(probability[:, 0])).all()


@pytest.mark.filterwarnings("error")
def test_scaling_is_of_the_logit():
    scaled = apply_temperatures([[0.9, 0.9]], [2.0, 1.0])
    assert scaled[0] == pytest.approx([sigmoid(np.log(9) / 2), 0.9], abs=1e-12)
    assert apply_temperatures([[0.0, 1.0]], [1.0, 1.0]).tolist() == [[0.0, 1.0]]
    assert np.isfinite(apply_temperatures([[0.0, 1.0]], [0.01, 0.01])).all()


def test_one_temperature_of_a_multiclass_model():
    random = np.random.default_rng(8)
    logits = random.normal(size=(600, 4))
    truth = np.array([random.choice(4, p=row) for row in softmax(logits)], dtype=float)
    probability = softmax(3 * logits)
    temperature, reason = fit_softmax_temperature(np.where(np.arange(600) < 20, np.nan, truth), probability)
    assert reason == ""
    known = np.arange(600) >= 20

    def loss(inverse):
        return log_loss(truth[known], softmax(np.log(probability[known]) * inverse), labels=range(4))

    best = minimize_scalar(loss, bounds=(0.01, 20), method="bounded", options={"xatol": 1e-12}).x
    assert temperature == pytest.approx(1 / best, rel=1e-6)
    calibrated = apply_softmax_temperature(probability, temperature)
    assert calibrated == pytest.approx(softmax(np.log(probability) / temperature), abs=1e-12)
    assert (calibrated.argmax(axis=1) == probability.argmax(axis=1)).all()
    assert apply_softmax_temperature(probability, 1.0) == pytest.approx(probability, abs=0)


@pytest.mark.filterwarnings("error")
def test_what_cannot_be_fitted_stays_at_one_or_at_a_bound():
    truth = np.array([[0, 1, np.nan, 0, 1, 0], [0, 1, np.nan, 1, 0, 1]])
    probability = np.array([[0.2, 0.2, 0.2, 0.2, 0.2, 0.5], [0.7, 0.7, 0.7, 0.7, 0.7, 0.5]])
    temperatures, reasons = fit_temperatures(truth, probability)
    assert temperatures.tolist() == [1, 1, 1, 0.01, 100, 1]
    assert reasons[0] == "temperature left at 1: the validation set has no image with the finding"
    assert reasons[1] == "temperature left at 1: the validation set has no image without the finding"
    assert reasons[2] == "temperature left at 1: the validation set has no image with a known label"
    assert reasons[3] == "temperature at its bound of 0.01: the model tells the classes apart"
    assert reasons[4] == "temperature at its bound of 100: the model is no better than chance"
    assert reasons[5] == "temperature left at 1: the model gives every class the same probability"
    for one in ([1, 1], [np.nan, np.nan], [np.nan, 0]):
        temperature, reason = fit_softmax_temperature(one, [[0.2, 0.8], [0.4, 0.6]])
        assert (temperature, reason) == (1, "temperature left at 1: the validation set has fewer than two classes")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-3, 1.0, 40.0])
def test_fit_holds_at_any_scale(scale):
    random = np.random.default_rng(1)
    logits = random.normal(size=400)
    truth = (random.random(400) < sigmoid(logits)).astype(float)
    temperatures, _ = fit_temperatures(truth, np.clip(sigmoid(np.clip(scale * logits, -700, 700)), 0, 1))
    assert 0.01 <= temperatures[0] <= 100


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: brier_score([0, 1], [0.1, 1.2]), "probability is 1.2"),
        (lambda: brier_score([0, 1], [0.1]), "shape"),
        (lambda: expected_calibration_error([0, 1], [0.1, 0.2], bins=0), "bins is 0"),
        (lambda: expected_calibration_error([0, 1], [0.1, 0.2], bins=2.5), "bins is 2.5"),
        (lambda: expected_calibration_error([0, 1], [0.1, 0.2], binning="size"), "binning 'size'"),
        (lambda: reliability_curve(np.zeros((2, 2)), np.zeros((2, 2))), "one column"),
        (lambda: fit_temperatures([0, 1], [0.1, -0.2]), "probability is -0.2"),
        (lambda: apply_temperatures([[0.1]], [1.0, 2.0]), "temperatures"),
        (lambda: apply_temperatures([[0.1]], [0.0]), r"temperature is \[0.0\]"),
        (lambda: apply_temperatures([[1.1]], [1.0]), "probability is 1.1"),
        (lambda: fit_softmax_temperature([0, 1], [0.1, 0.2]), "truth has shape"),
        (lambda: fit_softmax_temperature([0, 2], [[0.1, 0.9], [0.1, 0.9]]), "no class; give 0 to 1"),
        (lambda: apply_softmax_temperature([0.1], 1.0), "probability has shape"),
        (lambda: apply_softmax_temperature([[0.1, 0.9]], np.nan), "temperature is"),
    ],
)
def test_unusable_input_is_named(call, words):
    with pytest.raises(CxrError, match=words):
        call()
