"""Faults that the check of bundles must see, each told in one line with file and mend.

That our own bundles pass is tested in tests/bundles/test_contract.py.
"""

import json
import shutil

import jsonschema
import pytest
import torch
import verify_bundles
from verify_bundles import BUNDLES, LARGEST, SCHEMA, STEPS, find, steps_of, trials, verify

CHECKS = {step.title: step for step in STEPS}


@pytest.fixture(scope="module")
def whole(small_phantom):
    """A bundle that passes, with its weights."""
    with trials([BUNDLES / "supervised"], small_phantom) as (trial,):
        assert verify(trial, CHECKS["weights"])[0] == "ok"
        yield trial


@pytest.fixture
def broken(whole, tmp_path):
    """A copy of it, to be broken."""
    folder = tmp_path / "supervised"
    shutil.copytree(whole.folder, folder)
    return verify_bundles.Trial("supervised", folder, whole.data_file, whole.images)


def fault(trial, title):
    mark, said = verify(trial, CHECKS[title])
    assert mark == "FAIL"
    assert "\n" not in said
    return said


def edit(trial, file, **changes):
    """Sets keys of a JSON file; `...` takes one away."""
    content = trial.json(file) | changes
    content = {key: value for key, value in content.items() if value is not ...}
    (trial.folder / file).write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["LICENSE", "configs/inference.json", "configs/multi_gpu_train.json"])
def test_a_missing_file(broken, name):
    (broken.folder / name).unlink()
    assert fault(broken, "files").startswith(f"{name}: is missing")


def test_configs_of_a_training_that_is_not_there(broken):
    (broken.folder / "configs/train.json").unlink()
    assert "multi_gpu_train.json: goes with a train.json" in fault(broken, "files")


def test_a_licence_without_words(broken):
    (broken.folder / "LICENSE").write_text("mine")
    assert "LICENSE: holds no licence" in fault(broken, "licence")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task": ...}, "'task' is a required property"),
        ({"version": 1}, "version: 1 is not of type 'string'"),
        ({"network_data_format": {"inputs": {}, "outputs": {}}}, "network_data_format/inputs"),
    ],
)
def test_metadata_that_do_not_fit(broken, changes, told):
    edit(broken, "configs/metadata.json", **changes)
    assert told in fault(broken, "schema")


def test_metadata_that_are_no_json(broken):
    (broken.folder / "configs/metadata.json").write_text("{")
    assert "configs/metadata.json: not readable as JSON" in fault(broken, "schema")


def test_a_version_without_a_line_in_the_changelog(broken):
    edit(broken, "configs/metadata.json", version="9.9.9")
    assert "changelog has no line for version 9.9.9" in fault(broken, "version")


def test_headings(broken):
    page = broken.folder / "docs/README.md"
    text = page.read_text()
    page.write_text(text.replace("# Limitations", "# Limits"))
    assert "lacks the heading 'Limitations'" in fault(broken, "docs")
    page.write_text(text.replace("## Out-of-Scope Use", "## Out of scope"))
    assert "lacks the heading 'Out-of-Scope Use'" in fault(broken, "docs")
    page.write_text("# Data\n\n## Preprocessing\n\n" + text.replace("# Data", "# Datum"))
    assert "nothing stands under 'Data'" in fault(broken, "docs")


def test_a_large_file(broken):
    with (broken.folder / "docs/film.gif").open("wb") as file:
        file.truncate(LARGEST + 1)
    assert fault(broken, "25 MB").startswith("docs/film.gif: 25 MB, more than the zoo's 25")


def test_large_weights_are_a_note(broken):
    with (broken.folder / "models/model.pt").open("wb") as file:
        file.truncate(LARGEST + 1)
    mark, said = verify(broken, CHECKS["25 MB"])
    assert mark == "ok"
    assert "large_files.yml" in said


