"""Whether a probability means what it says: Brier score, calibration error, reliability, temperature scaling."""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cxrmonai.errors import CxrError
from cxrmonai.metrics.columns import check_columns
from cxrmonai.metrics.operating_points import lacking_class

BINNINGS = ("width", "mass")
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 100.0
_CLIP = 1e-7
_STEPS = 200


class ReliabilityCurve(NamedTuple):
    """Points of a reliability curve, one for each bin that holds images, by rising probability.

    Attributes:
        predicted: (K,) mean probability.
        observed: (K,) share of images with the finding.
        low: (K,) lower end of the 95 % interval of the share (Wilson, JASA 1927;22:209-212, images as independent).
        high: (K,) upper end.
        count: (K,) images.
    """

    predicted: np.ndarray
    observed: np.ndarray
    low: np.ndarray
    high: np.ndarray
    count: np.ndarray


def brier_score(truth: ArrayLike, probability: ArrayLike) -> float | np.ndarray:
    """Mean squared difference of probability and truth (Brier, Monthly Weather Review 1950;78:1-3).

    Args:
        truth: (N,) or (N, C) of 0, 1 and NaN; a NaN leaves its row out of its column.
        probability: 0–1, of the same shape.

    Returns:
        0 (best) to 1: a float for (N,), an array (C,) for (N, C). NaN without a known row.

    Raises:
        CxrError: shapes that differ, a truth other than 0, 1 and NaN, a probability outside 0–1.
    """
    single = np.ndim(truth) == 1
    truth, probability = _check(truth, probability)
    known = ~np.isnan(truth)
    squares = np.where(known, (probability - np.where(known, truth, 0.0)) ** 2, 0.0).sum(axis=0)
    count = known.sum(axis=0)
    scores = np.divide(squares, count, out=np.full(len(count), np.nan), where=count > 0)
    return float(scores[0]) if single else scores


def expected_calibration_error(
    truth: ArrayLike, probability: ArrayLike, bins: int = 15, binning: str = "width"
) -> float | np.ndarray:
    """Expected calibration error of the probability of a finding.

    The sum over bins of (images in the bin / images) × |mean probability − share with the finding| (Naeini et al.,
    AAAI 2015), of the probability that the finding is present, not of the more likely of two classes.

    Args:
        truth: (N,) or (N, C) of 0, 1 and NaN; a NaN leaves its row out of its column.
        probability: 0–1, of the same shape.
        bins: 1 or more.
        binning: `width`, bins [0, 1/b), …, [1 − 1/b, 1]; `mass`, bins of as equal numbers of images as ties allow.

    Returns:
        0 (best) to 1: a float for (N,), an array (C,) for (N, C). NaN without a known row.

    Raises:
        CxrError: as `brier_score`, or bins or binning that are not usable.
    """
    single = np.ndim(truth) == 1
    truth, probability = _check(truth, probability)
    errors = np.full(truth.shape[1], np.nan)
    for column, (label, value) in enumerate(zip(truth.T, probability.T, strict=True)):
        curve = reliability_curve(label, value, bins, binning)
        if len(curve.count):
            errors[column] = np.abs(curve.predicted - curve.observed) @ curve.count / curve.count.sum()
    return float(errors[0]) if single else errors


