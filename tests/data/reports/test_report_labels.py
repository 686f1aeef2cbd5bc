"""What sentences and reports say of the findings."""

from __future__ import annotations

import pytest

from cxrmonai.data.reports.findings import FINDINGS, NO_FINDING
from cxrmonai.data.reports.labeller import Labeller, Mention, aggregate


@pytest.fixture(scope="module")
def labeller():
    return Labeller()


PNA, PTX, EFF, CON = "Pneumonia", "Pneumothorax", "Pleural Effusion", "Consolidation"
OPA, ATE, CAR, EDE = "Lung Opacity", "Atelectasis", "Cardiomegaly", "Edema"
LES, ECM, PLO, FRA, DEV = "Lung Lesion", "Enlarged Cardiomediastinum", "Pleural Other", "Fracture", "Support Devices"

SENTENCES = [
    # Present.
    ("There is a small left pleural effusion.", {EFF: 1}),
    ("Hemopneumothorax on the right.", {PTX: 1, EFF: 1}),
    ("Air-space disease in the right lower lobe.", {OPA: 1}),
    ("Nodular opacity in the right lung.", {OPA: 1, LES: 1}),
    ("Atelectasis/scarring at the left base.", {ATE: 1, OPA: 1}),
    ("Old healed left rib fractures.", {FRA: 1}),
    ("Widened mediastinum.", {ECM: 1}),
    ("Biapical pleural thickening.", {PLO: 1}),
    ("Right PICC line tip in the SVC.", {DEV: 1}),
    ("The heart size is mildly to moderately enlarged.", {CAR: 1}),
    ("XXXX XXXX chest XXXX tip is visualized at the proximal right atrium.", {DEV: 1}),
    ("Mild pulmonary oedema.", {EDE: 1}),
    # Other things of similar words.
    ("Small pericardial effusion.", {}),
    ("No mass effect.", {}),
    ("Degenerative endplate changes of the thoracic spine.", {}),
    ("Blunting of the left costophrenic angle.", {}),
    ("Heart size is stable.", {}),
    # Absent.
    ("No pneumothorax, effusion or focal consolidation.", {PTX: 0, EFF: 0, CON: 0}),
    ("No focal consolidation, pneumothorax, or large pleural effusion.", {CON: 0, PTX: 0, EFF: 0}),
    ("Neither effusion nor pneumothorax.", {EFF: 0, PTX: 0}),
    ("Negative for pneumothorax.", {PTX: 0}),
    ("Without evidence of pneumothorax.", {PTX: 0}),
    ("There are no XXXX of pleural effusion.", {EFF: 0}),
    ("No XXXX focal consolidation.", {CON: 0}),
    ("No new infiltrate.", {OPA: 0}),
    ("No definite pneumothorax.", {PTX: 0}),
    ("Pneumothorax is absent.", {PTX: 0}),
    ("Pleural effusions, pneumothorax, and consolidation are not seen.", {EFF: 0, PTX: 0, CON: 0}),
    ("Cardiomegaly without edema.", {CAR: 1, EDE: 0}),
    ("No pleural or pericardial effusion.", {EFF: 0}),
    ("No opacity to suggest pneumonia.", {OPA: 0, PNA: 0}),
    ("The heart is not enlarged.", {CAR: 0}),
    ("Mediastinum is not widened.", {ECM: 0}),
    ("No nodules or masses.", {LES: 0}),
    ("Lungs are clear of focal airspace disease, pneumothorax, or pleural effusion.", {OPA: 0, CON: 0, PTX: 0, EFF: 0}),
    ("Lungs are free of infiltrate.", {OPA: 0}),
    # Absent by being normal.
    ("The lungs are clear.", {OPA: 0, CON: 0}),
    ("LUNGS: Clear.", {OPA: 0, CON: 0}),
    ("Lungs are not clear.", {}),
    ("Heart size normal.", {CAR: 0}),
    ("Heart and mediastinum normal.", {CAR: 0, ECM: 0}),
    ("Heart size, mediastinal contour, and pulmonary vascularity are within normal limits.", {CAR: 0, ECM: 0, EDE: 0}),
    ("The interstitial markings are within normal limits.", {OPA: 0}),
    ("Heart size at the upper limits of normal.", {CAR: 0}),
    # Where a negation ends.
    ("No evidence of pneumothorax. Effusion is present.", {PTX: 0, EFF: 1}),
    ("No pneumothorax but a small effusion is present.", {PTX: 0, EFF: 1}),
    ("No pneumothorax; small effusion.", {PTX: 0, EFF: 1}),
    ("No pneumothorax, possible small effusion.", {PTX: 0, EFF: -1}),
    ("Stable cardiomegaly, effusion is not seen.", {CAR: 1, EFF: 0}),
    ("There is no large effusion, however a small effusion may be present.", {EFF: -1}),
    # What looks like a negation.
    ("No change in the effusion.", {EFF: 1}),
    ("No change, no effusion.", {EFF: 0}),
    ("No significant interval change in small left pleural effusion.", {EFF: 1}),
    ("The consolidation persists without significant change.", {CON: 1}),
    ("Not only pneumonia but also an effusion is present.", {PNA: 1, EFF: 1}),
    ("The effusion hasn't resolved.", {EFF: 1}),
    ("Effusion has not completely resolved.", {EFF: 1}),
    # Gone.
    ("The effusion is no longer seen.", {EFF: 0}),
    ("No longer seen is the pleural effusion.", {EFF: 0}),
    ("The pneumothorax has resolved.", {PTX: 0}),
    ("Resolved pneumothorax.", {PTX: 0}),
    ("The pneumothorax has resolved without residual effusion.", {PTX: 0, EFF: 0}),
    ("Previously seen pneumothorax is not visualized.", {PTX: 0}),
    ("Previously seen effusion is unchanged.", {EFF: 1}),
    ("Interval removal of the right PICC line.", {DEV: 0}),
    # Uncertain.
    ("Cannot exclude pneumonia.", {PNA: -1}),
    ("Pneumonia cannot be excluded.", {PNA: -1}),
    ("A mass is not excluded.", {LES: -1}),
    ("Opacity may represent atelectasis or pneumonia.", {OPA: 1, ATE: -1, PNA: -1}),
    ("Possible small effusion.", {EFF: -1}),
    ("Probable left lower lobe atelectasis.", {ATE: -1}),
    ("Atelectasis versus pneumonia at the left base.", {ATE: -1, PNA: -1}),
    ("Streaky opacities, atelectasis versus pneumonia.", {OPA: 1, ATE: -1, PNA: -1}),
    ("Cardiomegaly and small left pleural effusion versus pleural thickening.", {CAR: 1, EFF: -1, PLO: -1}),
    ("Findings suggestive of pulmonary edema.", {EDE: -1}),
    ("Question of left lower lobe pneumonia and/or pleural effusion.", {PNA: -1, EFF: -1}),
    ("Pneumonia is unlikely.", {PNA: -1}),
    ("Concerning for pneumonia.", {PNA: -1}),
    ("Borderline heart size.", {CAR: -1}),
    ("Heart size is borderline enlarged.", {CAR: -1}),
    ("Please correlate clinically for pneumonia.", {PNA: -1}),
    # Not of this film.
    ("Evaluate for pneumonia.", {}),
    ("History of pneumonia.", {}),
    ("Recommend CT to exclude malignancy.", {}),
]


