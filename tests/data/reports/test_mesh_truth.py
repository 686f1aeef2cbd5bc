"""Codes of Open-i's coders, and what was measured against them."""

from __future__ import annotations

import zipfile
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from cxrmonai.data.reports.evaluate import half_of, macro_f1, main, score_against_mesh
from cxrmonai.data.reports.findings import FINDINGS
from cxrmonai.data.reports.mesh import labels_of_codes
from cxrmonai.errors import CxrError


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("Cardiomegaly/mild", {"Cardiomegaly": 1}),
        ("Cardiomegaly/borderline", {"Cardiomegaly": -1}),
        ("Cardiac Shadow/enlarged/moderate", {"Cardiomegaly": 1}),
        ("Cardiac Shadow", {}),
        ("Pleural Effusion/right/small", {"Pleural Effusion": 1}),
        ("Opacity/lung/base/left", {"Lung Opacity": 1}),
        ("Opacity/lung/left/round", {"Lung Opacity": 1, "Lung Lesion": 1}),
        ("Density/lung/base/left", {"Lung Opacity": 1}),
        ("Density/paratracheal", {}),
        ("Nodule/lung/lower lobe/left", {"Lung Lesion": 1}),
        ("Nodule/pleura/upper lobe/bilateral", {"Pleural Other": 1}),
        ("Cicatrix/lung/apex/bilateral", {"Lung Opacity": 1}),
        ("Cicatrix/pleura/apex/bilateral", {"Pleural Other": 1}),
        ("Markings/lung/interstitial/prominent", {"Lung Opacity": 1}),
        ("Markings/bronchovascular", {}),
        ("Pulmonary Congestion/mild", {"Edema": 1}),
        ("Hemopneumothorax/right/moderate", {"Pneumothorax": 1, "Pleural Effusion": 1}),
        ("Fractures, Bone/ribs/left/healed", {"Fracture": 1}),
        ("Deformity/ribs/left/multiple", {}),
        ("Calcified Granuloma/lung/left", {}),
        ("Costophrenic Angle/left/blunted", {}),
        ("Lung/hypoinflation", {}),
        ("Something  Else", {}),
        (" pulmonary  ATELECTASIS/ base / bilateral", {"Atelectasis": 1}),
    ],
)
def test_codes(code, expected):
    labels = labels_of_codes([code])
    assert list(labels) == list(FINDINGS)
    assert {name: value for name, value in labels.items() if value != 0} == expected


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        (["normal"], 1),
        (["Technical Quality of Image Unsatisfactory "], 1),
        (["Catheters, Indwelling/right", "Surgical Instruments"], 1),
        (["Catheters, Indwelling/right", "Spine/degenerative"], 0),
        (["Cardiomegaly/borderline"], 0),
        (["No Indexing"], None),
        ([], None),
        ([" "], None),
    ],
)
def test_no_finding(codes, expected):
    labels = labels_of_codes(codes)
    assert labels["No Finding"] == expected
    assert all(value is None for value in labels.values()) == (expected is None)


def test_a_certain_code_beats_a_borderline_one():
    for codes in (
        ["Cardiomegaly/borderline", "Cardiac Shadow/enlarged"],
        ["Cardiac Shadow/enlarged", "Cardiomegaly/borderline"],
    ):
        assert labels_of_codes(codes)["Cardiomegaly"] == 1


def raw_codes(shared_data):
    with zipfile.ZipFile(shared_data / "indiana_reports.zip") as file:
        for name in file.namelist():
            yield name[:-4], [element.text for element in ElementTree.fromstring(file.read(name)).iter("major")]