def reliability_curve(
    truth: ArrayLike, probability: ArrayLike, bins: int = 10, binning: str = "width"
) -> ReliabilityCurve:
    """Observed share against mean probability, bin by bin, of one column (N,).

    Takes and raises as `expected_calibration_error`, for one column.
    """
    if bins < 1 or bins != int(bins):
        raise CxrError(f"bins is {bins}; give a whole number, 1 or more")
    if binning not in BINNINGS:
        raise CxrError(f"binning '{binning}': known are {', '.join(BINNINGS)}")
    truth, probability = _check(truth, probability)
    if truth.shape[1] != 1:
        raise CxrError(f"truth has shape {truth.shape}; a curve is drawn for one column (images,)")
    known = ~np.isnan(truth[:, 0])
    truth, probability = truth[known, 0], probability[known, 0]
    if binning == "width":
        place = np.minimum((probability * bins).astype(int), bins - 1)
    else:
        ordered = np.sort(probability)
        ends = [np.searchsorted(ordered, probability, side=side) for side in ("left", "right")]
        place = (ends[0] + ends[1]) * bins // (2 * max(len(truth), 1))
    count = np.bincount(place, minlength=bins)
    held = count > 0
    total = [np.bincount(place, weights=values, minlength=bins)[held] for values in (probability, truth)]
    count = count[held]
    observed = total[1] / count
    return ReliabilityCurve(total[0] / count, observed, *_wilson(observed, count), count)


def fit_temperatures(truth: ArrayLike, probability: ArrayLike) -> tuple[np.ndarray, list[str]]:
    """Fits one temperature a finding by the least negative log-likelihood (Guo et al., ICML 2017).

    Give validation images. The calibrated probability is sigmoid(logit(p) / T), see `apply_temperatures`: T over 1
    makes an overconfident model milder, the order of the images stays as it is.

    Args:
        truth: (N, C), or (N,) for one finding, of 0, 1 and NaN; a NaN leaves its row out of its column.
        probability: 0–1, of the same shape; taken as at least 1e-7 from 0 and 1.

    Returns:
        Temperatures (C,) from 0.01 to 100; 1 where nothing can be fitted. For each finding the reason of that or of a
        bound that is reached, else an empty text.

    Raises:
        CxrError: as `brier_score`.
    """
    truth, probability = _check(truth, probability)
    temperatures, reasons = np.ones(truth.shape[1]), []
    for column, label in enumerate(truth.T):
        lacking = lacking_class(label)
        if lacking:
            reasons.append(f"temperature left at 1: the validation set has {lacking}")
            continue
        known = ~np.isnan(label)
        logits = _logit(probability[known, column])
        both = np.stack([np.zeros_like(logits), logits], axis=1)
        temperatures[column], reason = _fit(both, label[known].astype(int))
        reasons.append(reason)
    return temperatures, reasons


def apply_temperatures(probability: ArrayLike, temperatures: ArrayLike) -> np.ndarray:
    """Calibrated probabilities (N, C) from (N, C) of 0–1 and temperatures (C,); a temperature of 1 changes nothing.

    Raises:
        CxrError: shapes that do not fit, a probability outside 0–1, or a temperature that is not over 0.
    """
    probability = _check_probability(np.asarray(probability, dtype=np.float64))
    temperatures = np.asarray(temperatures, dtype=np.float64)
    if probability.ndim != 2 or temperatures.shape != probability.shape[1:]:
        shapes = f"probability has shape {probability.shape} and temperatures {temperatures.shape}"
        raise CxrError(f"{shapes}; give (images, classes) and (classes,)")
    _check_temperature(temperatures)
    scaled = np.exp(-np.logaddexp(0.0, -_logit(probability) / temperatures))
    return np.where(temperatures == 1, probability, scaled)


