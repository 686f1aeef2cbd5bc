"""The irnet bundle and the pipeline chexseg: what a user runs, and what must hold of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from bundle_runs import REPOSITORY, initialized
from ignite.engine import Events
from PIL import Image
from resuming import break_off, checkpoint, same

from cxrmonai.caching import is_made, note_made
from cxrmonai.data.mask_file import read_mask_file
from cxrmonai.data.mask_store import MaskStore
from cxrmonai.data.masks import MASK_UNKNOWN
from cxrmonai.data.store import open_store
from cxrmonai.errors import CxrError
from cxrmonai.explain.heatmaps import HeatmapWriter
from cxrmonai.networks import Classifier, load_irnet
from cxrmonai.pipelines.chexseg import ChexsegSettings, run_chexseg
from cxrmonai.segmentation import CrfSettings, MapSource, SeedSettings, ir_labels, write_ir_labels

pytestmark = pytest.mark.slow
FOLDER = REPOSITORY / "bundles/irnet"
NAMES = ["Consolidation", "Nodule"]
SHORT = {"image_size": 64, "batch_size": 4, "subset": 8, "crf_iterations": 0, "check_every": 0}
ASKED = {"target": "findings", "classes": None, "policy": "ignore", "blank": None, "equalize": False}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A classifier that learned nothing: its maps are somewhere."""
    torch.manual_seed(0)
    network = Classifier(NAMES, "resnet10t", image_size=64, asked={**ASKED, "grade_column": "edema_severity"})
    path = tmp_path_factory.mktemp("classifier") / "model.pt"
    torch.save(network.state_dict(), path)
    return path


def workflow(config, kind, **overrides):
    texts = {key: str(value) if hasattr(value, "parts") else value for key, value in overrides.items()}
    return initialized(FOLDER, [f"{config}.json"], kind, device="cpu", **texts)


def run(*arguments, **overrides):
    work = workflow(*arguments, **overrides)
    work.run()
    work.finalize()


@pytest.fixture(scope="module")
def trained(small_phantom, classifier, tmp_path_factory):
    folder = tmp_path_factory.mktemp("irnet")
    places = {"data_file": small_phantom, "ckpt_dir": folder / "models", "output_dir": folder / "eval"}
    run(
        "train", "train", classifier=classifier, image_size=64, max_epochs=1, check_every=1, displacement=True, **places
    )
    return folder


def test_a_run_leaves_weights_and_the_classifier_that_they_need(trained, classifier):
    assert (trained / "models/classifier.pt").read_bytes() == classifier.read_bytes()
    network = load_irnet(trained / "models/model.pt")
    assert network.class_names == NAMES
    assert network.displacement
    assert network.settings["asked"]["walk_radius"] == 3
    before = torch.load(classifier, weights_only=True)
    after = network.state_dict()
    shared = [key for key in after if key.startswith("encoder.") and key in before]
    assert len(shared) > 20
    assert all(torch.equal(after[key], before[key]) for key in shared)  # frozen, statistics of norms included


def test_ir_labels_are_of_images_with_a_finding_and_made_once(trained, small_phantom, classifier):
    path, store = trained / "eval/ir_labels.h5", open_store(small_phantom)
    labels = MaskStore(path)
    assert labels.kind == "ir"
    columns = [store.class_names.index("Consolidation"), store.class_names.index("Nodule")]
    there = store.labels[labels.rows][:, columns] == 1
    assert there.any(axis=1).all()
    values = labels.get(range(len(labels)))
    assert (values[~there] == MASK_UNKNOWN).all()
    assert set(store.column("split")[labels.rows]) <= {"train", "val"}
    before = path.stat().st_mtime_ns
    source = MapSource(small_phantom, classifier)
    assert write_ir_labels(path, source, crf=CrfSettings().at(store.size)) == str(path)
    assert path.stat().st_mtime_ns == before
    write_ir_labels(path, source, settings=SeedSettings(refined=False), subset=3)
    again = MaskStore(path)
    assert (store.column("split")[again.rows] == "train").sum() == 3
    assert list(path.parent.glob("*part*")) == []


