import base64
import io
import re
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from PIL import Image

from cxrmonai.errors import CxrError
from cxrmonai.metrics import classification_summary
from cxrmonai.report import (
    Estimate,
    Report,
    auroc_bars,
    classification_report,
    image_grid,
    png_bytes,
    precision_recall_curves,
    roc_curves,
)

DASH = "\N{EN DASH}"
VOID = {"meta", "img", "br", "link"}
NAMES = ["Cardiomegaly", "<script>alert(1)</script>", 'A$B$ & "C"']


class Reader(HTMLParser):
    """Checks that tags are balanced, and collects tags with attributes and text."""

    def __init__(self, document):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def decode(png):
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.format == "PNG"
    return image


@pytest.fixture(scope="module")
def results():
    random = np.random.default_rng(0)
    truth = (random.random((120, 3)) < 0.4).astype(float)
    score = truth + random.normal(size=truth.shape)
    truth[:9, 1] = np.nan
    truth[:, 2] = 0
    groups = np.arange(120) // 2
    summary = classification_summary(truth, score, NAMES, groups, resamples=20)
    baseline = classification_summary(truth, random.normal(size=truth.shape), NAMES, groups, resamples=20)
    return truth, score, summary, baseline


@pytest.fixture(scope="module")
def document(results, tmp_path_factory):
    truth, score, summary, baseline = results
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    classification_report(
        path,
        title="Test <b>report</b>",
        summary=summary,
        truth=truth,
        score=score,
        class_names=NAMES,
        description={"Encoder": "resnet18", "Rate": 1e-4, "Size": 224, "Sizes": (1, 2), "Mixed": True, "From": None},
        baseline=baseline,
        synthetic=True,
    )
    return path.read_text(encoding="utf-8")


def test_document_is_well_formed_and_described(document):
    reader = Reader(document)
    assert document.startswith("<!DOCTYPE html>")
    assert reader.all("html") == [{"lang": "en"}]
    assert "Test <b>report</b>" in reader.words
    assert all(attributes["alt"] for attributes in reader.all("img"))
    assert {attributes["scope"] for attributes in reader.all("th")} == {"row", "col"}


