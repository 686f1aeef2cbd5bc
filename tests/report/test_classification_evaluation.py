import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from test_report import Reader

from cxrmonai.errors import CxrError
from cxrmonai.metrics import Evaluation, compare_models, evaluation_summary, fit_operating_points
from cxrmonai.report import COMPARISON_NOTE, compare_runs, evaluation_figures, prediction_table, write_evaluation
from cxrmonai.report.wording import cautions

NAMES = ["Cardiomegaly", "<script>alert(1)</script>", 'A$B$, "C"']
DASH = "\N{EN DASH}"
FIGURES = ["auroc", "precision_recall", "reliability", "roc", "subgroups"]


def draw(seed, rows=150):
    random = np.random.default_rng(seed)
    truth = (random.random((rows, 3)) < 0.4).astype(float)
    probability = 1 / (1 + np.exp(-2 * (truth + random.normal(size=truth.shape) - 1)))
    truth[:9, 1] = np.nan
    return truth, probability


def make(truth, probability, **options):
    rows, random = len(truth), np.random.default_rng(1)
    given = {
        "class_names": NAMES,
        "image_ids": [f"{row:04d}" for row in range(rows)],
        "patient_ids": [f"p{row // 2}" for row in range(rows)],
        "splits": ["test"] * rows,
        "sex": random.choice(["F", "M"], rows),
        "age": random.uniform(20, 90, rows),
        "view": random.choice(["PA", "AP"], rows),
    }
    return Evaluation(truth, probability, **{**given, **options})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """An evaluation of three findings, the last without a positive image, its summary and the folder it left."""
    truth, probability = draw(2)
    truth[:, 2] = 0
    operating = fit_operating_points(*draw(3), source="images of the split val")
    facts = {"Encoder": "resnet18", "Image size": 224}
    evaluation = make(truth, probability, operating=operating, facts=facts, synthetic=True)
    folder = tmp_path_factory.mktemp("evaluation") / "new"
    return evaluation, write_evaluation(folder, evaluation, title="Test <b>", resamples=20), folder


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    random = np.random.default_rng(6)
    grades = random.choice(3, 120).astype(float)
    shares = np.exp(2 * np.eye(3)[grades.astype(int)] + random.normal(size=(120, 3)))
    shares /= shares.sum(axis=1, keepdims=True)
    grades[0] = np.nan
    operating = fit_operating_points(grades, shares, task="multiclass")
    names = ["none", "mild", "severe"]
    evaluation = make(grades, shares, class_names=names, task="multiclass", ordered=True, operating=operating)
    folder = tmp_path_factory.mktemp("graded")
    return evaluation, write_evaluation(folder, evaluation, resamples=20), folder


def words_of(folder):
    return " ".join(Reader((folder / "report.html").read_text(encoding="utf-8")).words)


def test_files(written):
    folder = written[2]
    names = ["metrics.json", "predictions.csv", "report.html", *(f"{name}.png" for name in FIGURES)]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    for name in FIGURES:
        with Image.open(folder / f"{name}.png") as image:
            image.load()
            assert image.width > 1000


def test_predictions_keep_ids_truth_and_probability(written):
    evaluation, _, folder = written
    table = pd.read_csv(folder / "predictions.csv", dtype={"image_id": str})
    pairs = [f"{kind}_{name}" for name in NAMES for kind in ("truth", "probability")]
    assert list(table) == ["image_id", "patient_id", "split", *pairs]
    assert table["image_id"].tolist() == evaluation.image_ids.tolist()
    assert table["patient_id"].tolist() == evaluation.patient_ids.tolist()
    for column, name in enumerate(NAMES):
        np.testing.assert_array_equal(table[f"truth_{name}"], evaluation.truth[:, column])
        np.testing.assert_array_equal(table[f"probability_{name}"], evaluation.probability[:, column])
    assert (folder / "predictions.csv").read_text().splitlines()[1].split(",")[5] == ""


def test_predictions_of_shuffled_images_stay_together(written):
    evaluation = written[0]
    order = np.random.default_rng(0).permutation(150)
    fields = ("truth", "probability", "image_ids", "patient_ids", "splits", "sex", "age", "view")
    shuffled = dataclasses.replace(evaluation, **{key: getattr(evaluation, key)[order] for key in fields})
    one, other = (prediction_table(each).set_index("image_id") for each in (evaluation, shuffled))
    pd.testing.assert_frame_equal(one, other.loc[one.index])