def test_ir_labels_of_maps():
    maps = torch.tensor([0.9, 0.2, 0.05]).repeat_interleave(4).repeat(12, 1)[None, None]
    image = torch.zeros(1, 12, 12, dtype=torch.uint8)
    plain = ir_labels(image, torch.cat([maps, 0 * maps], dim=1), SeedSettings(refined=False))
    assert plain[0, 0, 0].tolist() == [1] * 4 + [255] * 4 + [0] * 4
    assert (plain[0, 1] == 255).all()  # a map of zeros tells nothing
    with pytest.raises(CxrError, match="in this order"):
        SeedSettings(foreground=0.1, background=0.2)


def test_flat_maps_are_told(small_phantom, tmp_path, capsys):
    store, path = open_store(small_phantom), tmp_path / "heatmaps.h5"
    rows = np.flatnonzero(store.column("split") != "test")
    with HeatmapWriter(path, NAMES, store.size, "gradcam", small_phantom) as writer:
        maps = np.zeros((len(rows), 2, store.size, store.size), np.float32)
        writer.add(rows, store.column("image_id")[rows], maps, np.ones((len(rows), 2)))
    write_ir_labels(tmp_path / "ir.h5", MapSource(small_phantom, None, path), settings=SeedSettings(refined=False))
    assert "note: in no image do the maps say surely where a finding is" in capsys.readouterr().out


