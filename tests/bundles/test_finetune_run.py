"""The finetune bundle: every method leaves what it says, and draws, tables and CSV files do what they should."""

import json
import shutil
from functools import partial

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from bundle_runs import REPOSITORY, options
from monai.bundle import create_workflow
from page_commands import commands, name_of, run_command
from PIL import Image

from cxrmonai.bundle import check
from cxrmonai.data import csv_store
from cxrmonai.data.store import open_store
from cxrmonai.data.tasks import make_task
from cxrmonai.errors import user_error
from cxrmonai.networks import Classifier, encoder_stages, load_classifier

pytestmark = pytest.mark.slow
FOLDER = REPOSITORY / "bundles/finetune"
SMALL = {"max_epochs": 1, "batch_size": 16, "device": "cpu", "resamples": 100, "image_size": 32}
CLASSES = "Cardiomegaly,Pleural Effusion"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    path = tmp_path_factory.mktemp("pretrained") / "model.pt"
    torch.manual_seed(5)
    torch.save(Classifier("A", encoder="resnet10t", image_size=32).state_dict(), path)
    return str(path)


def workflow(store, folder, presets=(), **overrides):
    files = [str(FOLDER / "configs" / name) for name in ("train.json", *(f"presets/{name}.json" for name in presets))]
    places = {"data_file": str(store), "ckpt_dir": str(folder / "models"), "output_dir": str(folder / "eval")}
    made = create_workflow(
        config_file=files,
        workflow_type="train",
        bundle_root=str(FOLDER),
        **places,
        **{**SMALL, "classes": CLASSES, **overrides},
    )
    made.initialize()
    return made


def train(store, folder, presets=(), **overrides):
    made = workflow(store, folder, presets, **overrides)
    made.run()
    made.finalize()
    return folder


def refusal(store, folder, **overrides):
    with pytest.raises(Exception) as refused:  # noqa: PT011 - MONAI wraps what an expression raises
        train(store, folder, **overrides)
    assert not (folder / "models").exists()
    return str(user_error(refused.value))


def same(left, right):
    one, other = (torch.load(path, weights_only=True) for path in (left, right))
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("method", ["full", "linear", "logistic"])
def test_every_method_with_weights_leaves_a_classifier_that_evaluates_alike(
    small_phantom, pretrained, tmp_path, method
):
    train(small_phantom, tmp_path, pretrained=pretrained, method=method)
    network = load_classifier(tmp_path / "models/model.pt")
    assert network.class_names == CLASSES.split(",")
    assert (tmp_path / "models/operating_points.json").is_file()
    work = create_workflow(
        config_file=str(FOLDER / "configs/evaluate.json"),
        workflow_type="infer",
        bundle_root=str(FOLDER),
        data_file=str(small_phantom),
        ckpt_path=str(tmp_path / "models/model.pt"),
        output_dir=str(tmp_path / "again"),
        device="cpu",
        resamples=100,
        batch_size=3,
    )
    work.initialize()
    work.run()
    one, other = (pd.read_csv(tmp_path / name / "predictions.csv") for name in ("eval", "again"))
    pd.testing.assert_frame_equal(one, other, atol=1e-5)
    assert set(one["split"]) == {"test"}
    assert "ynthetic" in (tmp_path / "eval/report.html").read_text()


def test_knn_leaves_predictions_and_says_that_there_are_no_weights(small_phantom, pretrained, tmp_path, capsys):
    train(small_phantom, tmp_path, ["knn"], pretrained=pretrained, neighbours=5)
    assert not (tmp_path / "models").exists()
    assert "kNN keeps no weights" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "eval/predictions.csv")) == len(open_store(small_phantom).rows("test"))


