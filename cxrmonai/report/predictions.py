"""The predictions of an evaluation as a table, and the comparison of two such tables."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pandas as pd

from cxrmonai.errors import CxrError
from cxrmonai.metrics import Evaluation, compare_models

COMPARISON_NOTE = (
    "difference is the AUROC of the second run minus that of the first; low, high and p are DeLong's, which takes "
    "images as independent; p_holm is corrected for the number of findings (Holm); low_by_patient and high_by_patient "
    "are the 95 % interval of a bootstrap over patients, to be preferred where patients have several images"
)


def prediction_table(evaluation: Evaluation) -> pd.DataFrame:
    """The predictions, one row an image in the order given.

    Columns: `image_id`, `patient_id`, `split`; then for each finding `truth_NAME` (1, 0, or blank where unknown) and
    `probability_NAME` (before temperature scaling). For a multi-class model `truth` and `predicted` (class names, truth
    blank where unknown) and `probability_NAME` for each class.
    """
    columns: dict[str, object] = {
        "image_id": evaluation.image_ids,
        "patient_id": evaluation.patient_ids,
        "split": evaluation.splits,
    }
    names = evaluation.class_names
    if evaluation.task == "multiclass":
        unknown = np.isnan(evaluation.truth).any(axis=1)
        labels = np.array(names, dtype=object)
        columns["truth"] = np.where(unknown, "", labels[np.nan_to_num(evaluation.truth).argmax(axis=1)])
        columns["predicted"] = labels[evaluation.probability.argmax(axis=1)]
    for index, name in enumerate(names):
        if evaluation.task == "multilabel":
            columns[f"truth_{name}"] = pd.array(evaluation.truth[:, index], dtype="Int8")
        columns[f"probability_{name}"] = evaluation.probability[:, index]
    return pd.DataFrame(columns)


def compare_runs(
    first: str | os.PathLike[str], second: str | os.PathLike[str], resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Compares the AUROC of two runs on the same images by DeLong's test; `COMPARISON_NOTE` says what the columns mean.

    Args:
        first: `predictions.csv` of one run, see `prediction_table`.
        second: of the other; its rows may be in another order.
        resamples: of the bootstrap over patients.
        seed: of the bootstrap.

    Returns:
        One row a finding (for multi-class a class against the rest), indexed by its name: the fields of
        `cxrmonai.metrics.compare_models`.

    Raises:
        CxrError: a file that is missing or not of that kind, or images, patients, findings or truths that differ.
    """
    one, other = _read_predictions(first), _read_predictions(second)
    where = f"{first} and {second}"
    if list(one["truth"]) != list(other["truth"]):
        if set(one["truth"]) != set(other["truth"]):
            differing = sorted(set(one["truth"]) ^ set(other["truth"]))
            raise CxrError(
                f"{where}: only one of them has the finding {differing[0]}; compare runs of the same findings"
            )
        other = {key: table[list(one["truth"])] if key != "patient" else table for key, table in other.items()}
    ids = one["truth"].index
    missing = ids.symmetric_difference(other["truth"].index)
    if len(missing):
        raise CxrError(f"{where}: only one of them has the image {missing[0]}; compare runs on the same images")
    other = {key: table.loc[ids] for key, table in other.items()}
    if not one["truth"].equals(other["truth"]):
        differs = one["truth"].ne(other["truth"]) & ~(one["truth"].isna() & other["truth"].isna())
        row, column = (int(place) for place in np.argwhere(differs.to_numpy())[0])
        image, name = ids[row], one["truth"].columns[column]
        raise CxrError(f"{where}: the truth of {name} differs at image {image}; compare runs on the same labels")
    if not one["patient"].equals(other["patient"]):
        image = ids[int((one["patient"] != other["patient"]).to_numpy().argmax())]
        raise CxrError(f"{where}: the patient of image {image} differs; compare runs on the same data")
    patient = one["patient"].to_numpy(dtype=str)
    groups = np.where(patient == "", np.char.add("image ", ids.to_numpy(dtype=str)), np.char.add("patient ", patient))
    scores = [table["probability"].to_numpy() for table in (one, other)]
    compared = compare_models(one["truth"].to_numpy(), *scores, list(one["truth"]), groups, resamples, seed)
    return pd.DataFrame.from_dict(compared, orient="index").rename_axis("finding")


def _read_predictions(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads `truth` and `probability` (a column a finding) and `patient`, all indexed by image."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise CxrError(f"{path}: cannot be read as predictions ({error}); give a run's predictions.csv") from error
    names = [name.removeprefix("probability_") for name in table if str(name).startswith("probability_")]
    wanted = ["truth"] if "truth" in table else [f"truth_{name}" for name in names]
    absent = [name for name in ["image_id", "patient_id", *wanted] if name not in table]
    if absent or not names:
        raise CxrError(f"{path}: has no column '{[*absent, 'probability_NAME'][0]}'; give a run's predictions.csv")
    if table["image_id"].duplicated().any():
        twice = table["image_id"][table["image_id"].duplicated()].iloc[0]
        raise CxrError(f"{path}: has the image {twice} twice; give one row an image")
    table = table.set_index("image_id")
    if "truth" in table:
        strange = set(table["truth"]) - {*names, ""}
        if strange:
            raise CxrError(f"{path}: truth is '{min(strange)}', which has no column of probabilities")
        known = table["truth"] != ""
        truth = pd.DataFrame({name: (table["truth"] == name).astype(float).where(known) for name in names})
    else:
        truth = table[wanted].set_axis(names, axis=1)
        truth = truth.apply(lambda column: _numbers(column.mask(column == ""), path))
    probability = table[[f"probability_{name}" for name in names]].set_axis(names, axis=1)
    probability = probability.apply(lambda column: _numbers(column, path))
    return {"truth": truth, "probability": probability, "patient": table["patient_id"]}


def _numbers(column: pd.Series, path: str | os.PathLike[str]) -> pd.Series:
    try:
        return pd.to_numeric(column).astype(np.float64)
    except (ValueError, TypeError) as error:
        raise CxrError(f"{path}: {column.name} holds something that is no number ({error})") from error