def test_document_asks_for_nothing_and_runs_nothing(document):
    reader = Reader(document)
    policies = [meta["content"] for meta in reader.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert {tag for tag, _ in reader.tags} & {"script", "link", "iframe", "object", "a"} == set()
    sources = [value for _, attributes in reader.tags for name, value in attributes.items() if name in ("src", "href")]
    assert len(sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    readable = re.sub(r"base64,[^\"]*", "", document)
    assert not re.search(r"https?:|//|url\(|@import|\bon\w+=", readable)


def test_names_are_escaped(document):
    assert "<script" not in document
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in document
    assert NAMES[2] in Reader(document).words


def test_images_decode(document):
    for data in re.findall(r'src="data:image/png;base64,([^"]*)"', document):
        assert decode(base64.b64decode(data)).width > 1000


def test_document_holds_the_numbers(document, results):
    _, _, summary, baseline = results
    words = " ".join(Reader(document).words)
    assert f"{summary['mean_auroc']:.3f}" in words
    for name in NAMES[:2]:
        finding = summary["findings"][name]
        for key in ("auroc", "average_precision"):
            low, high = finding[f"{key}_ci"]
            assert f"{finding[key]:.3f}  [{low:.3f}, {high:.3f}]" in words
        assert f"{baseline['findings'][name]['auroc']:.3f}" in words
        assert f">{finding['positives']}<" in document
    assert "Mean of 2 defined" in words
    assert f"too few to judge: {NAMES[2]}" in words
    for fact in ("resnet18", "0.0001", "224", "1, 2", "yes", DASH):
        assert fact in Reader(document).words
    assert "no clinical meaning" in words
    assert "nan" not in words.lower().split()


def test_same_input_gives_the_same_file(results, tmp_path):
    truth, score, summary, _ = results
    for name in ("a", "b"):
        classification_report(
            tmp_path / name, title="T", summary=summary, truth=truth, score=score, class_names=NAMES, description={}
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert "clinical meaning" not in (tmp_path / "a").read_text()


def test_one_finding(tmp_path):
    truth, score = np.array([0, 1] * 20), np.arange(40.0)
    summary = classification_summary(truth, score, ["Finding"], resamples=5)
    arguments = {"truth": truth, "score": score, "class_names": ["Finding"], "description": {}}
    classification_report(tmp_path / "one.html", title="One", summary=summary, **arguments)
    words = Reader((tmp_path / "one.html").read_text()).words
    assert "1 finding on 40 images" in words
    assert "Mean" not in words
    with pytest.raises(CxrError, match="1 columns"):
        classification_report(tmp_path / "x", title="", summary=summary, **(arguments | {"class_names": ["a", "b"]}))
    assert not (tmp_path / "x").exists()


def test_table_cells():
    report = Report("T", "S")
    values = [np.float32(0.25), 7, float("nan"), None, 1e-5, Estimate(0.5, 0.4, 0.6), Estimate(None), Estimate(0.5)]
    report.table(["name", "value"], [(f"r{index}", value) for index, value in enumerate(values)], caption="<c>")
    report.table(["name", "value"], [("a", "text"), ("b", 1)])
    report.table(["name", "value"], [])
    document = report.html()
    Reader(document)
    assert document.count('<div class="scroll" tabindex="0">\n<table>') == document.count("<table>") == 3
    assert ".scroll { overflow-x: auto;" in document  # a table wider than the sheet is scrolled, not cut off
    shown = re.findall(r'<td class="number">(.*?)</td>', document)
    interval = '0.500 <span class="interval">[0.400, 0.600]</span>'
    assert shown == ["0.250", "7", DASH, DASH, "1e-05", interval, DASH, "0.500"]
    assert "<td>text</td>" in document
    assert "<td>1</td>" in document
    assert "<caption>&lt;c&gt;</caption>" in document
    with pytest.raises(CxrError, match="1 cells for 2 headers"):
        report.table(["a", "b"], [["x"]])


def test_text_note_and_section_are_escaped():
    report = Report("<i>", '"&')
    for add in (report.text, report.note, report.section):
        add("<img src=x onerror=y>")
    report.tiles([("<a>", "<b>", "<c>")])
    document = report.html()
    assert Reader(document).all("img") == []
    assert document.count("&lt;img src=x onerror=y&gt;") == 3


def test_summary_read_back_from_json_is_drawn():
    missing = {"auroc": None, "auroc_ci": [None, None]}
    good = {"auroc": 0.8, "auroc_ci": [0.7, 0.9]}
    summary = {"mean_auroc": 0.8, "mean_auroc_ci": [None, None], "findings": {"A": missing, "B": good}}
    figure = auroc_bars(summary, {**summary, "findings": {"B": missing}}, ("new", "old"))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["Mean", "B", "A"]
    decode(png_bytes(figure))


def test_curves_have_a_panel_each(results):
    truth, score, _, _ = results
    for draw in (roc_curves, precision_recall_curves):
        figure = draw(truth, score, NAMES)
        assert [axes.get_title(loc="left") for axes in figure.axes] == NAMES
        assert "one class only" in figure.axes[2].texts[0].get_text()
        assert "pyplot" not in type(figure.canvas.manager).__module__
    assert roc_curves(truth[:, 0], score[:, 0], NAMES[:1]).axes[0].texts[0].get_text().startswith("AUROC 0.")


def test_precision_recall_steps_hold_the_average_precision():
    random = np.random.default_rng(1)
    truth = (random.random(5000) < 0.1).astype(float)
    score = truth + random.normal(size=5000)
    axes = precision_recall_curves(truth, score, ["A"]).axes[0]
    recall, precision = next(line.get_data() for line in axes.lines if line.get_drawstyle() == "steps-pre")
    shown = float(axes.texts[0].get_text().split()[1])
    assert np.sum(np.diff(recall) * precision[1:]) == pytest.approx(shown, abs=1e-3)


def test_long_curves_are_thinned_without_being_bent():
    random = np.random.default_rng(2)
    truth = (random.random(20000) < 0.02).astype(float)
    score = truth + random.normal(size=20000)
    axes = roc_curves(truth, score, ["A"]).axes[0]
    false, true = axes.lines[-1].get_data()
    assert len(false) < 1000
    area = np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2)
    assert area == pytest.approx(float(axes.texts[0].get_text().split()[1]), abs=1e-3)


def test_image_grid():
    images = np.zeros((5, 40, 30), dtype=np.uint8)
    images[1:] = 255
    figure = image_grid(images, captions=["$a", "b", "c", "d", "e"], columns=3)
    assert len(figure.axes) == 5
    assert decode(png_bytes(figure)).width == 1800
    assert figure.axes[1].images[0].get_clim() == (0, 255)
    decode(png_bytes(image_grid(images[:1])))


@pytest.mark.parametrize(
    ("images", "captions", "words"),
    [
        (np.zeros((2, 3, 3)), None, "uint8"),
        (np.zeros((3, 3), dtype=np.uint8), None, "shape"),
        (np.zeros((0, 3, 3), dtype=np.uint8), None, "shape"),
        (np.zeros((2, 3, 3), dtype=np.uint8), ["a"], "captions has 1"),
    ],
)
def test_image_grid_names_unusable_input(images, captions, words):
    with pytest.raises(CxrError, match=words):
        image_grid(images, captions)


def test_global_settings_are_left_alone(results):
    before = dict(matplotlib.rcParams)
    truth, score, summary, _ = results
    png_bytes(roc_curves(truth, score, NAMES))
    png_bytes(auroc_bars(summary))
    assert dict(matplotlib.rcParams) == before
