"""Federated training: what a hospital does in a round for every bundle, and a whole simulation of two hospitals."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cxrmonai.data.phantom_store import write_phantom
from cxrmonai.data.store import Store
from cxrmonai.deploy import federated
from cxrmonai.deploy.federated_site import Site
from cxrmonai.errors import CxrError
from cxrmonai.networks import Classifier, load_classifier

REPOSITORY = Path(__file__).resolve().parents[2]
TRAINABLE = sorted(path.parents[1].name for path in REPOSITORY.glob("bundles/*/configs/train.json"))
SMALL = {"image_size": 32, "batch_size": 8, "device": "cpu"}
PRETRAINING = {"encoder": "resnet10t", "stem": "default", "probe_every": 0}
OPTIONS = {
    "supervised": {"encoder": "resnet10t"},
    "finetune": {"encoder": "resnet10t"},
    "simclr": PRETRAINING,
    "contrastive": {**PRETRAINING, "queue_size": 16},
    "ssl_pretext": PRETRAINING,
    "deeplabv3plus": {"encoder": "resnet10t", "classes": "Lungs"},
    "irnet": {"classifier": "classifier.pt", "crf_iterations": 1, "radius": 2},
}


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory):
    """Stores of two hospitals: the second is smaller, its images are darker, its patients healthier."""
    folder = tmp_path_factory.mktemp("hospitals")
    write_phantom(folder / "north.h5", patients=20, size=48, seed=1, progress=False, exposure=-0.3)
    write_phantom(folder / "south.h5", patients=12, size=48, seed=2, progress=False, exposure=0.4, prevalence=0.6)
    torch.manual_seed(0)
    asked = {"target": "findings", "policy": "ignore", "equalize": False}
    network = Classifier(Store(folder / "north.h5").class_names, "resnet10t", image_size=32, asked=asked)
    torch.save(network.state_dict(), folder / "classifier.pt")
    return folder


def make_site(bundle, hospitals, name, out, **options):
    chosen = {**SMALL, **OPTIONS[bundle], "data_file": str(hospitals / f"{name}.h5"), **options}
    if "classifier" in chosen:
        chosen["classifier"] = str(hospitals / chosen["classifier"])
    chosen |= {"output_dir": str(out / name / "eval"), "ckpt_dir": str(out / name / "models")}
    config = REPOSITORY / f"bundles/{bundle}/configs/train.json"
    return Site({"config_files": [str(config)], "rounds": 2, "local_epochs": 1, "options": chosen}, name)


@pytest.mark.slow
@pytest.mark.parametrize("bundle", TRAINABLE)
def test_every_bundle_does_rounds_under_monai_algo(bundle, hospitals, tmp_path):
    site = make_site(bundle, hospitals, "north", tmp_path)
    first = site.shared()
    assert all(value.is_floating_point() for value in first.values())
    assert site.images > 8
    before = site.validate(first)
    assert np.isfinite(before["val_loss"])
    second = site.train(first)
    assert second.keys() == first.keys()
    assert any(not torch.equal(first[key], second[key]) for key in first)
    site.train(second)
    assert site.algo.trainer.state.epoch == 2
    assert site.validate(first) == pytest.approx(before, nan_ok=True)  # the given weights, not those learned since
    site.save(first, tmp_path / "model.pt")
    kept, trained = (torch.load(path, weights_only=True) for path in (tmp_path / "model.pt", site.folder / "model.pt"))
    assert kept.keys() == trained.keys()
    assert len(list(tmp_path.rglob("events.out.tfevents.*"))) == 1  # though MonaiAlgo initialises twice


@pytest.mark.slow
def test_two_hospitals_learn_one_network(hospitals, extras, tmp_path):
    """A real simulation: NVFlare's server and clients, each a process."""
    work = tmp_path / "runs"
    command = [sys.executable, "-m", "cxrmonai", "federated", str(REPOSITORY / "bundles/supervised/configs/train.json")]
    command += ["--sites", f"{hospitals}/north.h5,{hospitals}/south.h5", "--rounds", "2", "--work_dir", str(work)]
    options = {**SMALL, **OPTIONS["supervised"]}
    command += [part for key, value in options.items() for part in (f"--{key}", str(value))]
    ran = subprocess.run(command, cwd=tmp_path, env=extras, capture_output=True, text=True, timeout=2400)
    log = work / "nvflare.log"
    assert ran.returncode == 0, ran.stdout + ran.stderr + (log.read_text()[-5000:] if log.exists() else "")
    assert "after round 2 of 2, validation: val_mean_auroc" in ran.stdout

    table = pd.read_csv(work / "global/rounds.csv")
    assert table["site"].tolist() == ["north", "south", "all"] * 3
    images = [len(Store(hospitals / f"{name}.h5").rows("train")) for name in ("north", "south")]
    assert table["images"].tolist() == [*images, sum(images)] * 3
    losses = table["val_loss"].to_numpy().reshape(3, 3)
    np.testing.assert_allclose(losses[:, 2], losses[:, :2] @ images / sum(images))
    assert losses[2, 2] < losses[0, 2]

    sent = [torch.load(work / f"{name}/models/checkpoint.pt", weights_only=True) for name in ("north", "south")]
    ours = torch.load(work / "global/models/model.pt", weights_only=True)
    averaged = [key for key, value in ours.items() if value.is_floating_point()]
    assert any(key.endswith("running_mean") for key in averaged)
    for key in averaged:
        parts = [state["network"][key].double() for state in sent]
        assert not torch.equal(*parts)
        expected = (images[0] * parts[0] + images[1] * parts[1]) / sum(images)
        torch.testing.assert_close(ours[key].double(), expected, rtol=1e-5, atol=1e-7)
    for name in ("north", "south"):
        theirs = torch.load(work / f"{name}/models/global_model.pt", weights_only=True)
        assert all(torch.equal(theirs[key], ours[key]) for key in averaged)
        assert len(list((work / name).rglob("events.out.tfevents.*"))) == 1
    assert load_classifier(work / "global/models/model.pt").class_names == Store(hospitals / "north.h5").class_names

    from monai.bundle import create_workflow

    made = create_workflow(
        config_file=str(REPOSITORY / "bundles/supervised/configs/evaluate.json"),
        workflow_type="infer",
        bundle_root=str(REPOSITORY / "bundles/supervised"),
        data_file=str(hospitals / "south.h5"),
        ckpt_path=str(work / "global/models/model.pt"),
        output_dir=str(tmp_path / "eval"),
        resamples=100,
        device="cpu",
    )
    made.initialize()
    made.run()
    assert json.loads((tmp_path / "eval/metrics.json").read_text())["images"] > 0


