"""The report of an evaluation in a real browser."""

import io

import chromium
import numpy as np
import pytest
from PIL import Image

from cxrmonai.metrics import Evaluation, fit_operating_points
from cxrmonai.report import write_evaluation

NAMES = ["Effusion", "<b>Mass</b>", "Nodule"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.find() is None, reason=f"none of {', '.join(chromium.NAMES)} is on PATH"),
]

PICTURES = "[...document.images].map(i => [i.complete, i.naturalWidth, i.naturalHeight, i.clientWidth])"
TABLES = "[...document.querySelectorAll('table')].map(t => [t.tBodies[0].rows.length, t.clientHeight])"
OUTSIDE = """[...document.querySelectorAll('[src],[href],[action],[data]')]
    .map(e => e.src || e.href || e.action || e.data).filter(a => !a.startsWith('data:'))"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium.Chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Reports of three findings, of three grades, and of a single image."""
    random, folder = np.random.default_rng(0), tmp_path_factory.mktemp("reports")
    truth = (random.random((300, 3)) < 0.35).astype(float)
    probability = 1 / (1 + np.exp(-2 * (truth + random.normal(size=truth.shape) - 1)))
    truth[:, 2] = 0
    about = {
        "image_ids": [f"i{row}" for row in range(200)],
        "patient_ids": [f"p{row // 2}" for row in range(200)],
        "splits": ["test"] * 200,
        "sex": random.choice(["F", "M"], 200),
        "age": random.uniform(1, 95, 200),
        "view": random.choice(["PA", "AP", "LATERAL"], 200),
    }
    operating = fit_operating_points(truth[200:], probability[200:])
    findings = Evaluation(truth[:200], probability[:200], NAMES, operating=operating, synthetic=True, **about)
    write_evaluation(folder / "multilabel", findings, resamples=20)
    grades = random.choice(3, 200).astype(float)
    shares = np.exp(2 * np.eye(3)[grades.astype(int)] + random.normal(size=(200, 3)))
    shares /= shares.sum(axis=1, keepdims=True)
    graded = Evaluation(grades, shares, ["none", "mild", "severe"], task="multiclass", ordered=True, **about)
    write_evaluation(folder / "multiclass", graded, resamples=20)
    one = Evaluation([[1.0]], [[0.7]], ["Mass"], ["a"], [""], ["test"], sex=["F"], age=[3.0], view=["PA"])
    write_evaluation(folder / "one", one, resamples=5)
    return folder


@pytest.mark.parametrize(("name", "pictures"), [("multilabel", 5), ("multiclass", 6), ("one", 5)])
def test_report_renders(browser, reports, name, pictures):
    browser.open(reports / name / "report.html")
    found = browser.ask(PICTURES)
    assert len(found) == pictures
    assert all(complete and width > 300 and height > 100 and shown > 200 for complete, width, height, shown in found)
    tables = browser.ask(TABLES)
    assert len(tables) >= 6
    assert all(rows and height for rows, height in tables)
    assert browser.ask("document.querySelectorAll('.box').length") == 2
    assert browser.ask("document.querySelector('h1').textContent") == "Evaluation of a classifier"
    assert ("no clinical meaning" in browser.ask("document.body.innerText")) == (name == "multilabel")


@pytest.mark.parametrize("name", ["multilabel", "multiclass"])
def test_nothing_is_asked_from_outside(browser, reports, name):
    page = reports / name / "report.html"
    browser.open(page)
    asked = [address for address in browser.requests() if not address.startswith("data:")]
    assert asked == [page.resolve().as_uri()]
    assert browser.ask(OUTSIDE) == []
    assert browser.complaints() == []
    policy = browser.ask("document.querySelector('meta[http-equiv]').content")
    assert policy.startswith("default-src 'none'")
    assert browser.ask("document.scripts.length") == 0


def test_names_are_text_not_markup(browser, reports):
    browser.open(reports / "multilabel" / "report.html")
    assert browser.ask("document.querySelectorAll('main b').length") == 0
    assert "<b>Mass</b>" in browser.ask("document.body.innerText")


@pytest.mark.parametrize("name", ["multilabel", "multiclass", "one"])
def test_screenshot_is_not_blank(browser, reports, name):
    browser.open(reports / name / "report.html")
    image = Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
    pixels = np.asarray(image)
    assert image.height > 2000
    for third in np.array_split(pixels.astype(np.int32), 3):
        colours = np.unique(third[..., 0] << 16 | third[..., 1] << 8 | third[..., 2])
        assert third.std() > 10
        assert len(colours) > 50


def test_subgroup_tables_fit_the_sheet(browser, reports):
    browser.open(reports / "multilabel" / "report.html")
    overflow = "[...document.querySelectorAll('.scroll')].map(s => s.scrollWidth - s.clientWidth)"
    assert max(browser.ask(overflow)) <= 1
    browser.open(reports / "multilabel" / "report.html", width=400)
    assert browser.ask("document.documentElement.scrollWidth") <= 401


def test_report_prints(browser, reports):
    browser.open(reports / "multilabel" / "report.html")
    pdf = browser.pdf()
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 20_000
