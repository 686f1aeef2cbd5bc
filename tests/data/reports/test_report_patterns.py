"""The file of patterns and its language."""

from __future__ import annotations

import pytest

from cxrmonai.data.reports.labeller import Labeller
from cxrmonai.data.reports.patterns import SHIPPED, load_patterns
from cxrmonai.data.reports.phrases import PhraseError, finder, tail, triggers
from cxrmonai.errors import CxrError


@pytest.mark.parametrize(
    ("phrase", "text", "found"),
    [
        ("effusion*", "two effusions here", "effusions"),
        ("effusion", "two effusions here", None),
        ("pleural fluid|air", "pleural air", "pleural air"),
        ("air space disease", "air-space disease", "air-space disease"),
        ("air space disease", "airspace disease", None),
        ("air-space disease", "air space disease", "air space disease"),
        ("pleural? fluid", "some fluid", "fluid"),
        ("lung lesion? size", "lung size", "lung size"),
        ("heart ... enlarged", "heart size is mildly enlarged", "enlarged"),
        ("heart ... enlarged", "heart size, aorta enlarged", None),
        ("heart ... enlarged", "heart normal and aorta enlarged", None),
        ("mass", "massive", None),
        ("mass", "biomass", None),
        ("t2*", "(t2*", "t2"),
    ],
)
def test_phrases(phrase, text, found):
    match = finder([phrase]).search(text)
    assert (text[slice(*tail(match))] if match else None) == found


def test_the_longer_phrase_comes_first_and_commas_may_be_crossed():
    assert finder(["pleural", "pleural fluid"]).search("pleural fluid")[0] == "pleural fluid"
    assert finder(["heart ... normal"], over_commas=True).search("heart size, and aorta, are normal")
    assert not finder(["heart ... normal"], over_commas=True).search("heart size is not normal")


def test_triggers_are_written_out():
    assert triggers("no|without significant? change") == [
        "no significant change", "no change", "without significant change", "without change"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "phrase", ["", "  ", "a||b", "a?b", "*x", "... x", "x ...", "x ... ... y", "x?", "x ... y?", "|"]
)
def test_phrases_that_cannot_be_read(phrase):
    with pytest.raises(PhraseError):
        finder([phrase])


@pytest.mark.parametrize("phrase", ["no*", "no ... of", " ".join(["a|b|c|d"] * 5)])
def test_triggers_that_cannot_be_read(phrase):
    with pytest.raises(PhraseError):
        triggers(phrase)


@pytest.fixture
def edited(tmp_path):
    """`make(old, new)` writes the shipped file with one text replaced."""

    def make(old, new):
        text = SHIPPED.read_text(encoding="utf-8")
        assert old in text
        path = tmp_path / "mine.yaml"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        return path

    return make


def test_a_new_name_takes_effect(edited):
    text = "There is a butterfly sign."
    path = edited("      - volume|fluid overload\n", "      - volume|fluid overload\n      - butterfly sign*\n")
    assert Labeller().label(text).findings["Edema"] is None
    assert Labeller(load_patterns(path)).label(text).findings["Edema"] == 1


def test_a_new_trigger_takes_effect(edited):
    text = "Devoid of pneumothorax. Fracture is imaginary."
    path = edited("        - negative for\n", "        - negative for\n        - devoid of\n")
    assert Labeller().label(text).findings["Pneumothorax"] == 1
    assert Labeller(load_patterns(path)).label(text).findings["Pneumothorax"] == 0
    path = edited("        - is|are|was|were absent\n", "        - is|are|was|were absent|imaginary\n")
    assert Labeller(load_patterns(path)).label(text).findings["Fracture"] == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  Cardiomegaly:\n    present:", "  Cardiomegaly:\n    p:", r"Cardiomegaly' lacks the key 'present'"),
        ("  Fracture:", "  Fractur:", r"'findings' lacks the key 'Fracture'"),
        ("  Fracture:", "  Gout:\n    present: [gout]\n  Fracture:", r"'findings' has an unknown key 'Gout'"),
        ("      - cardiomegaly\n", "      - [a]\n", r"'findings\.Cardiomegaly\.present' must be a list of phrases"),
        ("      - cardiomegaly\n", "      - '... a'\n", r"\.Cardiomegaly\.present' holds the phrase '\.\.\. a'"),
        ("        - negative for\n", "        - a*\n", r"\.negated \(group 1\)\.before' holds the phrase 'a\*'"),
        ("      3:\n", "      4:\n", r"'findings\.Edema\.grades' has an unknown key '4'"),
        ("sections:\n  read:", "sections:\n  reed:", r"'sections' lacks the key 'read'"),
        ("contexts:\n", "contexts:\n  later: []\n", r"'contexts' has an unknown key 'later'"),
        ("findings:\n", "findings: [\n", r"not readable as YAML in line \d+"),
    ],
)  # fmt: skip
def test_a_malformed_file_is_told_with_its_key(edited, old, new, message):
    path = edited(old, new)
    with pytest.raises(CxrError, match=rf"mine\.yaml: .*{message}|mine\.yaml: {message}") as caught:
        load_patterns(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"just text", "the file must have keys"),
        (b"", "the file must have keys"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"a: !!python/object/apply:os.system [x]", "the file lacks the key 'sections'"),
    ],
)
def test_a_file_of_something_else(tmp_path, content, message):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(CxrError, match=rf"mine\.yaml: {message}"):
        load_patterns(path)
    with pytest.raises(CxrError, match=r"absent\.yaml: cannot be read"):
        load_patterns(tmp_path / "absent.yaml")
