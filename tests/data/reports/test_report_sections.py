"""Headings and sentences."""

from __future__ import annotations

import pytest

from cxrmonai.data.reports.patterns import load_patterns
from cxrmonai.data.reports.sections import MAX_SENTENCE, sentences, split_sections

MIMIC = """\
                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___-year-old with cough  // pneumonia?

 COMPARISON:  None.

 FINDINGS:

 No effusion.
 Heart: mildly
 enlarged.

 No pneumothorax.

 IMPRESSION:

 1. Cardiomegaly.
 2. Possible atelectasis.
"""


@pytest.fixture(scope="module")
def split():
    patterns = load_patterns()
    return lambda text: split_sections(text, patterns.read, patterns.leave)


def test_a_report_of_mimic(split):
    findings, impression = split(MIMIC)
    assert [*sentences(findings), *sentences(impression)] == [
        "No effusion.", "Heart: mildly enlarged.", "No pneumothorax.", "Cardiomegaly.", "Possible atelectasis."
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FINDINGS: One. IMPRESSION: Two.", ["One.", "Two."]),
        ("Findings: One.\nImpression : Two.", ["One.", "Two."]),
        ("We see the findings: one.", ["We see the findings: one."]),
        ("HISTORY: Old.\nIMPRESSION: New.\nRECOMMENDATION: CT.", ["New."]),
        ("IMPRESSION:\r\nOne.\r\n\r\nTwo.", ["One.\n\nTwo."]),
        ("Only this.", ["Only this."]),
        ("INDICATION: Cough.\nCOMPARISON: None.\n\nLungs are clear.", ["Lungs are clear."]),
        ("Before.\nTECHNIQUE: PA.\n\nAfter.", ["Before.", "After."]),
        ("INDICATION: Cough.", []),
        ("FINDINGS:\n\nIMPRESSION:\n", []),
    ],
)
def test_headings(split, text, expected):
    assert split(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two? Three!", ["One.", "Two?", "Three!"]),
        ("A 4.5 x 6.8 cm mass. Dr. X was told.", ["A 4.5 x 6.8 cm mass.", "Dr. X was told."]),
        ("Scar vs. atelectasis.", ["Scar vs. atelectasis."]),
        ("Effusion.There is more.", ["Effusion.", "There is more."]),
        ("1. One\n2. Two", ["One", "Two"]),
        ("- One\n- Two", ["One", "Two"]),
        ("no\nbreak here", ["no break here"]),
        ("One\n\nTwo", ["One", "Two"]),
        ("Clear lungs. . ", ["Clear lungs."]),
        ("Seen by Dr.", ["Seen by Dr."]),
        ("", []),
    ],
)
def test_sentences(text, expected):
    assert list(sentences(text)) == expected


def test_an_endless_sentence_is_cut_between_words():
    parts = list(sentences("effusion " * 1000))
    assert " ".join(parts) == ("effusion " * 1000).strip()
    assert max(map(len, parts)) <= MAX_SENTENCE
    assert list(sentences("x" * 2500)) == ["x" * 1000, "x" * 1000, "x" * 500]