def test_ready_heatmaps_are_what_ir_labels_are_made_of(small_phantom, classifier, tmp_path):
    store, path = open_store(small_phantom), tmp_path / "heatmaps.h5"
    rows, half = np.flatnonzero(store.column("split") != "test"), store.size // 2
    maps = np.zeros((len(rows), 2, store.size, store.size), np.float32)
    maps[:, 0, :, :half] = maps[:, 1, :, half:] = 1
    ids, sure = store.column("image_id"), np.ones((len(rows), 2))
    with HeatmapWriter(path, NAMES, store.size, "gradcam", small_phantom) as writer:
        writer.add(rows, ids[rows], maps, sure)
    places = {"data_file": small_phantom, "ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "eval"}
    run("train", "train", heatmaps=path, pretrained=classifier, max_epochs=1, **SHORT, **places)
    assert load_irnet(tmp_path / "models/model.pt").class_names == NAMES
    assert not (tmp_path / "models/classifier.pt").exists()  # none was given
    labels = MaskStore(tmp_path / "eval/ir_labels.h5")
    values = labels.get(range(len(labels)))
    expected = np.broadcast_to(maps[0], values.shape)
    assert (values == expected)[values != MASK_UNKNOWN].all()
    there = store.labels[labels.rows][:, [store.class_names.index(name) for name in NAMES]] == 1
    assert ((values != MASK_UNKNOWN).mean(axis=(2, 3)) > 0.5).tolist() == there.tolist()
    with HeatmapWriter(path, NAMES, store.size, "gradcam", small_phantom) as writer:
        writer.add(rows, ids[rows[::-1]], maps, sure)
    with pytest.raises(CxrError, match=r"heatmaps\.h5: its image .* is not row"):
        MapSource(small_phantom, None, path)


def test_a_resumed_run_equals_one_that_was_not_interrupted(small_phantom, classifier, tmp_path):
    def start(name, **more):
        places = {"ckpt_dir": tmp_path / name, "output_dir": tmp_path / "eval"}
        options = {"data_file": small_phantom, "classifier": classifier, "max_epochs": 2, **SHORT, **places}
        return workflow("train", "train", **options, **more)

    start("whole").run()
    break_off(start("parts"), epoch=2, step=2)
    broken = checkpoint(tmp_path / "parts")["state"]
    assert broken["epoch"] == 1
    assert broken["best"] > 0
    resumed, steps = start("parts", resume=True), []
    trainer = resumed.parser.get_parsed_content("train::trainer")
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: steps.append(engine.state.iteration))
    resumed.run()
    assert steps == [3, 4]  # the second epoch alone
    same(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts"))
    for name in ("model.pt", "model_final.pt"):
        same(*(torch.load(tmp_path / each / name, weights_only=True) for each in ("whole", "parts")), name)


@pytest.mark.parametrize("method", ["irnet", "cam"])
def test_pseudo_masks_go_by_the_label(trained, small_phantom, tmp_path, method):
    out = {"pseudo_masks": tmp_path / "p.h5", "mask_file": tmp_path / "p.json", "output_dir": tmp_path}
    few = {"walk_doublings": 1}  # edges of one epoch hold no walk back for long
    weights = trained / "models/model.pt"
    run("propagate", "infer", data_file=small_phantom, ckpt_path=weights, method=method, **few, **out)
    store, masks = open_store(small_phantom), MaskStore(tmp_path / "p.h5")
    assert masks.rows.tolist() == store.rows("train").tolist()
    labels = store.labels[masks.rows][:, store.class_names.index("Nodule")]
    values = masks.get(range(len(masks)))[:, masks.names.index("Nodule")]
    assert not values[labels == 0].any()
    assert 0 < values[labels == 1].mean() < 1
    content = read_mask_file(tmp_path / "p.json")
    place = int(np.flatnonzero(labels == 1)[0])
    np.testing.assert_array_equal(content[masks.image_ids[place]]["Nodule"], values[place] == 1)


def test_evaluation_sets_irnet_beside_the_maps(trained, small_phantom, tmp_path):
    places = {"data_file": small_phantom, "ckpt_path": trained / "models/model.pt", "output_dir": tmp_path}
    run("evaluate", "infer", resamples=100, cutoff=0.0, threshold="tuned", **places)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for summary in (metrics, metrics["cam"]):
        assert set(summary["classes"]) == set(NAMES)
        assert {"dice", "miou", "miou_ci", "miou_true_positive", "miou_pooled"} <= summary["classes"]["Nodule"].keys()
    assert "validation" in metrics["threshold_origin"]
    assert "Otsu" in metrics["cam"]["threshold_origin"]
    assert "ynthetic" in (tmp_path / "report.html").read_text()


def test_files_get_masks_at_their_own_size(trained, small_phantom, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(open_store(small_phantom).images[0]).resize((80, 120)).save(folder / "a.png")
    weights = trained / "models/model.pt"
    run("inference", "infer", dataset_dir=folder, ckpt_path=weights, output_dir=tmp_path / "out", cutoff=0.0)
    masks = read_mask_file(tmp_path / "out/masks.json")["a"]
    assert {mask.shape for mask in masks.values()} == {(120, 80)}
    assert any(mask.any() for mask in masks.values())


def test_work_is_left_out_while_nothing_changes(tmp_path):
    made = tmp_path / "made.txt"
    made.write_text("a")
    note_made(tmp_path / "record.json", {"x": [1, "a"]}, [made])
    assert is_made(tmp_path / "record.json", {"x": (1, "a")})
    assert not is_made(tmp_path / "record.json", {"x": [2, "a"]})
    made.write_text("other")
    assert not is_made(tmp_path / "record.json", {"x": [1, "a"]})


def test_the_pipeline_makes_a_table_and_leaves_out_what_is_unchanged(small_phantom, classifier, tmp_path, capsys):
    settings = ChexsegSettings(
        image_size=64,
        seeds=1,
        expert_masks=2,
        subset=8,
        encoder="resnet10t",
        irnet_epochs=1,
        segmenter_epochs=1,
        epoch_images=8,
        device="cpu",
    )
    names = "Consolidation,Nodule"
    options = {"data_file": small_phantom, "classifier": str(classifier), "bundles": REPOSITORY / "bundles"}
    first = run_chexseg(tmp_path, classes=names, settings=settings, **options)
    assert len(first["steps_run"]) == 12
    assert set(first["methods"]) == {"maps alone", "IRNet alone", "weak (CAM)", "weak (IRNet)", "full", "semi"}
    told = capsys.readouterr().out
    assert "semi > full > weak" in told
    assert "MB; see" in told
    assert (tmp_path / "results.csv").read_text().startswith("method,finding,dice")
    again = run_chexseg(tmp_path, classes=names, settings=settings, **options)
    assert again["steps_run"] == []
    assert json.dumps(again["methods"]) == json.dumps(first["methods"])
    changed = ChexsegSettings(**{**vars(settings), "strong_weight": 0.5})
    third = run_chexseg(tmp_path, classes=names, settings=changed, **options)
    assert [name for name in third["steps_run"] if name.startswith("weak")] == []
    assert "semi, seed 0" in third["steps_run"]
