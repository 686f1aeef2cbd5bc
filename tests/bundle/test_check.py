import json
import os
import subprocess
import sys
import types
from pathlib import Path

import fire
import pytest

from cxrmonai.bundle import check, command, find_root, install_excepthook, main_check, preflight, startup
from cxrmonai.errors import CxrError

LINEAR = {"_target_": "torch.nn.Linear", "in_features": 4, "out_features": "@width"}
GOOD = {
    "imports": ["$import os", "$from math import pi as three"],
    "width": 3,
    "batch_size": 8,
    "max_epochs": 2,
    "amp": True,
    "data_file": None,
    "ratio": 0.5,
    "network_def": LINEAR,
    "network": "$@network_def.to('cpu')",
    "train": {
        "dataset": {"_target_": "Dataset", "data": "$[three * k for k in range(@batch_size)]"},
        "loader": {"_target_": "DataLoader", "dataset": "@train::dataset", "batch_size": "@batch_size"},
        "options": {"shuffle": True},
        "optimizer": {"_target_": "torch.optim.Adam", "params": "$@network.parameters()", "lr": 0.001},
        "handlers": [{"_target_": "StatsHandler", "output_transform": "$lambda x: os.sep"}],
    },
    "run": ["$@train::loader"],
}


def write(folder, content, name="train.json"):
    path = folder / "configs" / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def faults_of(tmp_path):
    def run(change=None, **overrides):
        return check(write(tmp_path, {**GOOD, **(change or {})}), overrides)

    return run


def one(faults, *parts):
    assert len(faults) == 1, faults
    assert "\n" not in faults[0]
    for part in parts:
        assert part in faults[0]


def test_a_sound_config_has_no_faults(faults_of):
    assert faults_of() == []
    assert faults_of(batch_size=16, **{"train::loader::num_workers": 2, "train#optimizer#lr": 1e-4}) == []


def test_files(tmp_path):
    one(check(tmp_path / "train.json"), "train.json: no such file")
    write(tmp_path, {})
    one(check(tmp_path / "configs" / "trian.json"), "did you mean 'train.json'?")
    one(check(tmp_path), "is a folder")
    one(check(write(tmp_path, '{"a": 1,\n "b": }')), "not JSON at line 2, column 7")
    one(check(write(tmp_path, '{"a": {"b": 1, "b": 2}}')), "'b' occurs twice")
    one(check(write(tmp_path, "[1]")), "holds a list")
    one(check(write(tmp_path, "a: [", "train.yaml")), "not YAML")


def test_merging_agrees_with_monai(tmp_path):
    first = write(tmp_path, GOOD)
    second = write(tmp_path, {"+train": {"extra": 1}, "network_def::bias": False, "new": "@train::extra"}, "more.json")
    for form in ([first, second], f"['{first}', '{second}']", f"{first},{second}"):
        assert check(form) == []
    wrong = write(tmp_path, {"+trian": {"extra": 1}, "nothing::here": 1, "+width": [1]}, "wrong.json")
    faults = check([first, wrong])
    assert [part in fault for part, fault in zip(("'train'", "inside a group", "fit"), faults, strict=True)] == [
        True
    ] * 3


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("max_epoch", ("--max_epoch: train.json has no such key", "did you mean 'max_epochs'?")),
        ("batch-size", ("did you mean 'batch_size'?",)),
        ("trian::loader::batch_size", ("has no 'trian::loader'", "did you mean 'train::loader::batch_size'?")),
        ("train::optimiser", ("did you mean 'train::optimizer'?",)),
        ("train::loader::batch_sise", ("takes no argument", "did you mean 'batch_size'?")),
        ("network::bias", ("a single value",)),
        ("train::handlers::3", ("a list of 1",)),
        ("run_id", ("the config has no key 'x'",)),
        ("logging_file", ("no such file: x",)),
    ],
)
def test_unknown_override(faults_of, key, parts):
    one(faults_of(**{key: "x"}), *parts)


def test_known_overrides(faults_of, tmp_path):
    arguments = tmp_path / "args.json"
    arguments.write_text('{"batch_size": "many", "max_epochs": 3}')
    assert faults_of(run_id="run", workflow_type="train", **{"_meta_::version": "1", "network_def::bias": False}) == []
    assert faults_of(max_epochs=None) == []
    one(faults_of(args_file=str(arguments)), "--batch_size must be a whole number")
    assert faults_of(args_file=str(arguments), batch_size=4) == []
    assert not any("experiment_name" in fault for fault in faults_of(tracking="mlflow", experiment_name="a"))