@pytest.mark.slow
def test_the_job_of_a_real_federation_holds_no_path_of_a_hospital(hospitals, extras, tmp_path):
    work = tmp_path / "job"
    command = [sys.executable, "-m", "cxrmonai", "federated", str(REPOSITORY / "bundles/supervised/configs/train.json")]
    command += ["--sites", f"{hospitals}/north.h5", "--names", "north,south", "--rounds", "5", "--work_dir", str(work)]
    command += ["--site_file", "/etc/cxrmonai/site.json", "--server_dir", "/srv/federation", "--encoder", "resnet10t"]
    ran = subprocess.run(command, cwd=tmp_path, env=extras, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    server = json.loads((work / "job/federated/app_server/config/config_fed_server.json").read_text())
    (controller,) = server["workflows"]
    assert controller["path"] == "cxrmonai.deploy.federated_server.ImageWeightedAveraging"
    assert controller["args"] == {"folder": "/srv/federation", "num_clients": 2, "num_rounds": 5}
    for name in ("north", "south"):
        text = (work / f"job/federated/app_{name}/config/config_fed_client.json").read_text()
        assert "--site_file /etc/cxrmonai/site.json" in text
        assert str(tmp_path) not in text
        assert str(hospitals) not in text
    settings = json.loads((work / "site.json").read_text())
    assert settings["rounds"] == 5
    assert settings["options"]["encoder"] == "resnet10t"
    assert torch.load(work / "initial.pt", weights_only=True)


def test_faults_are_one_sentence_and_leave_nothing(hospitals, tmp_path, refused, monkeypatch):
    config = REPOSITORY / "bundles/supervised/configs/train.json"
    places = ["--work_dir", tmp_path / "runs"]
    both = ["--sites", f"{hospitals}/north.h5,{hospitals}/south.h5"]

    def fails(*arguments):
        return refused("federated", config, *places, *arguments)

    assert "no such store; give one for each hospital" in fails("--sites", "a.h5,b.h5", "--rounds", 1)
    assert "give the stores of two hospitals or more" in fails("--sites", hospitals / "north.h5", "--rounds", 1)
    assert "'north' is taken" in fails(
        "--sites", f"{hospitals}/north.h5,{hospitals}/../{hospitals.name}/north.h5", "--rounds", 1
    )
    assert "--rounds 0: give a whole number of at least 1" in fails(*both, "--rounds", 0)
    assert "--max_epochs follows from --sites, --rounds" in fails(*both, "--rounds", 1, "--max_epochs", 3)
    assert "no such key; did you mean 'encoder'" in fails(*both, "--rounds", 1, "--encodr", "resnet18")
    assert "--names needs --site_file, --server_dir and one store" in fails(*both, "--rounds", 1, "--names", "a,b")
    monkeypatch.setattr(federated, "find_spec", lambda name: None)
    assert "needs the package nvflare; pip install 'cxrmonai[fl]'" in fails(*both, "--rounds", 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_hospitals_must_agree_on_the_network(hospitals, tmp_path):
    north = make_site("supervised", hospitals, "north", tmp_path)
    south = make_site("supervised", hospitals, "south", tmp_path, classes="Mass,Nodule")
    with pytest.raises(
        CxrError, match=r"south: head\.weight is \(2, 512\) here and \(10, 512\) in the federation; agree"
    ):
        south.train(north.shared())
    deep = make_site("supervised", hospitals, "south", tmp_path / "deep", encoder="resnet14t")
    with pytest.raises(CxrError, match="south trains another network than the federation"):
        deep.validate(north.shared())
    for options, word in (({"ema_decay": 0.9}, "ema_decay"), ({"patience": 3}, "patience")):
        with pytest.raises(CxrError, match=word):
            make_site("supervised", hospitals, "south", tmp_path / word, **options)
    with pytest.raises(CxrError, match=r"site\.json of north: has no rounds"):
        Site({"config_files": [], "options": {}, "local_epochs": 1}, "north")
    (tmp_path / "site.json").write_text("{")
    with pytest.raises(CxrError, match=r"not a readable site\.json"):
        Site.read(tmp_path / "site.json", "north")