def mentioned(labels):
    return {name: value for name, value in labels.findings.items() if value is not None and name != NO_FINDING}


@pytest.mark.parametrize(("sentence", "expected"), SENTENCES)
def test_sentences(labeller, sentence, expected):
    assert mentioned(labeller.label(sentence)) == expected


def test_case_and_repetition_do_not_matter(labeller):
    text = "No pneumothorax. Small effusion."
    assert labeller.label(text) == labeller.label(text.upper()) == labeller.label(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No pulmonary edema.", 0),
        ("Pulmonary vasculature is normal.", 0),
        ("Mild pulmonary vascular congestion.", 1),
        ("Cephalization.", 1),
        ("Interstitial pulmonary edema. Mild vascular congestion.", 2),
        ("Kerley B lines.", 2),
        ("Severe pulmonary edema with small effusions.", 3),
        ("Alveolar edema.", 3),
        ("Pulmonary edema.", None),
        ("No interstitial edema. Mild vascular congestion.", 1),
        ("Possible interstitial edema. Mild vascular congestion.", 1),
        ("Possible interstitial edema.", 2),
        ("Heart size is normal.", None),
    ],
)
def test_edema_severity(labeller, text, expected):
    assert labeller.label(text).edema_severity == expected


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [((0, 1), 1), ((1, -1), 1), ((0, -1), -1), ((-1, 0, 1), 1), ((0, 0), 0), ((-1, -1), -1), ((), None)],
)
def test_the_strongest_mention_counts(statuses, expected):
    labels = aggregate([Mention(EFF, status, "effusion") for status in statuses])
    assert labels.findings[EFF] == expected
    assert list(labels.findings) == list(FINDINGS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No acute disease.", 1),
        ("No effusion. Heart size is normal.", 1),
        ("Pacemaker in place.", 1),
        ("Pacemaker in place. Small effusion.", None),
        ("Possible small effusion.", None),
        ("Tortuous aorta.", None),
        ("Calcified granuloma.", None),
        ("No granuloma.", 1),
    ],
)
def test_no_finding_as_chexpert_has_it(labeller, text, expected):
    assert labeller.label(text).findings[NO_FINDING] == expected


def test_sections_that_are_read(labeller):
    text = "INDICATION: Pneumonia.\nFINDINGS: No effusion.\nIMPRESSION: Cardiomegaly."
    assert mentioned(labeller.label(text)) == {EFF: 0, CAR: 1}