@pytest.mark.parametrize(
    ("key", "value", "parts"),
    [
        ("amp", "false", ("True or False, not 'false'", "write --amp False")),
        ("batch_size", 0, ("a whole number of at least 1, not 0",)),
        ("batch_size", True, ("whole number",)),
        ("batch_size", 2.5, ("whole number",)),
        ("learning_rate", 0, ("a number above 0",)),
        ("image_size", 8, ("at least 16",)),
        ("seed", -1, ("at least 0",)),
        ("device", "gpu", ("cpu, cuda or cuda:N",)),
        ("device", "cuda:99", ("torch sees",)),
        ("split", "train", ("val, test or all, not 'train'",)),
        ("output_dir", 2026, ("text, not 2026", "quote it twice")),
        ("data_file", "no/such.h5", ("no such file: no/such.h5",)),
        ("data_file", ".", ("is a folder",)),
        ("ckpt_path", "no.pt", ("no such file",)),
        ("pretrained", 3, ("the path of a file",)),
    ],
)
def test_wrong_value(faults_of, key, value, parts):
    one(faults_of({key: None}, **{key: value}), f"--{key}", *parts)
    one(faults_of({key: value}), key)


def test_values_that_pass(faults_of):
    assert faults_of({"seed": "$1 - 2", "device": "@where", "where": "cpu", "learning_rate": 1}) == []


def test_a_config_brings_rules_of_its_own(faults_of):
    rules = {"ratio": "float > 0 <= 1", "task": "rotation | shift", "train::optimizer::lr": "float > 0"}
    assert faults_of({"_checks_": rules, "task": "shift"}) == []
    one(faults_of({"_checks_": rules}, ratio=1.5), "--ratio must be a number above 0 and of at most 1, not 1.5")
    one(faults_of({"_checks_": rules, "task": "colour"}), "rotation or shift")
    one(faults_of({"_checks_": rules}, **{"train::optimizer::lr": -1}), "--train::optimizer::lr must be")


def test_the_store_speaks_for_itself(faults_of, tmp_path, monkeypatch):
    def open_store(path):
        raise CxrError(f"{path}: made by a newer version; update cxrmonai")

    fake = types.ModuleType("cxrmonai.data.store")
    fake.open_store = open_store
    monkeypatch.setitem(sys.modules, "cxrmonai.data", types.ModuleType("cxrmonai.data"))
    monkeypatch.setitem(sys.modules, "cxrmonai.data.store", fake)
    path = tmp_path / "a.h5"
    path.touch()
    one(faults_of(data_file=str(path)), "--data_file", "newer version")
    closed = []
    fake.open_store = lambda path: types.SimpleNamespace(close=lambda: closed.append(path))
    assert faults_of(data_file=str(path)) == []
    assert closed == [str(path)]
    del fake.open_store
    assert faults_of(data_file=str(path)) == []


def test_targets(faults_of, tmp_path, monkeypatch):
    (tmp_path / "needs_other.py").write_text("import no_such_package.part\n")
    (tmp_path / "breaks.py").write_text("raise RuntimeError('not today')\n")
    monkeypatch.syspath_prepend(tmp_path)
    cases = {
        "torch.nn.Linaer": ("network_def: module 'torch.nn' has no 'Linaer'", "did you mean 'Linear'?"),
        "torch.nm.Linear": ("module 'torch' has no 'nm'",),
        "no_such.Thing": ("needs the package 'no_such', which is not installed: pip install no_such",),
        "needs_other.Thing": ("needs the package 'no_such_package'", "pip install no_such_package"),
        "breaks.Thing": ("importing 'breaks' fails with RuntimeError: not today",),
        "Datset": ("MONAI has no class or function 'Datset'; did you mean 'Dataset'?",),
    }
    for target, parts in cases.items():
        one(faults_of({"network_def": {"_target_": target}}), *parts)
    absent = {"_target_": "no_such.Thing"}
    assert faults_of({"network_def": {**absent, "_disabled_": True}}) == []
    assert faults_of({"network_def": {**absent, "_disabled_": "$not @amp"}}) == []
    assert faults_of({"network_def": {"_target_": "$@width.__class__"}}) == []


def test_arguments(faults_of):
    mistyped = {"_target_": "torch.nn.Linear", "in_feature": 4, "out_features": 3}
    one(faults_of({"network_def": mistyped}), "takes no argument 'in_feature'; did you mean 'in_features'?")
    missing = {"_target_": "torch.nn.Linear", "in_features": 4}
    one(faults_of({"network_def": missing}), "torch.nn.Linear needs the argument 'out_features'")
    assert faults_of({"network_def": {**missing, "_mode_": "callable"}}) == []
    one(faults_of({"network_def": {**missing, "_mode_": "partial"}}), "_mode_ must be default, callable or debug")
    assert faults_of({"network_def": {**LINEAR, "_desc_": "a layer", "_requires_": "@width"}}) == []
    trainer = {"_target_": "monai.engines.SupervisedTrainer", "max_epoch": 3}
    one(faults_of({"trainer": trainer}), "trainer: monai.engines.SupervisedTrainer", "did you mean 'max_epochs'?")
    one(faults_of({"first": {"_target_": "Compose", "transforms": [mistyped]}}), "first::transforms::0")


