"""One evaluation of a classifier: the predictions with all that goes with them, and the numbers that come of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cxrmonai.errors import CxrError
from cxrmonai.metrics.bootstrap import percentile_interval
from cxrmonai.metrics.calibration import (
    apply_softmax_temperature,
    apply_temperatures,
    brier_score,
    expected_calibration_error,
    fit_softmax_temperature,
    fit_temperatures,
)
from cxrmonai.metrics.classification import classification_summary
from cxrmonai.metrics.columns import check_columns
from cxrmonai.metrics.multiclass import class_numbers, multiclass_summary, one_hot
from cxrmonai.metrics.operating_points import (
    COUNTS,
    bootstrap_call_rates,
    call_counts,
    call_rates,
    calls_at,
    check_rule,
    choose_thresholds,
    lacking_class,
)
from cxrmonai.metrics.subgroups import age_bands, subgroup_summary

TASKS = ("multilabel", "multiclass")
_RULE_WORDS = {
    "youden": "the largest sensitivity + specificity (Youden)",
    "max_f1": "the largest F1",
    "sensitivity": "the highest threshold with a sensitivity of at least {}",
    "specificity": "the lowest threshold with a specificity of at least {}",
}


@dataclass(frozen=True, eq=False)
class OperatingPoints:
    """What was chosen on validation images and is only applied to the images under test; see `fit_operating_points`.

    Attributes:
        thresholds: (C,) of the probability before temperature scaling, NaN where none could be chosen; None for a
            multi-class model, which takes the most probable class.
        temperatures: (C,), or (1,) for a multi-class model.
        origin: where they come from, in words.
        reasons: (C,) why a threshold is NaN, else empty; may be left out.
        temperature_reasons: as many as temperatures, why one is 1 or at a bound, else empty; may be left out.
    """

    thresholds: np.ndarray | None
    temperatures: np.ndarray
    origin: str = "given by the user"
    reasons: Sequence[str] = ()
    temperature_reasons: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Predictions on the images under test, checked when it is made.

    Attributes:
        truth: (N, C) of 0, 1 and NaN (unknown); for `multiclass` also (N,) class numbers with NaN, kept as (N, C).
        probability: (N, C) of 0–1, before temperature scaling; for `multiclass` rows that sum to 1.
        class_names: C different names.
        image_ids: (N,) different and not empty.
        patient_ids: (N,); an empty one makes the image a patient of its own.
        splits: (N,), such as `test`.
        task: `multilabel` (one finding too), or `multiclass` (one class an image).
        ordered: whether the classes of `multiclass` are grades in order.
        sex: (N,) such as `F` and `M`, empty where unknown; may be left out.
        age: (N,) years, NaN where unknown; may be left out.
        view: (N,) such as `PA`, empty where unknown; may be left out.
        operating: thresholds and temperatures from validation images; without them nothing is called positive.
        facts: to be listed in the report, such as encoder and data set.
        synthetic: whether the images are a phantom.

    Raises:
        CxrError: no image, arrays that do not fit, ids that are missing or double, values out of range.
    """

    truth: np.ndarray
    probability: np.ndarray
    class_names: Sequence[str]
    image_ids: np.ndarray
    patient_ids: np.ndarray
    splits: np.ndarray
    task: str = "multilabel"
    ordered: bool = False
    sex: np.ndarray | None = None
    age: np.ndarray | None = None
    view: np.ndarray | None = None
    operating: OperatingPoints | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    synthetic: bool = False

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise CxrError(f"task '{self.task}': known are {', '.join(TASKS)}")
        if self.ordered and self.task != "multiclass":
            raise CxrError("ordered is set, but task is multilabel; only the classes of multiclass can be grades")
        names = [str(name) for name in self.class_names]
        if not names or len(set(names)) != len(names):
            raise CxrError(f"class_names {names} is empty or has a name twice; give each class its own name")
        truth = self.truth
        if self.task == "multiclass":
            truth = one_hot(class_numbers(truth, len(names)), len(names))
        truth, probability = check_columns(truth, self.probability, names)
        if not len(truth):
            raise CxrError("there is no image to evaluate; check the split and the classes")
        _check_probabilities(probability, self.task)
        settled: dict[str, Any] = {"truth": truth, "probability": probability, "class_names": names}
        for key in ("image_ids", "patient_ids", "splits", "sex", "view"):
            if getattr(self, key) is not None:
                settled[key] = _text_column(getattr(self, key), key, len(truth))
        if self.age is not None:
            settled["age"] = np.asarray(self.age, dtype=np.float64)
            if settled["age"].shape != (len(truth),):
                raise CxrError(f"age has shape {settled['age'].shape}; give one for each image, ({len(truth)},)")
            age_bands(settled["age"])
        _check_ids(settled["image_ids"])
        _check_operating(self.operating, len(names), self.task)
        for key, value in settled.items():
            object.__setattr__(self, key, value)

    @property
    def groups(self) -> np.ndarray:
        """(N,) what the bootstrap draws: the patient, or the image itself where its patient is unknown."""
        own = np.char.add("image ", self.image_ids)
        return np.where(self.patient_ids == "", own, np.char.add("patient ", self.patient_ids))

    @property
    def calls(self) -> np.ndarray:
        """(N, C) of 1 for what the model calls positive, else 0; NaN without a threshold."""
        if self.task == "multiclass":
            return one_hot(self.probability.argmax(axis=1), len(self.class_names))
        if self.operating is None:
            return np.full(self.truth.shape, np.nan)
        return calls_at(self.probability, self.operating.thresholds)

    @property
    def calibrated(self) -> np.ndarray:
        """(N, C) probability after temperature scaling; NaN without temperatures."""
        if self.operating is None:
            return np.full(self.truth.shape, np.nan)
        return recalibrate(self.probability, self.task, self.operating)

    @property
    def attributes(self) -> dict[str, np.ndarray]:
        """The groups of each image by `sex`, `age` (bands) and `view`, those that are known for some image."""
        labels = {"sex": self.sex, "age": None if self.age is None else age_bands(self.age), "view": self.view}
        return {name: values for name, values in labels.items() if values is not None and (values != "").any()}