def test_applications(broken):
    edit(broken, "configs/metadata.json", supported_apps={"spreadsheet": "1"})
    assert "'spreadsheet' is unknown" in fault(broken, "apps")
    edit(broken, "configs/metadata.json", supported_apps={"monailabel": "0.8.5"})
    edit(broken, "configs/inference.json", postprocessing=...)
    assert fault(broken, "apps") == "configs/inference.json: monailabel needs postprocessing; add it"
    edit(broken, "configs/metadata.json", supported_apps=...)
    assert "lacks supported_apps" in fault(broken, "apps")


def test_a_property_that_is_missing(broken):
    edit(broken, "configs/inference.json", evaluator=..., run=["$0"])
    assert "lacks what MONAI wants of a workflow to infer: Property 'evaluator'" in fault(broken, "infer")


def test_a_recipe_that_does_not_run(broken):
    edit(broken, "configs/evaluate.json", dataset={"_target_": "cxrmonai.data.dataset.Missing"})
    assert "Missing" in fault(broken, "evaluate")


def test_weights_of_another_network(broken):
    edit(broken, "configs/inference.json", network_def={"_target_": "torch.nn.Linear", "in_features": "three"})
    assert "TypeError" in fault(broken, "weights")


def test_another_number_of_classes(broken):
    formats = broken.json("configs/metadata.json")["network_data_format"]
    formats["outputs"]["pred"]["num_channels"] = 3
    edit(broken, "configs/metadata.json", network_data_format=formats)
    assert "network_data_format does not fit the network" in fault(broken, "in/out")


def test_a_network_that_is_no_script(broken, monkeypatch):
    def elsewhere(place):
        return lambda images: torch.zeros(len(images), 10)

    monkeypatch.setattr(torch.jit, "load", elsewhere)
    assert "models/model.ts: differs from the network by" in fault(broken, "script")


def test_each_mode_does_more():
    titles = [[step.title for step in steps_of(mode)] for mode in ("regular", "min", "full")]
    assert titles[0] == ["files", "licence", "schema", "weights", "25 MB", "docs"]
    assert titles[1] == [*titles[0], "version"]
    assert titles[2] == list(CHECKS)


def test_our_schema_asks_what_the_published_one_requires(shared_data):
    ours = json.loads(SCHEMA.read_text())
    published = json.loads((shared_data / "meta_schema_20240725.json").read_text())
    jsonschema.Draft201909Validator.check_schema(ours)
    assert ours["required"] == published["required"]
    tensor = published["$defs"]["tensor"]
    assert ours["$defs"]["tensor"]["required"] == tensor["required"]
    assert ours["$defs"]["tensor"]["properties"] == tensor["properties"]
    for key, rule in ours["properties"].items():
        if key != "network_data_format":
            assert rule["type"] == published["properties"][key]["type"]
    for folder in find([]):  # what passes ours passes the published one
        jsonschema.validate(json.loads((folder / "configs/metadata.json").read_text()), published)


def test_the_command_ends_with_a_table_and_a_line_for_each_fault(broken, capsys):
    edit(broken, "configs/metadata.json", version="9.9.9")
    with pytest.raises(SystemExit) as left:
        verify_bundles.main(["finetune", str(broken.folder), "--mode", "min"])
    assert left.value.code == 1
    said = capsys.readouterr()
    (line,) = [line for line in said.err.splitlines() if line.startswith("error:")]
    assert line.startswith("error: bundle supervised: configs/metadata.json: changelog has no line for version 9.9.9")
    header, *rows = said.out.splitlines()[:3]
    assert header.split() == ["bundle", "files", "licence", "schema", "weights", "25", "MB", "docs", "version"]
    assert [row.split() for row in rows] == [["finetune", *["ok"] * 7], ["supervised", *["ok"] * 6, "FAIL"]]


def test_a_name_that_is_no_bundle(capsys):
    with pytest.raises(SystemExit) as left:
        verify_bundles.main(["ninth"])
    assert left.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ninth: no such bundle; there are cam_localization, contrastive,")
