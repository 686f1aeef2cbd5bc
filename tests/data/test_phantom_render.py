"""The phantom: what it shows is what it says it shows."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from cxrmonai.data.phantom import FINDINGS, MASK_NAMES, draw_population, outline_sheet, population_table, render
from cxrmonai.errors import CxrError


@pytest.fixture(scope="module")
def studies():
    return draw_population(150, seed=4)


@pytest.fixture(scope="module")
def by_finding(studies):
    return {name: [s for s in studies if name in s.findings][:4] for name in FINDINGS}


@pytest.fixture(scope="module")
def upright(studies):
    """A study without findings, rotation or sideways turn."""
    plain = next(s for s in studies if not s.lesions and s.view == "PA")
    return dataclasses.replace(plain, tilt=0.0, turn=0.0, shift=(0.0, 0.0), collimation=(0.0,) * 4, marker="")


def tight_box(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x, y = columns[0], rows[0]
    return float(x), float(y), float(columns[-1] - x + 1), float(rows[-1] - y + 1)


def test_same_seed_same_population_and_pixels(studies):
    again = draw_population(150, seed=4)
    assert again == studies
    first, second = render(studies[3], 96), render(again[3], 96)
    np.testing.assert_array_equal(first.image, second.image)
    assert first.boxes == second.boxes
    assert draw_population(3, seed=5) != draw_population(3, seed=4)


def test_patient_does_not_depend_on_the_population_size(studies):
    few = draw_population(7, seed=4)
    assert few == studies[: len(few)]


def test_studies_of_a_patient_share_the_body_and_age_forward(studies):
    pairs = [(a, b) for a, b in itertools.pairwise(studies) if a.patient == b.patient]
    assert pairs
    for before, after in pairs:
        assert before.body == after.body
        assert before.age <= after.age
        assert after.study == before.study + 1


def test_names_are_sorted_and_complete():
    assert tuple(sorted(FINDINGS)) == FINDINGS
    assert (*FINDINGS, "Lungs") == MASK_NAMES


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("finding", FINDINGS)
def test_masks_and_boxes_of_each_finding(by_finding, finding, size):
    for study in by_finding[finding]:
        shown = render(study, size)
        assert shown.image.shape == (size, size)
        assert shown.image.dtype == np.uint8
        assert set(shown.masks) == {*study.findings, "Lungs"}
        assert all(mask.dtype == bool and mask.shape == (size, size) for mask in shown.masks.values())
        assert all(mask.any() for mask in shown.masks.values())
        assert [name for name, *_ in shown.boxes] == [lesion.finding for lesion in study.lesions]
        assert [tuple(box) for _, *box in shown.boxes] == [tight_box(mask) for mask in shown.lesions]
        for name in study.findings:
            parts = [m for m, (n, *_) in zip(shown.lesions, shown.boxes, strict=True) if n == name]
            np.testing.assert_array_equal(np.logical_or.reduce(parts), shown.masks[name])


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_finding_changes_the_pixels_of_its_mask(by_finding, finding):
    assert by_finding[finding]
    for study in by_finding[finding]:
        with_it, without_it = render(study, 128), render(study.without(finding), 128)
        change = np.abs(with_it.image.astype(float) - without_it.image)
        inside = change[with_it.masks[finding]].mean()
        assert inside > 4
        assert finding not in without_it.masks
        if finding not in {"Cardiomegaly", "Atelectasis"}:
            assert inside > 3 * change[~with_it.masks[finding]].mean()


@pytest.mark.parametrize("finding", ["Consolidation", "Fracture", "Mass", "Nodule", "Pleural Effusion"])
def test_a_focal_finding_leaves_no_sign_elsewhere(by_finding, finding):
    """So that a classifier can go by nothing but the place that the mask tells; `docs/explaining.md` names the rest."""
    shares = []
    for study in by_finding[finding]:
        with_it, without_it = render(study, 96), render(study.without(finding), 96)
        change = np.abs(with_it.image.astype(float) - without_it.image)
        shares.append(change[with_it.masks[finding]].sum() / change.sum())
    assert np.mean(shares) > 0.65


def test_no_lesion_hides(studies):
    """What a label tells can be seen at the size of the default store, also beside a large heart."""
    sick = [s for s in studies if "Cardiomegaly" in s.findings and len(s.lesions) > 1]
    sick += [s for s in studies if {"Fracture", "Nodule"} & set(s.findings)]
    for study in sick[:25]:
        shown = render(study, 96)
        for (name, *_), mask in zip(shown.boxes, shown.lesions, strict=True):
            assert mask.sum() >= 12, (study.study_id, name)
        for name in set(study.findings) - {"Cardiomegaly"}:
            change = np.abs(shown.image.astype(float) - render(study.without(name), 96).image)
            assert change[shown.masks[name]].max() > 15, (study.study_id, name)


def test_removing_lesions_by_replace_equals_without(by_finding):
    study = by_finding["Mass"][0]
    np.testing.assert_array_equal(
        render(dataclasses.replace(study, lesions=()), 64).image, render(study.without(), 64).image
    )


def test_same_scene_at_two_sizes(by_finding):
    for finding in ("Mass", "Pleural Effusion", "Support Devices"):
        study = by_finding[finding][0]
        small, large = render(study, 96), render(study, 192)
        shrunk = large.image.reshape(96, 2, 96, 2).mean((1, 3))
        assert np.abs(shrunk - small.image).mean() < 4
        covered = large.masks[finding].reshape(96, 2, 96, 2).mean((1, 3)) >= 0.5
        common = (covered & small.masks[finding]).sum() / (covered | small.masks[finding]).sum()
        assert common > 0.7


def test_orientation(upright):
    shown = render(upright, 128)
    lungs = shown.masks["Lungs"]
    right_lung, left_lung = lungs[:, :64], lungs[:, 64:]
    assert right_lung.sum() > left_lung.sum()
    right_dome = np.flatnonzero(lungs[:, 28]).max()
    left_dome = np.flatnonzero(lungs[:, 99]).max()
    assert right_dome < left_dome
    base = np.flatnonzero(lungs[:, 40]).max()
    below = shown.image[base + 6 : base + 14, 36:44].mean()
    above = shown.image[base - 24 : base - 10, 36:44].mean()
    assert below > above + 40


def test_heart_points_to_the_patients_left(by_finding):
    study = dataclasses.replace(by_finding["Cardiomegaly"][0], tilt=0.0, turn=0.0, shift=(0.0, 0.0))
    heart = render(study, 128).masks["Cardiomegaly"]
    columns = np.flatnonzero(heart.any(0))
    assert columns.max() - 64 > 64 - columns.min()
    apex = np.flatnonzero(heart[:, columns.max()]).mean()
    assert apex > np.flatnonzero(heart.any(1)).mean()


def test_lateralised_findings_lie_on_their_side(by_finding):
    for finding in ("Pneumothorax", "Pleural Effusion", "Mass"):
        study = dataclasses.replace(by_finding[finding][0], tilt=0.0, shift=(0.0, 0.0))
        shown = render(study, 96)
        for lesion, mask in zip(study.lesions, shown.lesions, strict=True):
            if lesion.finding == finding:
                assert np.sign(np.flatnonzero(mask.any(0)).mean() - 47.5) == lesion.side


def test_larger_heart_with_cardiomegaly(by_finding):
    for study in by_finding["Cardiomegaly"]:
        with_it, without_it = render(study, 64), render(study.without("Cardiomegaly"), 64)
        assert with_it.masks["Lungs"].sum() < without_it.masks["Lungs"].sum()


def test_population_table(studies):
    table = population_table(studies)
    assert list(table.columns) == ["image_id", "patient_id", "study_id", "view", "age", "sex", *FINDINGS]
    assert table["image_id"].is_unique
    assert table["patient_id"][0] == "P0001"
    assert table["study_id"][0] == "P0001-S1"
    assert set(table["view"]) == {"PA", "AP"}
    assert set(table["sex"]) == {"F", "M"}
    assert table["age"].between(18, 96).all()
    assert set(np.unique(table[list(FINDINGS)])) == {0.0, 1.0}
    assert all(table[name].dtype == np.float64 for name in FINDINGS)


def test_prevalence():
    table = population_table(draw_population(1500, seed=0))
    share = table[list(FINDINGS)].mean()
    assert share.between(0.075, 0.205).all()
    assert 0.28 <= (table[list(FINDINGS)].sum(axis=1) == 0).mean() <= 0.42
    assert 1.7 < table.groupby("patient_id").size().mean() < 2.3
    failing = table[table["Edema"] == 1]
    assert failing["Cardiomegaly"].mean() > 2 * share["Cardiomegaly"]
    assert failing["Pleural Effusion"].mean() > 2 * share["Pleural Effusion"]


def test_brightness_alone_does_not_tell_findings(studies):
    table = population_table(studies[::2])
    brightness = np.array([render(s, 32).image.mean() for s in studies[::2]])
    ill = table[list(FINDINGS)].sum(axis=1).to_numpy() > 0
    gap = abs(brightness[ill].mean() - brightness[~ill].mean())
    assert gap < 0.6 * brightness.std()


@pytest.mark.parametrize("size", [0, 31, 2049])
def test_bad_size(studies, size):
    with pytest.raises(CxrError, match="size"):
        render(studies[0], size)


def test_bad_population():
    with pytest.raises(CxrError, match="patients"):
        draw_population(0, seed=1)
    with pytest.raises(CxrError, match="seed"):
        draw_population(1, seed=-1)


def test_outline_sheet(studies):
    sheet = outline_sheet(studies[:5], size=64, columns=3)
    assert sheet.dtype == np.uint8
    assert sheet.ndim == 3
    assert sheet.shape[2] == 3
    assert sheet.shape[1] >= 3 * 64
    assert (sheet[..., 0] != sheet[..., 1]).any()
    with pytest.raises(CxrError, match="studies"):
        outline_sheet([])
    with pytest.raises(CxrError, match="columns"):
        outline_sheet(studies[:1], columns=0)


def test_another_hospital_has_the_same_patients_with_fewer_findings_and_other_exposure():
    usual = draw_population(60, seed=4)
    other = draw_population(60, seed=4, exposure=0.5, prevalence=0.4)
    assert [study.body for study in other] == [study.body for study in usual]
    np.testing.assert_allclose([study.exposure for study in other], [study.exposure + 0.5 for study in usual])
    had, kept = (sum(len(study.findings) for study in studies) for studies in (usual, other))
    assert 0.25 * had < kept < 0.55 * had
    for ours, theirs in zip(other, usual, strict=True):
        assert set(ours.lesions) <= set(theirs.lesions)
        twins = [study for study in other if study.patient == ours.patient]
        lost = set(theirs.findings) - set(ours.findings)
        assert not any(lost & set(study.findings) for study in twins)
    assert not any(study.lesions for study in draw_population(10, seed=4, prevalence=0))
    first = usual[0]
    dark, bright = (render(dataclasses.replace(first, exposure=value), 64).image.mean() for value in (0.5, -0.5))
    assert dark < bright
    with pytest.raises(CxrError, match="exposure: 2 is out of range"):
        draw_population(1, seed=1, exposure=2)
    with pytest.raises(CxrError, match=r"prevalence: 1\.5 is out of range"):
        draw_population(1, seed=1, prevalence=1.5)