def test_references_and_macros(faults_of):
    one(faults_of({"a": "@widht"}), "a: '@widht' names nothing in the config; did you mean '@width'?")
    one(faults_of({"a": "$@train::lodaer.x"}), "'@train::lodaer'", "'@train::loader'")
    one(faults_of({"a": "$@width @ @ratio"}), "operator '@'")
    one(faults_of({"a": "%widht"}), "macro '%widht'", "did you mean 'width'?")
    one(faults_of({"a": "%no.json::x"}), "no.json: no such file")
    one(faults_of({"a": {"b": "@::c"}}), "'@a::c'")
    assert faults_of({"a": {"b": "@::c", "c": "%width", "d": "%::c"}, "mail": "a@b.c"}) == []
    circle = {"trainer": {"_target_": "Compose", "transforms": "@saver"}, "saver": ["$@trainer"]}
    one(faults_of(circle), "circle", "trainer → saver")


def test_expressions(faults_of):
    one(faults_of({"a": "$@width +"}), "a: '$@width +' is not a Python expression")
    one(faults_of({"a": "$important(1)"}), "'important' is not defined")
    one(faults_of({"a": "$str(@important)", "important": 1}), "import statement")
    one(faults_of({"a": "$json.dumps(1)"}), "'json' is not defined; add '$import json'")
    one(faults_of({"a": "$xml.dom", "b": "$import xml.dom"}), "MONAI binds '$import a.b' as 'a.b' only")
    one(faults_of({"a": "$torch.cuda.is_avialable()"}), "did you mean 'is_available'?")
    one(faults_of({"a": "$torch.nn.Linear(3, out=@width)"}), "torch.nn.Linear takes no argument 'out'")
    one(faults_of({"a": "$torch.nn.Linear(@width)"}), "torch.nn.Linear needs the argument 'out_features'")
    assert faults_of({"a": "$[json for json in np.arange(3)] + [torch.nn.Linear(*os.sep).in_features.real]"}) == []


def test_imports(faults_of):
    one(faults_of({"b": "$import no_such"}), "'$import no_such' needs the package 'no_such'")
    one(
        faults_of({"b": "$import cv2_no as cv, json"}, a=1) if False else faults_of({"b": "$import json, csv"}), "first"
    )
    one(faults_of({"b": "$from os import pathh"}), "'os' has no 'pathh'; did you mean 'path'?")
    one(faults_of({"b": "$from xml.etree import ElementInclude"}), "write '$import xml.etree.ElementInclude as")


def test_bundle_root(faults_of, tmp_path):
    one(faults_of({"bundle_root": "."}), "bundle_root '.' holds no configs/metadata.json", "--bundle_root")
    write(tmp_path, {"version": "1"}, "metadata.json")
    assert faults_of({"bundle_root": str(tmp_path), "version": "@_meta_::version"}) == []


def test_main_check(tmp_path, capsys):
    path = write(tmp_path, GOOD)
    assert main_check(str(path), batch_size=4) == 0
    assert capsys.readouterr().out == f"ok: {path}: 5 components and 7 expressions checked\n"
    assert main_check(str(path), batch_size=0, max_epoch=1) == 1
    assert [line[:7] for line in capsys.readouterr().err.splitlines()] == ["error: "] * 2


@pytest.mark.parametrize(
    "words",
    [
        "--config_file a.json --batch-size 4 --amp",
        "training --config_file ['a.json','b.json'] --lr=1e-3 --noresume",
        "--tags a,b --x -1 --name=--y --none None --flag false --train::max_epochs 3 --net#a 'b'",
        "one --final_id three two --config_file a.json -- --separator=X",
    ],
)
def test_words_are_read_as_fire_reads_them(words):
    def run(run_id=None, init_id=None, final_id=None, meta_file=None, config_file=None, **override):
        seen.update({k: v for k, v in locals().items() if k != "seen"})

    seen = {}
    fire.Fire(run, command=words.split(), name="run")
    seen.update(seen.pop("override"))
    names = ("run_id", "init_id", "final_id", "meta_file", "config_file")
    expected = {key: value for key, value in seen.items() if key not in names or value is not None}
    assert command.parse(words.split(), names) == expected


def as_command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["/x/monai/bundle/__main__.py", *map(str, words)])