def recalibrate(probability: np.ndarray, task: str, operating: OperatingPoints) -> np.ndarray:
    """(N, C) probabilities after temperature scaling."""
    if task == "multiclass":
        return apply_softmax_temperature(probability, float(operating.temperatures[0]))
    return apply_temperatures(probability, operating.temperatures)


def fit_operating_points(
    truth: ArrayLike,
    probability: ArrayLike,
    task: str = "multilabel",
    rule: str = "youden",
    target: float | None = None,
    source: str = "validation images",
) -> OperatingPoints:
    """Chooses thresholds and temperatures. Give validation images, never those under test.

    Args:
        truth: (N, C) of 0, 1 and NaN; for `multiclass` also (N,) class numbers with NaN.
        probability: (N, C) of 0–1.
        task: `multilabel` or `multiclass`; the latter has no thresholds and one temperature.
        rule: see `operating_points.choose_thresholds`.
        target: of the rules `sensitivity` and `specificity`.
        source: what the images are, for the words of `origin`.

    Raises:
        CxrError: arrays, task, rule or target that do not fit.
    """
    if task not in TASKS:
        raise CxrError(f"task '{task}': known are {', '.join(TASKS)}")
    check_rule(rule, target)
    probability = np.asarray(probability, dtype=np.float64)
    where = f"on {len(probability)} {source}"
    if task == "multiclass":
        numbers = class_numbers(truth, probability.shape[-1])
        temperature, reason = fit_softmax_temperature(numbers, probability)
        origin = f"temperature fitted {where}; the most probable class is taken"
        return OperatingPoints(None, np.array([temperature]), origin, (), (reason,))
    thresholds, reasons = choose_thresholds(truth, probability, rule, target)
    temperatures, temperature_reasons = fit_temperatures(truth, probability)
    origin = f"thresholds chosen and temperatures fitted {where}; rule: {_RULE_WORDS[rule].format(target)}"
    return OperatingPoints(thresholds, temperatures, origin, tuple(reasons), tuple(temperature_reasons))