def test_frozen_stages_do_not_move_and_the_others_learn_at_their_own_rates(small_phantom, pretrained, tmp_path):
    made = workflow(
        small_phantom,
        tmp_path,
        pretrained=pretrained,
        frozen_stages=2,
        layer_decay=0.5,
        encoder_lr_factor=0.1,
        schedule="constant",
    )
    groups = made.parser.get_parsed_content("optimizer").param_groups
    assert max(group["lr"] for group in groups) == 0.0005  # the head's
    rates = sorted({group["lr"] for group in groups})
    assert len(rates) > 2
    np.testing.assert_allclose(rates[-2], 0.0005 * 0.1 * 0.5)
    np.testing.assert_allclose(np.diff(np.log2(rates[:-1])), 1)
    made.run()
    before = torch.load(pretrained, weights_only=True)
    after = torch.load(tmp_path / "models/model.pt", weights_only=True)
    stages = encoder_stages(load_classifier(pretrained).encoder)
    frozen = {name.rpartition(".")[0] for stage in stages[:2] for name in stage}
    inside = [key for key in before if key.removeprefix("encoder.").rpartition(".")[0] in frozen]
    assert any(key.endswith("running_mean") for key in inside)
    assert all(torch.equal(before[key], after[key]) for key in inside)
    moved = [key for key in before if key.startswith("encoder.layer3") and key.endswith(("weight", "running_mean"))]
    assert moved
    assert not any(torch.equal(before[key], after[key]) for key in moved)


@pytest.mark.parametrize("method", ["full", "linear"])
def test_test_labels_touch_nothing_before_the_evaluation(small_phantom, pretrained, tmp_path, method):
    poisoned = tmp_path / "poisoned.h5"
    shutil.copy(small_phantom, poisoned)
    with h5py.File(poisoned, "r+") as file:
        labels, test = file["labels"][:], file["table/split"][:].astype(str) == "test"
        labels[test] = 1 - labels[test]
        file["labels"][:] = labels
    for store in (small_phantom, poisoned):
        train(store, tmp_path / store.stem, pretrained=pretrained, method=method)
    one, other = tmp_path / small_phantom.stem, tmp_path / "poisoned"
    assert same(one / "models/model.pt", other / "models/model.pt")
    points = "models/operating_points.json"
    assert (one / points).read_text() == (other / points).read_text()
    metrics = [json.loads((folder / "eval/metrics.json").read_text()) for folder in (one, other)]
    positives = [each["findings"]["Pleural Effusion"]["positives"] for each in metrics]
    assert positives[0] != positives[1]


def test_a_table_of_fractions_compares_with_the_untrained_encoder(small_phantom, pretrained, tmp_path, capsys):
    options = {"label_fraction": "0.4,1", "draws": 2, "compare": "untrained"}
    train(small_phantom, tmp_path, pretrained=pretrained, method="logistic", **options)
    table = pd.read_csv(tmp_path / "eval/label_efficiency.csv")
    assert len(table) == 2 * 2 * 3
    assert set(zip(table["encoder"], table["fraction"], table["draws"], strict=True)) == {
        (name, fraction, draws) for name in ("pretrained", "untrained") for fraction, draws in ((0.4, 2), (1.0, 1))
    }
    patients = len(set(open_store(small_phantom).column("patient_id")[open_store(small_phantom).rows("train")]))
    assert table["patients"].tolist()[0] == round(0.4 * patients)
    gains = pd.read_csv(tmp_path / "eval/label_efficiency_gains.csv")
    assert set(gains["against"]) == {"untrained"}
    content = json.loads((tmp_path / "eval/label_efficiency.json").read_text())
    assert content["synthetic"] is True
    assert content["encoders"]["untrained"].endswith(", untrained")
    assert (tmp_path / "eval/label_efficiency.png").stat().st_size > 1000
    assert not (tmp_path / "models").exists()
    assert "pretrained over untrained at 100 %" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["full", "logistic"])
def test_a_run_of_a_table_is_the_run_of_its_draw(small_phantom, pretrained, tmp_path, method):
    options = {"pretrained": pretrained, "classes": "Pleural Effusion", "label_fraction": 0.5, "method": method}
    train(small_phantom, tmp_path / "one", **options, draw=1, untrained=True)
    train(small_phantom, tmp_path / "table", **options, draws=2, compare="untrained")
    alone = json.loads((tmp_path / "one/eval/metrics.json").read_text())
    table = pd.read_csv(tmp_path / "table/eval/label_efficiency.csv").set_index(["encoder", "finding"])
    ends = table.loc[("untrained", "Pleural Effusion"), ["lowest", "highest"]].astype(float)
    assert np.isclose(ends, alone["mean_auroc"], atol=1e-5).any()