def test_metrics_are_those_of_the_summary(written):
    evaluation, summary, folder = written
    read = json.loads((folder / "metrics.json").read_text())
    direct = evaluation_summary(evaluation, resamples=20)
    for name in NAMES[:2]:
        assert read["findings"][name] == direct["findings"][name] == summary["findings"][name]
    assert read["findings"][NAMES[2]]["auroc"] is None
    assert read["mean_auroc_ci"] == direct["mean_auroc_ci"]
    assert read["subgroups"].keys() == {"sex", "age", "view"}


def test_report_says_what_was_found(written):
    _, summary, folder = written
    words = words_of(folder)
    assert words.index("no clinical meaning") < words.index("In plain words") < words.index("Results")
    assert "tested on 150 images of 75 patients (test: 150)" in words
    low, high = summary["mean_auroc_ci"]
    mean = summary["mean_auroc"]
    assert f"{100 * mean:.0f} times in 100 (mean AUROC over 2 findings: {mean:.3f}, 95 % interval" in words
    assert f"{low:.3f} to {high:.3f}" in words
    for name in NAMES[:2]:
        found = summary["findings"][name]
        for key in ("auroc", "average_precision", "sensitivity", "specificity"):
            assert "{:.3f}  [{:.3f}, {:.3f}]".format(found[key], *found[f"{key}_ci"]) in words
        for key in ("threshold", "ppv", "npv", "f1", "ece", "brier", "temperature", "ece_calibrated"):
            assert f"{found[key]:.3f}" in words
    assert "150 images of the split val; rule" in words
    assert f"too few to judge: {NAMES[2]}" in words
    assert f"no image with {NAMES[2]} under test" in words
    assert "resnet18" in words
    assert "nan" not in words.lower().split()
    assert DASH in words
    for reference in ("Efron", "Hanley and McNeil", "Guo et al.", "Naeini", "Youden", "Brier score"):
        assert reference in words
    sex = summary["subgroups"]["sex"]["groups"]["F"]
    assert f"F: {sex['images']} images of {sex['patients']} patients" in words


def test_report_is_safe_and_whole(written):
    document = (written[2] / "report.html").read_text(encoding="utf-8")
    reader = Reader(document)
    assert "<script" not in document
    assert {tag for tag, _ in reader.tags} & {"script", "link", "iframe", "object", "a"} == set()
    sources = [value for _, attributes in reader.tags for key, value in attributes.items() if key in ("src", "href")]
    assert len(sources) == len(FIGURES)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert all(attributes["alt"] for attributes in reader.all("img"))
    assert "Test <b>" in reader.words


def test_same_input_gives_the_same_files(written, tmp_path):
    evaluation, _, folder = written
    write_evaluation(tmp_path, evaluation, title="Test <b>", resamples=20)
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_each_figure_is_drawn_once(written, tmp_path, monkeypatch):
    drawn, given, savefig = [], {}, Figure.savefig

    class Writer:
        def add_image(self, name, image, dataformats):
            assert dataformats == "HWC"
            given[name] = image

    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: drawn.append(self) or savefig(self, *a, **k))
    write_evaluation(tmp_path, written[0], resamples=10, writer=Writer())
    files = {f"evaluation/{path.stem}": np.asarray(Image.open(path).convert("RGB")) for path in tmp_path.glob("*.png")}
    assert len(drawn) == len(files) == len(given) > 3
    for name, image in files.items():
        np.testing.assert_array_equal(image, given[name])


def test_figures_for_tensorboard(written):
    evaluation, summary, _ = written
    figures = evaluation_figures(evaluation, summary)
    assert sorted(figures) == FIGURES
    labels = [label.get_text() for label in figures["auroc"].axes[0].get_yticklabels()]
    assert labels[0] == "Mean"
    assert labels[-1] == NAMES[2]
    assert figures["auroc"].axes[0].texts[-1].get_text() == "not defined"
    assert [axes.get_title(loc="left") for axes in figures["subgroups"].axes] == ["Sex", "Age", "View"]
    assert [axes.get_title(loc="left") for axes in figures["reliability"].axes] == NAMES
    bare = dataclasses.replace(evaluation, sex=None, age=None, view=None)
    assert "subgroups" not in evaluation_figures(bare, evaluation_summary(bare, resamples=0))


