"""The model card of an export: what is known is filled in, the rest is marked."""

import json

import pytest
import torch

from cxrmonai.deploy.card import HEADINGS, SECTION, TEMPLATE, count_to_fill, fill_card, sections
from cxrmonai.deploy.hub import hub_page
from cxrmonai.errors import CxrError
from cxrmonai.networks import Classifier

GAP = {"gap": 0.2, "gap_ci": [0.1, 0.3], "highest": "M", "lowest": "F", "reason": ""}
METRICS = {
    "images": 40, "patients": 20, "synthetic": True, "mean_auroc": 0.8, "mean_auroc_ci": [0.7, 0.9],
    "findings": {"Mass": {"auroc": None, "auroc_ci": [None, None]}, "Edema": {"auroc": 0.75, "auroc_ci": [0.6, 0.85]}},
    "subgroups": {
        "sex": {
            "minimum": 10, "groups": {"F": {"images": 19}, "M": {"images": 21}},
            "gaps": {"Edema": {"auroc": GAP}, "Mass": {"auroc": {**GAP, "gap": None}}},
        },
        "view": {"minimum": 10, "groups": {}, "gaps": {"Edema": {"auroc": {**GAP, "gap": None}}}},
    },
}  # fmt: skip
PAGE = """# Limitations

Blind.

# Model Card

## Intended Use

A test.

## Users

Testers.

# References

1. None.
"""


@pytest.fixture
def folder(tmp_path):
    """What an export has when its card is made."""
    torch.manual_seed(0)
    asked = {"target": "findings", "classes": "Mass,Edema", "policy": {"Edema": "ones"}, "blank": None}
    network = Classifier("Mass,Edema", "resnet10t", image_size=32, asked={**asked, "equalize": False})
    metadata = {
        "name": "Ours", "task": "Two findings", "version": "0.3",
        "network_data_format": {
            "inputs": {"image": {"num_channels": 1, "spatial_shape": [32, 32], "dtype": "float32"}},
            "outputs": {"pred": {"num_channels": 2, "channel_def": {"0": "Mass", "1": "Edema"}}},
        },
    }  # fmt: skip
    for name, content in (
        ("configs/metadata.json", json.dumps(metadata)),
        ("docs/README.md", PAGE),
        ("models/operating_points.json", json.dumps({"origin": "Youden on 30 images"})),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    torch.save(network.state_dict(), tmp_path / "models/model.pt")
    return tmp_path


def test_what_the_program_knows_is_filled_in(folder):
    card = fill_card(folder)
    found = sections(card)
    assert "# Model Card: Ours" in card
    assert "$" not in card
    assert found["Intended Use"] == "A test."
    assert found["Limitations"].startswith("Blind.")
    assert "| outputs | Mass, Edema |" in card
    assert "resnet10t" in card
    assert 'policy {"Edema": "ones"}' in card
    assert "Youden on 30 images (models/operating_points.json)" in card
    assert "1 × 32 × 32 float32" in card
    assert found["Metrics"].startswith("TO FILL: figures")
    assert "TO FILL: out-of-scope use." in found["Out-of-Scope Use"]  # the page has none
    assert count_to_fill(card) == card.count("TO FILL:") >= 6


def test_figures_of_an_evaluation(folder, tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(METRICS))
    card = fill_card(folder, path)
    assert "| mean AUROC | 0.800 [0.700, 0.900] |" in card
    assert "| Edema, AUROC | 0.750 [0.600, 0.850] |" in card
    assert "| Mass, AUROC | not defined |" in card
    assert "On 40 synthetic radiographs of 20 patients" in card
    assert "say nothing about patients" in card
    assert "- sex (F 19 images, M 21 images): widest gap in AUROC 0.200 [0.100, 0.300] for Edema, M above F" in card
    assert "- view (unknown): widest gap in AUROC none, for want of 10 images" in card


@pytest.mark.parametrize("content", ["{", "[]", '{"loss": 1}'])
def test_another_file_is_refused(folder, tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(CxrError, match=r"other\.json: .* give the metrics.json that evaluate.json wrote"):
        fill_card(folder, path)


def test_the_template_has_the_headings_of_a_bundle(folder):
    assert {*HEADINGS[:-1], "Limitations"} <= set(sections(TEMPLATE.read_text()))


def test_the_hub_shows_the_card_once(folder):
    (folder / "docs/model_card.md").write_text(fill_card(folder))
    page = hub_page(folder)
    assert page.count("## Intended Use") == 1
    assert f"# {SECTION}\n" not in page
    assert "# References\n\n1. None." in page


def test_sections_hold_what_is_below_them():
    found = sections("# A\n\n## B\n\ntext\n\n```\n# no heading\n```\n\n# C\n")
    assert set(found) == {"A", "B", "C"}
    assert found["A"] == found["B"] == "text\n```\n# no heading\n```"
    assert found["C"] == ""