def test_the_presets_hold_known_keys():
    known = json.loads((FOLDER / "configs/train.json").read_text())
    presets = sorted((FOLDER / "configs/presets").glob("*.json"))
    assert [path.stem for path in presets] == ["knn", "layerwise", "linear", "logistic", "moco_cxr_fractions"]
    for preset in presets:
        assert json.loads(preset.read_text()).keys() <= known.keys(), preset.name
        assert check([FOLDER / "configs/train.json", preset], {}) == []


def test_faults_are_told(small_phantom, pretrained, tmp_path):
    config = FOLDER / "configs/train.json"
    assert check(config, {"pretrained": "absent.pt"}) == ["--pretrained: no such file: absent.pt"]
    assert check(config, {"pretrained": "timm:resnet50", "compare": "untrained"}) == []
    assert "method must be full, linear, logistic or knn" in check(config, {"method": "svm"})[0]

    def fails(**overrides):
        return refusal(small_phantom, tmp_path, **{"pretrained": pretrained, "method": "logistic", **overrides})

    assert "label_fraction 0: must be above 0" in fails(label_fraction=0)
    assert "is no patient; give 0.059 or more" in fails(label_fraction=0.001)
    assert "no class 'Tuberculosis'" in fails(classes="Tuberculosis")
    assert "leave pooling PCAM and attention to --method full" in fails(pooling="PCAM")
    assert "compare needs --pretrained FILE" in fails(pretrained=None, compare="untrained")
    assert "a table of several runs cannot be resumed" in fails(draws=2, label_fraction=0.5, resume=True)
    assert "has 5 stages with its stem; give 0 to 5" in fails(method="full", frozen_stages=9)
    weights = torch.load(pretrained, weights_only=True)
    weights["encoder.conv1.0.weight"] = weights["encoder.conv1.0.weight"][:, :, :1]
    torch.save(weights, tmp_path / "misshapen.pt")
    assert "misshapen conv1.0.weight" in fails(pretrained=str(tmp_path / "misshapen.pt"))


def test_the_commands_for_users_of_cxrlearn_run(small_phantom, pretrained, tmp_path, monkeypatch):
    monkeypatch.setattr(csv_store, "prepare", partial(csv_store.prepare, workers=0))
    store = open_store(small_phantom)
    task = make_task(small_phantom, classes=CLASSES)
    table = pd.DataFrame(task.targets, columns=task.class_names)
    table["Path"], table["split"] = [f"{tmp_path}/images/{k}.png" for k in range(len(store))], store.column("split")
    (tmp_path / "images").mkdir()
    for k, image in enumerate(store.images):
        Image.fromarray(image).save(tmp_path / f"images/{k}.png")
    for split, part in table.groupby("split"):
        part.to_csv(tmp_path / f"{split}.csv", index=False)
    page = commands(REPOSITORY / "docs/finetuning.md", language="")
    told = [words for words in page if "--train_csv" in words and name_of(words) == "finetune/train"]
    assert len(told) == 2
    for number, command in enumerate(told):
        words = [word.replace("/path/to", str(tmp_path)) for word in command]
        assert len(words[words.index("--class_columns") + 1].split(",")) == 14
        place = tmp_path / f"run{number}"
        given = {"class_columns": CLASSES, "pretrained": pretrained, "dataset_dir": f"{tmp_path}/data"}
        given |= {"output_dir": f"{place}/eval", "ckpt_dir": f"{place}/models"}
        given |= {"max_epochs": 1} if "--max_epochs" in words else {}
        finished = run_command([*words, *options(given)], REPOSITORY)
        assert finished.code == 0, finished.out + finished.err
        predictions = pd.read_csv(place / "eval/predictions.csv", dtype={"image_id": str})
        expected = table[table["split"] == "test"]
        assert predictions["image_id"].tolist() == [path.split("/")[-1][:-4] for path in expected["Path"]]
        np.testing.assert_array_equal(predictions["truth_Pleural Effusion"], expected["Pleural Effusion"])
        assert load_classifier(place / "models/model.pt").class_names == CLASSES.split(",")
    assert len(list((tmp_path / "data").glob("*.h5"))) == 1
