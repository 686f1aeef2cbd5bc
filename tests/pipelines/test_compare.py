"""A comparison from its command line: what it writes, skips, resumes and refuses."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from cxrmonai.cli import main
from cxrmonai.data.geometry import letterbox_geometry
from cxrmonai.data.store import open_store, write_store
from cxrmonai.data.table import make_table
from cxrmonai.engines import CheckpointHandler
from cxrmonai.networks import load_encoder
from cxrmonai.pipelines.label_probe import LabelProbe
from cxrmonai.pipelines.methods import bundles_folder

pytestmark = pytest.mark.slow
OPTIONS = {
    "images_seen": 96, "encoder": "resnet10t", "image_size": 32, "stem": "default", "batch_size": 16, "draws": 2,
    "resamples": 60, "label_fraction": "0.2,1", "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    """Forty-eight images without labels, ages or patients."""
    path, count = tmp_path_factory.mktemp("data") / "unlabelled.h5", 48
    names = [f"{k}.png" for k in range(count)]
    columns = {"image": names, "image_id": names, "split": ["train"] * 40 + ["val"] * 8}
    images = np.random.default_rng(0).integers(0, 255, (count, 32, 32), dtype=np.uint8)
    geometry = np.tile(letterbox_geometry(32, 32, 32), (count, 1))
    write_store(path, images=images, geometry=geometry, table=make_table(columns), class_names=[], source="test")
    return path


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Ours, and a new preset that is broken."""
    folder = tmp_path_factory.mktemp("bundles") / "bundles"
    for name in ("simclr", "ssl_pretext"):
        shutil.copytree(bundles_folder() / name, folder / name, ignore=shutil.ignore_patterns("models", "eval"))
    (folder / "ssl_pretext/configs/presets/broken.json").write_text('{"task": {"_target_": "cxrmonai.NoSuchTask"}}')
    return folder


def compare(unlabelled, probe, out, bundles, **overrides):
    options = {**OPTIONS, "methods": "rotation_shift,age,broken,simclr", "bundles": bundles, **overrides}
    flags = [str(part) for key, value in options.items() for part in (f"--{key}", value)]
    with pytest.raises(SystemExit) as left:
        main(["compare", "--data_file", str(unlabelled), "--probe_file", str(probe), "--out", str(out), *flags])
    return left.value.code


@pytest.fixture(scope="module")
def compared(unlabelled, small_phantom, bundles, tmp_path_factory):
    """A folder with a comparison in it, made in one go, and its exit code."""
    out = tmp_path_factory.mktemp("whole")
    return out, compare(unlabelled, small_phantom, out, bundles)


def content(out):
    return json.loads((out / "comparison.json").read_text())


def rows(out):
    return {row["method"]: row for row in content(out)["methods"]}


def test_one_table_of_all_methods(compared):
    out, code = compared
    assert code == 3  # one failed of itself
    found = rows(out)
    assert list(found) == ["untrained", "rotation_shift", "age", "broken", "simclr"]
    assert {name: row["status"] for name, row in found.items()} == {
        "untrained": "done", "rotation_shift": "done", "age": "refused", "broken": "failed", "simclr": "done",
    }  # fmt: skip
    assert "has an age" in found["age"]["reason"]
    assert "NoSuchTask" in found["broken"]["reason"]
    assert found["untrained"]["images_seen"] == 0
    assert (found["rotation_shift"]["images_per_step"], found["simclr"]["images_per_step"]) == (16, 32)
    assert found["rotation_shift"]["images_seen"] == found["simclr"]["images_seen"] == 96
    for name in ("rotation_shift", "simclr"):
        assert found[name]["collapsed"] in (True, False)
        assert found[name]["effective_rank"] > 0
    assert content(out)["synthetic"] == {"data": False, "probe": True}
    assert (out / "comparison.png").read_bytes()[:4] == b"\x89PNG"
    table = pd.read_csv(out / "comparison.csv")
    scored = table[table["status"] == "done"]
    assert len(scored) == 3 * 2 * 2
    assert ((scored["low"] <= scored["mean_auroc"] + 0.05) & (scored["low"] < scored["high"])).all()
    gained = scored[scored["method"] != "untrained"]
    assert (gained["gain_low"] <= gained["gain_high"]).all()
    first = gained.iloc[0]
    base = scored[(scored["method"] == "untrained") & (scored["probe"] == first["probe"])].set_index("labels")
    assert first["gain"] == pytest.approx(first["mean_auroc"] - base.loc[first["labels"], "mean_auroc"], abs=2e-4)


