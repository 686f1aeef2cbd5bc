"""Drawing patients and their studies."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import pandas as pd

from cxrmonai.data.phantom.study import FINDINGS, Body, Lesion, Study
from cxrmonai.errors import CxrError

_STUDY_COUNTS = (0.36, 0.36, 0.18, 0.10)


def draw_population(patients: int, seed: int, exposure: float = 0.0, prevalence: float = 1.0) -> list[Study]:
    """Draws the studies of a number of patients, in order of patient and study.

    Patient k is the same whatever `patients` is.

    Args:
        patients: number of patients, at least 1.
        seed: any integer, at least 0.
        exposure: what this hospital's exposure is off the usual one, in log exposure, -1 to 1; images get darker above
            0.
        prevalence: share of the usual findings that this hospital's patients have, 0 to 1; a patient has a finding in
            all studies that usually show it, or in none.

    Raises:
        CxrError: `patients` is below 1, `seed` below 0, or `exposure` or `prevalence` out of range.
    """
    if patients < 1:
        raise CxrError(f"patients: {patients} is too few for a phantom population; give 1 or more")
    if seed < 0:
        raise CxrError(f"seed: {seed} is negative; give 0 or more")
    if not -1 <= exposure <= 1:
        raise CxrError(f"exposure: {exposure} is out of range; give -1 to 1")
    if not 0 <= prevalence <= 1:
        raise CxrError(f"prevalence: {prevalence} is out of range; give 0 to 1")
    studies = []
    for patient in range(patients):
        spared = np.random.default_rng([seed, patient, 1]).random(len(FINDINGS)) >= prevalence
        names = {name for name, left_out in zip(FINDINGS, spared, strict=True) if left_out}
        for study in _draw_patient(patient, seed):
            kept = study.without(*names) if names else study
            studies.append(dataclasses.replace(kept, exposure=kept.exposure + exposure))
    return studies


def population_table(studies: Iterable[Study]) -> pd.DataFrame:
    """Returns one row per study in the columns of the project's table.

    Columns: `image_id`, `patient_id`, `study_id`, `view` (`PA` or `AP`), `age` (years), `sex` (`F` or `M`), then one
    float column per finding, 1.0 present and 0.0 absent.
    """
    columns = ["image_id", "patient_id", "study_id", "view", "age", "sex", *FINDINGS]
    rows = [
        [s.study_id, s.patient_id, s.study_id, s.view, s.age, s.sex, *(float(name in s.findings) for name in FINDINGS)]
        for s in studies
    ]
    table = pd.DataFrame(rows, columns=columns)
    return table.astype({"age": float, **dict.fromkeys(FINDINGS, float)})


def _draw_patient(patient: int, seed: int) -> list[Study]:
    rng = np.random.default_rng([seed, patient])
    body = _draw_body(rng)
    age = float(np.clip(rng.normal(55, 18), 18, 90))
    count = 1 + int(rng.choice(len(_STUDY_COUNTS), p=_STUDY_COUNTS))
    chronic = _draw_chronic(rng, age, count)
    studies = []
    for study in range(count):
        lesions = [lesion for onset, lesion in chronic if onset <= study]
        studies.append(_draw_study(rng, patient, study, min(age, 95.0), body, lesions))
        age += float(rng.exponential(1.3))
    return studies


def _draw_body(rng: np.random.Generator) -> Body:
    female = bool(rng.random() < 0.5)
    build = float(np.clip(rng.normal(0.1, 0.8), -1.4, 2.0))
    stature = float(np.clip(rng.normal(0, 1), -2, 2))
    half_width = (12.1 if female else 13.5) + 0.35 * stature + 0.35 * build
    return Body(
        seed=int(rng.integers(2**31)),
        sex="F" if female else "M",
        build=build,
        half_width=half_width + float(np.clip(rng.normal(0, 0.3), -0.7, 0.7)),
        lung_length=(20.6 if female else 22.6)
        + 0.7 * stature
        - 0.5 * build
        + float(np.clip(rng.normal(0, 0.7), -1.5, 1.5)),
        heart_ratio=float(np.clip(rng.normal(0.435 + 0.008 * build, 0.02), 0.38, 0.475)),
        rib_tilt=float(np.clip(rng.normal(8.2 - 0.6 * build, 1.1), 5.5, 11)),
        breast=float(np.clip(rng.normal(3.7 + 0.8 * build, 0.7), 2.0, 5.6)) if female else max(0.0, 0.6 * build),
        breast_radius=float(np.clip(rng.normal(5.6 + 0.5 * build, 0.5), 4.4, 7.2)),
        breast_level=float(np.clip(rng.normal(0.84, 0.06), 0.72, 0.98)),
        scoliosis=float(np.clip(rng.normal(0, 0.3), -0.9, 0.9)),
        bone=float(np.clip(rng.normal(0.98 if female else 1.06, 0.08), 0.75, 1.25)),
        aorta=float(np.clip(rng.normal(1.0, 0.1), 0.8, 1.25)),
        shoulder=float(rng.normal(0, 0.6)),
    )


def _draw_study(
    rng: np.random.Generator, patient: int, study: int, age: float, body: Body, chronic: list[Lesion]
) -> Study:
    well = not chronic and rng.random() < 0.30
    acute = [] if well else _draw_acute(rng, any(lesion.finding == "Cardiomegaly" for lesion in chronic))
    sick = len({lesion.finding for lesion in acute} - {"Fracture"})
    view = "AP" if rng.random() < (0.22 + 0.22 * min(sick, 2)) else "PA"
    supine = view == "AP"
    if not well and rng.random() < (0.13 if supine else 0.015):
        acute += _draw_tubes(rng)
    has_border = rng.random(4) < 0.3
    return Study(
        patient=patient,
        study=study,
        age=age,
        view=view,
        body=body,
        inspiration=-float(np.clip(rng.gamma(2.0, 0.7 if supine else 0.35) + (1.0 if supine else 0.0), 0, 4.5)),
        tilt=float(np.clip(rng.normal(0, 2.2 if supine else 1.1), -6, 6)),
        turn=float(np.clip(rng.normal(0, 0.7 if supine else 0.35), -1.6, 1.6)),
        shift=(float(np.clip(rng.normal(0, 0.6), -1.5, 1.5)), float(np.clip(rng.normal(0, 0.8), -1.8, 1.8))),
        field=float(np.clip(rng.normal(35.5 if body.sex == "M" else 33.0, 1.4), max(30, 2.3 * body.half_width), 41)),
        arms=float(rng.beta(2, 2) * (0.5 if supine else 1.0)),
        exposure=float(np.clip(rng.normal(0, 0.28), -0.65, 0.65)),
        contrast=float(np.clip(rng.normal(1.12 if supine else 1.0, 0.1), 0.8, 1.35)),
        noise=float(np.exp(rng.normal(-3.7 if supine else -4.1, 0.3))),
        scatter=float(np.clip(rng.normal(0.22 if supine else 0.12, 0.04), 0.04, 0.34)),
        collimation=tuple(float(v) for v in np.where(has_border, rng.uniform(0.005, 0.035, 4), 0.0)),
        marker=str(rng.choice(["L", "R", ""], p=[0.5, 0.25, 0.25])),
        seed=int(rng.integers(2**31)),
        lesions=tuple(sorted(chronic + acute, key=lambda lesion: FINDINGS.index(lesion.finding))),
    )


def _draw_chronic(rng: np.random.Generator, age: float, count: int) -> list[tuple[int, Lesion]]:
    """Draws lesions that stay, each with the number of the first study that shows it."""
    found = []

    def add(lesion: Lesion) -> None:
        found.append((int(rng.integers(count)) if rng.random() < 0.5 else 0, lesion))

    if rng.random() < 0.10 + 0.20 * np.clip((age - 35) / 50, 0, 1):
        add(_lesion(rng, "Cardiomegaly", side=0))
    if rng.random() < 0.17:
        add(_lesion(rng, "Mass", down=(0.18, 0.72), across=(0.35, 0.72), extent=(3.3, 6.5)))
    if rng.random() < 0.18:
        for _ in range(int(rng.choice([1, 2, 3], p=[0.65, 0.25, 0.10]))):
            add(_lesion(rng, "Nodule", down=(0.15, 0.8), across=(0.35, 0.85), extent=(1.6, 2.9)))
    if rng.random() < 0.18:
        found += _draw_fractures(rng, int(rng.integers(count)))
    if rng.random() < 0.07:
        add(_lesion(rng, "Support Devices", side=1 if rng.random() < 0.85 else -1, kind="pacemaker"))
    return found


def _draw_fractures(rng: np.random.Generator, onset: int) -> list[tuple[int, Lesion]]:
    side = int(rng.choice([-1, 1]))
    first = int(rng.integers(3, 8))
    across = rng.uniform(0.25, 0.75)
    return [
        (onset, _lesion(rng, "Fracture", side=side, across=(across - 0.05, across + 0.05), kind=str(rib)))
        for rib in range(first, first + int(rng.choice([1, 2, 3], p=[0.45, 0.35, 0.20])))
    ]


def _draw_acute(rng: np.random.Generator, large_heart: bool) -> list[Lesion]:
    found: list[Lesion] = []
    failure = rng.random() < (0.42 if large_heart else 0.06)
    if failure and rng.random() < 0.9:
        severity = (0.25, 1.0)
        shared = int(rng.integers(2**31))
        strength = rng.uniform(*severity)
        found += [
            _lesion(rng, "Edema", side=side, severity=(strength, strength), seed=shared + side) for side in (-1, 1)
        ]
    if rng.random() < (0.5 if failure else 0.09):
        found += [_lesion(rng, "Pleural Effusion", side=side) for side in _sides(rng, 0.5 if failure else 0.2)]
    if rng.random() < 0.12:
        found += [
            _lesion(rng, "Consolidation", side=side, down=(0.25, 0.85), across=(0.35, 0.65))
            for side in _sides(rng, 0.25)
        ]
    if rng.random() < 0.12:
        kinds = ["plate", "plate", "lobe"]
        found += [_lesion(rng, "Atelectasis", side=side, kind=str(rng.choice(kinds))) for side in _sides(rng, 0.2)]
    if rng.random() < 0.13:
        found.append(_lesion(rng, "Pneumothorax"))
    if rng.random() < 0.06:
        found += _draw_tubes(rng)
    return found


def _draw_tubes(rng: np.random.Generator) -> list[Lesion]:
    kinds = rng.permutation(["airway", "line", "gastric", "leads"])[: int(rng.choice([1, 2, 3], p=[0.4, 0.4, 0.2]))]
    return [_lesion(rng, "Support Devices", kind=str(kind)) for kind in sorted(kinds)]


def _sides(rng: np.random.Generator, both: float) -> list[int]:
    return [-1, 1] if rng.random() < both else [int(rng.choice([-1, 1]))]


def _lesion(
    rng: np.random.Generator,
    finding: str,
    side: int | None = None,
    across: tuple[float, float] = (0.3, 0.8),
    down: tuple[float, float] = (0.2, 0.8),
    extent: tuple[float, float] = (0.0, 1.0),
    severity: tuple[float, float] = (0.0, 1.0),
    kind: str = "",
    seed: int | None = None,
) -> Lesion:
    drawn_side = int(rng.choice([-1, 1]))
    values = {name: float(rng.uniform(*span)) for name, span in (("a", across), ("d", down), ("e", extent))}
    drawn_seed = int(rng.integers(2**31))
    return Lesion(
        finding=finding,
        side=drawn_side if side is None else side,
        across=values["a"],
        down=values["d"],
        extent=values["e"],
        severity=float(rng.uniform(*severity)),
        kind=kind,
        seed=drawn_seed if seed is None else seed,
    )