def test_find_root(tmp_path, monkeypatch):
    bundle = tmp_path / "bundles" / "simclr"
    config = write(bundle, GOOD)
    write(bundle, {"name": "other"}, "metadata.json")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for folder in (tmp_path, bundle):
        monkeypatch.chdir(folder)
        assert find_root("simclr") == str(bundle)
    assert find_root("other") == str(bundle)
    monkeypatch.chdir(elsewhere)
    with pytest.raises(CxrError, match="--bundle_root"):
        find_root("simclr")
    as_command(monkeypatch, "run", "--config_file", os.path.relpath(config))
    assert find_root("simclr") == str(bundle)
    as_command(monkeypatch, "run", "--config_file", f"['{config}','{config}']")
    assert find_root("renamed") == str(bundle)


def test_find_root_of_a_workflow_made_in_python(tmp_path, monkeypatch):
    from monai.bundle import ConfigWorkflow

    config = {"imports": ["$import cxrmonai.bundle as b"], "bundle_root": "$b.find_root('x')", "run": "$@bundle_root"}
    path = write(tmp_path / "here", config)
    write(tmp_path / "here", {}, "metadata.json")
    monkeypatch.chdir(tmp_path)
    workflow = ConfigWorkflow(config_file=str(path), logging_file=False)
    workflow.initialize()
    assert workflow.run() == [str(tmp_path / "here")]


def test_preflight_is_silent_in_other_processes(monkeypatch):
    hook = sys.excepthook
    preflight()
    as_command(monkeypatch, "ckpt_export", "--config_file", "no.json")
    preflight()
    assert sys.excepthook is hook


def test_preflight_leaves_with_one_line_and_once_for_all_ranks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(startup, "_SPEAKER_SECONDS", 0)
    path = write(tmp_path, GOOD)
    as_command(monkeypatch, "run", "--config_file", path, "--max-epoch", 3)
    for rank, expected in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as left:
            preflight()
        assert left.value.code == 1
        assert capsys.readouterr().err.count("error: --max_epoch") == expected
    monkeypatch.setenv("CXRMONAI_CHECK", "0")
    preflight()


def test_excepthook(monkeypatch, capsys):
    earlier = []
    monkeypatch.setattr(sys, "excepthook", lambda *error: earlier.append(error[1]))
    install_excepthook()
    hook = sys.excepthook
    install_excepthook()
    assert sys.excepthook is hook
    try:
        try:
            raise CxrError("a.h5: broken;\n make it again")
        except CxrError as cause:
            raise RuntimeError("wrapped") from cause
    except RuntimeError as error:
        wrapped = error
    hook(RuntimeError, wrapped, None)
    assert capsys.readouterr().err == "error: a.h5: broken; make it again\n"
    hook(ValueError, ValueError("defect"), None)
    monkeypatch.setenv("CXRMONAI_TRACEBACK", "1")
    hook(RuntimeError, wrapped, None)
    assert [type(error) for error in earlier] == [ValueError, RuntimeError]


@pytest.mark.slow
def test_runs_of_monai_end_in_one_line(tmp_path):
    (tmp_path / "raiser.py").write_text(
        "from cxrmonai.errors import CxrError\ndef raise_it():\n    raise CxrError('a.h5: no images; make it again')\n"
    )
    config = {
        "imports": ["$import cxrmonai", "$import cxrmonai.bundle", "$import raiser"],
        "bundle_root": "$cxrmonai.bundle.find_root('tiny')",
        "_checks_": {"max_epochs": "int >= 1"},
        "max_epochs": 1,
        "initialize": ["$cxrmonai.bundle.preflight()", "$print('started in', @bundle_root)"],
        "run": ["$raiser.raise_it()"],
    }
    path = write(tmp_path / "tiny", config)
    write(tmp_path / "tiny", {"version": "1"}, "metadata.json")
    package = str(Path(startup.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([package, str(tmp_path)])}
    start = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(path)]
    cases = {"--max_epoch": "error: --max_epoch: train.json has no such key", "--max_epochs": "error: a.h5: no images"}
    for option, expected in cases.items():
        done = subprocess.run([*start, option, "2"], capture_output=True, text=True, env=environment, cwd=tmp_path)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert done.returncode == 1
        assert len(errors) == 1
        assert errors[0].startswith(expected)
        assert "Traceback" not in done.stderr
        assert (f"started in {tmp_path / 'tiny'}" in done.stdout) == (option == "--max_epochs")


def test_a_lost_rank_is_told_in_a_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", lambda *error: print("traceback", file=sys.stderr))
    install_excepthook()
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4521")
    for rank, told in ((None, "traceback\n"), ("3", "error: rank 3 has lost another rank, ")):
        if rank is not None:
            monkeypatch.setenv("WORLD_SIZE", "4")
            monkeypatch.setenv("RANK", rank)
        sys.excepthook(RuntimeError, lost, None)
        said = capsys.readouterr().err
        assert said.startswith(told)
        assert len(said.splitlines()) == 1
    sys.excepthook(ValueError, ValueError("a defect"), None)
    assert capsys.readouterr().err == "traceback\n"