def evaluation_summary(evaluation: Evaluation, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """All numbers of an evaluation, to be written as `metrics.json`; NaN is a value that is not defined.

    Args:
        evaluation: predictions on the images under test.
        resamples: of the bootstrap over patients; 0 gives NaN intervals.
        seed: of the bootstrap.

    Returns:
        The keys of `classification_summary`; `task`, `synthetic`, `splits`, `operating_points` (in words),
        `bootstrap`; for each finding also `threshold`, the counts and rates of `apply_thresholds`, `sensitivity_ci`,
        `specificity_ci`, `brier`, `ece` (15 bins of equal width), `ece_mass` (15 bins of equal numbers),
        `temperature`, `brier_calibrated`, `ece_calibrated` and `notes` (why something is not defined); `subgroups` by
        `sex`, `age` and `view`, see `subgroup_summary`; and for `multiclass` that part, see `multiclass_summary`, with
        `temperature`, `ece` and `ece_calibrated` of the predicted class. For `multiclass` each class stands among
        `findings` against the rest, called positive where it is the most probable.

    Raises:
        CxrError: a number of resamples below 0.
    """
    truth, probability, names = evaluation.truth, evaluation.probability, evaluation.class_names
    draws = {"groups": evaluation.groups, "resamples": resamples, "seed": seed}
    calls, calibrated = evaluation.calls, evaluation.calibrated
    summary = classification_summary(truth, probability, names, **draws)
    columns = _call_columns(truth, calls, draws) | _calibration_columns(evaluation, calibrated)
    for index, (name, finding) in enumerate(summary["findings"].items()):
        finding |= {key: values[index].tolist() for key, values in columns.items()}
        finding |= {key: int(finding[key]) for key in COUNTS if finding[key] == finding[key]}
        finding["notes"] = _notes(evaluation, index, name)
    summary |= {
        "task": evaluation.task,
        "synthetic": evaluation.synthetic,
        "splits": {str(name): int((evaluation.splits == name).sum()) for name in np.unique(evaluation.splits)},
        "operating_points": None if evaluation.operating is None else evaluation.operating.origin,
        "bootstrap": {"resamples": resamples, "seed": seed, "level": 0.95, "unit": "patient"},
        "subgroups": {
            name: subgroup_summary(truth, probability, names, labels, calls, **draws)
            for name, labels in evaluation.attributes.items()
        },
    }
    if evaluation.task == "multiclass":
        part = multiclass_summary(truth, probability, names, ordered=evaluation.ordered, **draws)
        summary["multiclass"] = part | _top_calibration(evaluation, calibrated)
    return summary


def _call_columns(truth: np.ndarray, calls: np.ndarray, draws: Mapping[str, Any]) -> dict[str, np.ndarray]:
    counts = call_counts(truth, calls)
    samples = bootstrap_call_rates(truth, calls, **draws)
    columns = dict(zip(COUNTS, counts, strict=True))
    for name, values in call_rates(counts).items():
        columns[name] = values
        columns[f"{name}_ci"] = np.stack(percentile_interval(samples[name]), axis=1)
    return columns


def _calibration_columns(evaluation: Evaluation, calibrated: np.ndarray) -> dict[str, np.ndarray]:
    truth, probability, classes = evaluation.truth, evaluation.probability, len(evaluation.class_names)
    undefined = np.full(classes, np.nan)
    columns = {
        "threshold": undefined,
        "brier": brier_score(truth, probability),
        "ece": expected_calibration_error(truth, probability),
        "ece_mass": expected_calibration_error(truth, probability, binning="mass"),
        "temperature": undefined,
        "brier_calibrated": undefined,
        "ece_calibrated": undefined,
    }
    operating = evaluation.operating
    if operating is None:
        return columns
    if operating.thresholds is not None:
        columns["threshold"] = np.asarray(operating.thresholds, dtype=np.float64)
    return columns | {
        "temperature": np.broadcast_to(np.asarray(operating.temperatures, dtype=np.float64), classes),
        "brier_calibrated": brier_score(truth, calibrated),
        "ece_calibrated": expected_calibration_error(truth, calibrated),
    }


def _top_calibration(evaluation: Evaluation, calibrated: np.ndarray) -> dict[str, float]:
    """Calibration of the probability that the predicted class is right."""
    right = np.where(np.isnan(evaluation.truth[:, 0]), np.nan, (evaluation.truth * evaluation.calls).sum(axis=1))
    part = {"temperature": np.nan, "ece": expected_calibration_error(right, evaluation.probability.max(axis=1))}
    if evaluation.operating is None:
        return part | {"ece_calibrated": np.nan}
    part["temperature"] = float(evaluation.operating.temperatures[0])
    return part | {"ece_calibrated": expected_calibration_error(right, calibrated.max(axis=1))}


def _notes(evaluation: Evaluation, index: int, name: str) -> list[str]:
    """Why something of one finding is not defined."""
    notes = []
    lacking = lacking_class(evaluation.truth[:, index])
    if lacking:
        notes.append(f"{lacking.replace('the finding', name)} under test: AUROC and what needs both is not defined")
    operating = evaluation.operating
    if operating is None:
        missing = "no validation predictions were given"
        kept = "temperature" if evaluation.task == "multiclass" else "threshold and temperature"
        return [*notes, f"{missing}: no {kept}"]
    reasons = [operating.reasons, operating.temperature_reasons]
    if evaluation.task == "multiclass":
        index = 0
    return notes + [texts[index] for texts in reasons if len(texts) > index and texts[index]]


def _check_probabilities(probability: np.ndarray, task: str) -> None:
    outside = (probability < 0) | (probability > 1)
    if outside.any():
        raise CxrError(
            f"probability is {probability[outside][0]:g}; give numbers from 0 to 1, after sigmoid or softmax"
        )
    off = np.abs(probability.sum(axis=1) - 1) > 1e-3
    if task == "multiclass" and off.any():
        row = int(off.argmax())
        total = probability[row].sum()
        raise CxrError(f"probability sums to {total:g} at row {row}; the classes of multiclass must sum to 1 (softmax)")


def _text_column(values: ArrayLike, key: str, rows: int) -> np.ndarray:
    values = np.asarray(values, dtype=object)
    if values.shape != (rows,):
        raise CxrError(f"{key} has shape {values.shape}; give one for each image, ({rows},)")
    return np.where(pd.isna(values), "", values.astype(str)).astype(str)


def _check_ids(image_ids: np.ndarray) -> None:
    if (image_ids == "").any():
        raise CxrError(f"image_ids is empty at row {int((image_ids == '').argmax())}; give each image its id")
    names, counts = np.unique(image_ids, return_counts=True)
    if (counts > 1).any():
        twice = names[int((counts > 1).argmax())]
        raise CxrError(f"image_ids has {twice} twice; predict each image once, without the padding of uneven batches")


def _check_operating(operating: OperatingPoints | None, classes: int, task: str) -> None:
    if operating is None:
        return
    if (operating.thresholds is None) != (task == "multiclass"):
        raise CxrError(
            f"operating.thresholds must be {'left out' if task == 'multiclass' else 'given'} for task {task}"
        )
    if operating.thresholds is not None and np.shape(operating.thresholds) != (classes,):
        raise CxrError(
            f"operating.thresholds has shape {np.shape(operating.thresholds)}; give one a class, ({classes},)"
        )
    wanted = 1 if task == "multiclass" else classes
    if np.shape(operating.temperatures) != (wanted,):
        raise CxrError(f"operating.temperatures has shape {np.shape(operating.temperatures)}; give ({wanted},)")