def fit_softmax_temperature(truth: ArrayLike, probability: ArrayLike) -> tuple[float, str]:
    """Fits the one temperature of a multi-class model; as `fit_temperatures`, with softmax(log p / T).

    Args:
        truth: (N,) class numbers from 0 to C − 1, NaN where unknown.
        probability: (N, C) of 0–1.

    Returns:
        The temperature, and a reason where it is left at 1 or reaches a bound, else an empty text.

    Raises:
        CxrError: shapes that do not fit, a probability outside 0–1, or a truth that is no class number.
    """
    truth, probability = np.asarray(truth, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    if truth.ndim != 1 or probability.ndim != 2 or len(truth) != len(probability):
        shapes = f"truth has shape {truth.shape} and probability {probability.shape}"
        raise CxrError(f"{shapes}; give (images,) and (images, classes)")
    _check_probability(probability)
    known = ~np.isnan(truth)
    if not np.isin(truth[known], np.arange(probability.shape[1])).all():
        raise CxrError(f"truth holds a number that is no class; give 0 to {probability.shape[1] - 1}, or NaN (unknown)")
    if len(np.unique(truth[known])) < 2:
        return 1.0, "temperature left at 1: the validation set has fewer than two classes"
    return _fit(np.log(np.maximum(probability[known], _CLIP)), truth[known].astype(int))


def apply_softmax_temperature(probability: ArrayLike, temperature: float) -> np.ndarray:
    """Calibrated probabilities (N, C) of a multi-class model from (N, C) of 0–1; a temperature of 1 changes nothing.

    Raises:
        CxrError: another shape, a probability outside 0–1, or a temperature that is not over 0.
    """
    probability = _check_probability(np.asarray(probability, dtype=np.float64))
    if probability.ndim != 2:
        raise CxrError(f"probability has shape {probability.shape}; give (images, classes)")
    _check_temperature(np.asarray([temperature], dtype=np.float64))
    return probability if temperature == 1 else _softmax(np.log(np.maximum(probability, _CLIP)) / temperature)


def _fit(logits: np.ndarray, label: np.ndarray) -> tuple[float, str]:
    """Temperature of (n, K) logits and (n,) classes: Newton on the inverse temperature, kept within a bracket.

    The negative log-likelihood is convex in the inverse temperature, so that its slope rises and has one root at most.
    """
    low, high = 1 / HIGHEST_TEMPERATURE, 1 / LOWEST_TEMPERATURE
    own = logits[np.arange(len(label)), label]

    def slope(inverse: float) -> tuple[float, float]:
        share = _softmax(logits * inverse)
        mean = (share * logits).sum(axis=1)
        return float((mean - own).mean()), float((share * (logits - mean[:, None]) ** 2).sum(axis=1).mean())

    if np.ptp(logits, axis=1).max() == 0:
        return 1.0, "temperature left at 1: the model gives every class the same probability"
    if slope(low)[0] >= 0:
        return (
            HIGHEST_TEMPERATURE,
            f"temperature at its bound of {HIGHEST_TEMPERATURE:g}: the model is no better than chance",
        )
    if slope(high)[0] <= 0:
        return (
            LOWEST_TEMPERATURE,
            f"temperature at its bound of {LOWEST_TEMPERATURE:g}: the model tells the classes apart",
        )
    inverse = 1.0
    for _ in range(_STEPS):
        value, curvature = slope(inverse)
        low, high = (inverse, high) if value < 0 else (low, inverse)
        step = value / curvature if curvature > 0 else np.inf
        if abs(step) <= 1e-13 * inverse:
            break
        inverse = inverse - step if low < inverse - step < high else (low + high) / 2
    return 1 / inverse, ""


def _softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def _logit(probability: np.ndarray) -> np.ndarray:
    probability = np.clip(probability, _CLIP, 1 - _CLIP)
    return np.log(probability) - np.log1p(-probability)


def _wilson(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    z = NormalDist().inv_cdf(0.975)
    centre = share + z**2 / (2 * count)
    reach = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return tuple(np.clip((centre + sign * reach) / (1 + z**2 / count), 0.0, 1.0) for sign in (-1, 1))


def _check(truth: ArrayLike, probability: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    truth, probability = check_columns(truth, probability)
    return truth, _check_probability(probability)


def _check_probability(probability: np.ndarray) -> np.ndarray:
    bad = ~((probability >= 0) & (probability <= 1))
    if bad.any():
        raise CxrError(
            f"probability is {probability[bad][0]:g}; give numbers from 0 to 1, such as a sigmoid's or softmax's"
        )
    return probability


def _check_temperature(temperatures: np.ndarray) -> None:
    if not ((temperatures > 0) & np.isfinite(temperatures)).all():
        raise CxrError(f"temperature is {temperatures.tolist()}; give finite numbers over 0")