def test_the_figures_are_those_of_the_encoder_that_is_there(compared, small_phantom):
    """The linear probe with all labels, by another way: every test image scored and ranked by scikit-learn."""
    out, _ = compared
    probe = LabelProbe(str(small_phantom), 32, (1.0,), resamples=0)
    encoder = load_encoder(out / "methods/rotation_shift/models/model_final.pt").eval()
    features, count = probe.probe.features(encoder), len(probe.probe.train)
    score = probe.probe.fit(features).score
    truth = open_store(small_phantom).labels[probe.probe.held_out.rows]
    expected = [roc_auc_score(t, s) for t, s in zip(truth.T, score.T, strict=True) if 0 < t.sum() < len(t)]
    assert count + len(truth) == len(features)
    assert rows(out)["rotation_shift"]["probes"]["linear 1"]["mean_auroc"] == pytest.approx(np.mean(expected))


def test_draws_are_by_patient_and_nested(small_phantom):
    probe = LabelProbe(str(small_phantom), 32, (0.2, 0.5, 1.0), draws=3, resamples=0)
    patients = open_store(small_phantom).column("patient_id")[probe.probe.train.rows]
    for small, large in zip(probe.draws[0.2], probe.draws[0.5], strict=True):
        assert set(patients[small]) < set(patients[large])
        assert not set(patients[small]) & set(patients[~small])
    assert all(mask.all() for mask in probe.draws[1.0])
    assert len({mask.tobytes() for mask in probe.draws[0.2]}) > 1


def test_a_second_run_runs_nothing_and_tries_the_failed_again(
    compared, unlabelled, small_phantom, bundles, monkeypatch
):
    out, _ = compared
    before = {path: path.stat().st_mtime_ns for path in out.glob("methods/*/models/*.pt")}
    table = (out / "comparison.csv").read_text()
    assert compare(unlabelled, small_phantom, out, bundles) == 3
    assert {path: path.stat().st_mtime_ns for path in out.glob("methods/*/models/*.pt")} == before
    assert (out / "comparison.csv").read_text() == table


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(
    compared, unlabelled, small_phantom, bundles, tmp_path, monkeypatch
):
    saved = CheckpointHandler.epoch_completed
    epochs = []

    def killed(self, engine):
        saved(self, engine)
        epochs.append(engine.state.epoch)
        if len(epochs) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointHandler, "epoch_completed", killed)
    options = {"methods": "rotation_shift"}
    assert compare(unlabelled, small_phantom, tmp_path, bundles, **options) == 130
    assert list(rows(tmp_path)) == ["untrained"]
    assert compare(unlabelled, small_phantom, tmp_path, bundles, **options) == 0
    assert epochs == list(range(1, max(epochs) + 1))  # nothing twice
    whole, parts = rows(compared[0])["rotation_shift"], rows(tmp_path)["rotation_shift"]
    assert parts["probes"] == whole["probes"]


def test_other_inputs_are_other_runs(compared, unlabelled, small_phantom, bundles, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(compared[0], out)
    kept = (out / "methods/untrained/result.json").read_text()
    assert compare(unlabelled, small_phantom, out, bundles, methods="untrained", seed=1) == 0
    assert (out / "methods/untrained/result.json").read_text() != kept


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"methods": "simcrl"}, "did you mean simclr"),
        ({"images_seen": 0}, "at least 1"),
        ({"label_fraction": "some"}, "label_fraction some: must be above 0"),
        ({"label_fraction": "0.001,1"}, "no patient"),
        ({"classes": "Nothing"}, "no finding 'Nothing'"),
    ],
)
def test_bad_input_is_one_line(unlabelled, small_phantom, bundles, tmp_path, capsys, overrides, words):
    assert compare(unlabelled, small_phantom, tmp_path / "out", bundles, **overrides) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert words in line


def test_a_probe_file_without_findings_is_refused(unlabelled, bundles, tmp_path, capsys):
    assert compare(unlabelled, unlabelled, tmp_path / "out", bundles) == 1
    assert str(unlabelled) in capsys.readouterr().err