def test_reliability_figure_shows_the_curve(written):
    evaluation, summary, _ = written
    axes = evaluation_figures(evaluation, summary)["reliability"].axes[0]
    offsets = [np.asarray(points.get_offsets()) for points in axes.collections]
    before, after = (points for points in offsets if len(points) > 2)
    assert len(before) == 10
    known = evaluation.truth[:, 0]
    first = evaluation.probability[:, 0] < 0.1
    assert before[0] == pytest.approx([evaluation.probability[first, 0].mean(), known[first].mean()])
    assert after[0][0] != before[0][0]


def test_multiclass_files(graded):
    evaluation, summary, folder = graded
    table = pd.read_csv(folder / "predictions.csv", dtype={"image_id": str}, keep_default_na=False)
    shares = [f"probability_{name}" for name in evaluation.class_names]
    assert list(table) == ["image_id", "patient_id", "split", "truth", "predicted", *shares]
    assert table["truth"][0] == ""
    names = np.array(evaluation.class_names)
    assert table["truth"].tolist()[1:] == names[evaluation.truth[1:].argmax(axis=1)].tolist()
    assert table["predicted"].tolist() == names[evaluation.probability.argmax(axis=1)].tolist()
    words, part = words_of(folder), summary["multiclass"]
    assert f"right class for {100 * part['accuracy']:.0f} % of the images" in words
    assert "Quadratic weighted kappa, which forgives near misses" in words
    assert "Finding" not in words.split()
    cells = [text.get_text() for text in evaluation_figures(evaluation, summary)["confusion"].axes[0].texts]
    assert [int(cell.split("\n")[0]) for cell in cells] == np.ravel(part["confusion"]).tolist()
    assert (folder / "confusion.png").exists()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("truth", "options"),
    [
        ([[1.0]], {}),
        ([[np.nan]], {}),
        ([[0.0]], {"sex": [""], "age": [np.nan], "view": [""], "patient_ids": [""]}),
        ([[0.0], [0.0]], {}),
    ],
)
def test_hardly_any_image_gives_a_report_with_dashes(truth, options, tmp_path):
    operating = fit_operating_points([[0.0], [1.0]], [[0.2], [0.6]])
    probability = np.full((len(truth), 1), 0.4)
    for name, given in (("with", operating), ("without", None)):
        evaluation = make(truth, probability, class_names=["Mass"], operating=given, **options)
        summary = write_evaluation(tmp_path / name, evaluation, resamples=5)
        words = words_of(tmp_path / name)
        assert "cannot be said: no finding has images both with and without it" in words
        assert summary["findings"]["Mass"]["notes"][0] in words
        assert DASH in words
    assert "No thresholds were given" in words


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("truth", [[np.nan], [2.0]])
def test_one_image_of_several_classes(truth, tmp_path):
    evaluation = make(truth, [[0.2, 0.3, 0.5]], class_names=["a", "b", "c"], task="multiclass", ordered=True)
    write_evaluation(tmp_path, evaluation, resamples=5)
    known = not np.isnan(truth[0])
    assert ("no image has a known class" in words_of(tmp_path)) != known


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"splits": ["train"] * 150}, "Training images are among those tested"),
        ({"splits": ["val"] * 150}, "Validation images are among those tested"),
        ({"patient_ids": [""] * 3 + ["p"] * 147}, "3 images without a patient"),
        ({"synthetic": False}, "drawn from reports by program"),
        ({}, "2 % of the labels are unknown"),
    ],
)
def test_cautions(written, options, words):
    evaluation = dataclasses.replace(written[0], sex=None, age=None, view=None, **options)
    given = " ".join(cautions(evaluation, evaluation_summary(evaluation, resamples=0)))
    assert words in given
    assert words_of(written[2]).count("drawn from reports by program") == 0


def test_one_finding_in_plain_words(tmp_path):
    truth, probability = (array[:, :1] for array in draw(2))
    operating = fit_operating_points(*(array[:, :1] for array in draw(3)))
    evaluation = make(truth, probability, class_names=["Mass"], operating=operating)
    found = write_evaluation(tmp_path, evaluation, resamples=5)["findings"]["Mass"]
    caught, cleared = (f"{100 * found[key]:.0f} %" for key in ("sensitivity", "specificity"))
    assert f"finds {caught} of the images with Mass and calls {cleared} of the images without it" in words_of(tmp_path)


def test_unwritable_folder_is_named(written, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CxrError, match="cannot write here"):
        write_evaluation(tmp_path / "file" / "below", written[0], resamples=0)