def test_real_codes_against_an_independent_count(shared_data):
    raw = dict(raw_codes(shared_data))
    labels = pd.DataFrame([labels_of_codes(codes) for codes in raw.values()], index=list(raw)).astype(float)
    text = pd.Series({name: "\n" + "\n".join(codes) for name, codes in raw.items()})
    counted = {
        "Atelectasis": r"\nPulmonary Atelectasis",
        "Pleural Effusion": r"\nPleural Effusion|\nHemopneumothorax",
        "Fracture": r"\nFractures, Bone",
        "Pneumonia": r"\nPneumonia",
        "Consolidation": r"\nConsolidation",
        "Edema": r"\nPulmonary Edema|\nPulmonary Congestion|\nHeart Failure",
        "Enlarged Cardiomediastinum": r"\nMediastinum/",
        "Support Devices": r"\nCatheters|\nImplanted|\nMedical Device|\nTube, |\nStents|\nSpinal Fusion",
    }
    for name, pattern in counted.items():
        assert (labels[name] == 1).sum() == text.str.contains(pattern).sum(), name
    surely = text.str.contains(r"\nCardiomegaly(?!/borderline)|\nCardiac Shadow/enlarged")
    assert (labels["Cardiomegaly"] == 1).sum() == surely.sum()
    assert (labels["Cardiomegaly"] == -1).sum() == (text.str.contains("Cardiomegaly/borderline") & ~surely).sum()
    uncoded = text.str.contains("No Indexing")
    assert uncoded.sum() == labels.isna().all(axis=1).sum() == labels.isna().any(axis=1).sum() == 7
    assert (labels.loc[text == "\nnormal", "No Finding"] == 1).all()
    assert (labels["No Finding"] == 1).sum() == 153


XML = (
    "<e><AbstractText Label='FINDINGS'>{text}</AbstractText><AbstractText Label='INDICATION'>Mass</AbstractText>"
    "<MeSH><major>{code}</major></MeSH></e>"
)


def test_scores_by_hand(tmp_path):
    cases = [
        ("Cardiomegaly.", "Cardiomegaly"),
        ("Heart is enlarged.", "normal"),
        ("Possible cardiomegaly.", "Cardiomegaly/borderline"),
        ("Possible cardiomegaly.", "normal"),
        ("No cardiomegaly.", "Cardiomegaly"),
        ("Cardiomegaly.", "No Indexing"),
    ]
    for number, (text, code) in enumerate(cases):
        (tmp_path / f"{number}.xml").write_text(XML.format(text=text, code=code))
    row = score_against_mesh(tmp_path).set_index("finding").loc["Cardiomegaly"]
    assert row["positives"] == 3
    np.testing.assert_allclose(row[["precision_ones", "recall_ones", "f1_ones"]].astype(float), [2 / 4, 2 / 3, 4 / 7])
    np.testing.assert_allclose(
        row[["precision_zeros", "recall_zeros", "f1_zeros"]].astype(float), [1 / 2, 1 / 3, 2 / 5]
    )
    parts = [score_against_mesh(tmp_path, half).set_index("finding")["positives"] for half in ("tuning", "held-out")]
    assert (parts[0] + parts[1]).loc["Cardiomegaly"] == 3
    with pytest.raises(CxrError, match="half 'odd'; known are tuning, held-out, all"):
        score_against_mesh(tmp_path, "odd")
    (tmp_path / "7.xml").write_text("<e>")
    with pytest.raises(CxrError, match=r"7\.xml: not readable as XML"):
        score_against_mesh(tmp_path)


def test_halves_are_fixed_and_disjoint(shared_data):
    halves = pd.Series({name: half_of(name) for name, _ in raw_codes(shared_data)})
    assert halves.value_counts().to_dict() == {"held-out": 214, "tuning": 186}
    assert half_of("1004") == "tuning"


def test_macro_f1_of_the_held_out_half(shared_data):
    scores = score_against_mesh(shared_data / "indiana_reports.zip", "held-out")
    assert (scores["positives"] >= 10).sum() == 5
    assert macro_f1(scores, "ones") >= 0.85
    assert macro_f1(scores, "zeros") >= 0.85
    often = ["No Finding", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Atelectasis", "Pleural Effusion",
             "Fracture", "Support Devices"]  # fmt: skip
    assert macro_f1(scores, "ones", often) >= 0.85


def test_the_command_prints_the_table(shared_data, capsys):
    main([str(shared_data / "indiana_reports.zip"), "--half", "tuning"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in FINDINGS)
    assert "macro F1 over findings with at least 10 positives, uncertain counted as present: 0." in printed
    with pytest.raises(SystemExit, match=r"error: .*absent: cannot be read"):
        main(["absent"])