@pytest.fixture
def runs(tmp_path):
    """`write(name, evaluation)` leaves predictions and gives their path; with two models on the same images."""

    def write(name, evaluation):
        prediction_table(evaluation).to_csv(tmp_path / name, index=False)
        return tmp_path / name

    truth, first = draw(2)
    second = draw(4)[1] * 0.5 + truth.clip(0, 1) * 0.4
    second[np.isnan(second)] = 0.5
    return write, make(truth, first), make(truth, second)


def test_runs_are_compared(runs):
    write, one, other = runs
    order = np.random.default_rng(0).permutation(150)
    fields = ("truth", "probability", "image_ids", "patient_ids", "splits", "sex", "age", "view")
    shuffled = dataclasses.replace(other, **{key: getattr(other, key)[order] for key in fields})
    table = compare_runs(write("a.csv", one), write("b.csv", shuffled), resamples=20)
    expected = compare_models(one.truth, one.probability, other.probability, NAMES, one.groups, 20)
    assert list(table.index) == NAMES
    for name in NAMES:
        assert table.loc[name].to_dict() == pytest.approx(expected[name], abs=1e-12)
    assert {word.strip(",;") for word in COMPARISON_NOTE.split()} >= {"difference", "p_holm", "low_by_patient"}
    assert set(table) >= {"difference", "low", "high", "p", "p_holm", "low_by_patient", "high_by_patient"}


def test_findings_in_another_order_are_compared(runs, tmp_path):
    write, one, other = runs
    first, second = write("a.csv", one), write("b.csv", other)
    table = pd.read_csv(second, dtype=str, keep_default_na=False)
    table[[*table.columns[:3], *reversed(table.columns[3:])]].to_csv(tmp_path / "c.csv", index=False)
    pd.testing.assert_frame_equal(compare_runs(first, second, 5), compare_runs(first, tmp_path / "c.csv", 5))


def test_multiclass_runs_are_compared(graded, runs):
    evaluation, write = graded[0], runs[0]
    milder = np.full_like(evaluation.probability, 1 / 3) * 0.5 + evaluation.probability[::-1] * 0.5
    other = dataclasses.replace(evaluation, probability=milder)
    table = compare_runs(write("a.csv", evaluation), write("b.csv", other), resamples=0)
    assert list(table.index) == evaluation.class_names
    assert (table["difference"] < 0).all()
    assert table["positives"].sum() == 119


def edited(path, change):
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(table).to_csv(path, index=False)


def put(row, column, value):
    return lambda table: table.assign(**{column: [*table[column][:row], value, *table[column][row + 1 :]]})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table[1:], "only one of them has the image 0000"),
        (put(3, "truth_Cardiomegaly", "1"), "the truth of Cardiomegaly differs at image 0003"),
        (put(3, "truth_Cardiomegaly", ""), "the truth of Cardiomegaly differs at image 0003"),
        (put(4, "patient_id", "x"), "the patient of image 0004 differs"),
        (put(4, "image_id", "0003"), "has the image 0003 twice"),
        (put(5, "probability_Cardiomegaly", "high"), "Cardiomegaly holds something that is no number"),
        (put(5, "probability_Cardiomegaly", ""), "score is nan at row 5 of Cardiomegaly"),
        (lambda table: table.drop(columns=["patient_id"]), "has no column 'patient_id'"),
        (lambda table: table.drop(columns=["truth_Cardiomegaly"]), "has no column 'truth_Cardiomegaly'"),
        (lambda table: table[["image_id", "patient_id"]], "has no column 'probability_NAME'"),
        (
            lambda table: table.drop(columns=["truth_Cardiomegaly", "probability_Cardiomegaly"]),
            "only one of them has the finding Cardiomegaly",
        ),
        (lambda table: table.assign(truth="other"), "truth is 'other'"),
    ],
)
def test_runs_that_differ_are_refused(runs, change, words):
    write, one, other = runs
    truth = one.truth.copy()
    truth[3, 0] = 0
    first = write("a.csv", dataclasses.replace(one, truth=truth))
    second = write("b.csv", dataclasses.replace(other, truth=truth))
    edited(second, change)
    with pytest.raises(CxrError, match=words):
        compare_runs(first, second, resamples=0)


def test_missing_predictions_are_named(runs, tmp_path):
    write, one, _ = runs
    (tmp_path / "empty.csv").write_text("")
    for name in ("absent.csv", "empty.csv"):
        with pytest.raises(CxrError, match=f"{name}: cannot be read as predictions"):
            compare_runs(write("a.csv", one), tmp_path / name)
