"""What a file may hold beside tensors, and that nothing of it ever runs."""

import argparse
import os
import pickle
import sys
import tarfile
import types
import typing
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from cxrmonai.errors import CxrError
from cxrmonai.networks import load_encoder
from cxrmonai.networks.published.reading import Placeholder, read_checkpoint

WEIGHTS = {"a": torch.arange(3.0)}


class Touch:
    """Makes a file when it is unpickled by anything that runs code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


class Shell(Touch):
    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Evaluated(Touch):
    def __reduce__(self):
        return eval, (f"open({str(self.path)!r}, 'w')",)


class Looked(Touch):
    """Goes by `getattr`, as chains from a harmless module to a harmful function do."""

    def __reduce__(self):
        return getattr, (Path(self.path), "touch")


@pytest.mark.parametrize("kind", [Touch, Shell, Evaluated, Looked])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["hyper_parameters", "state_dict", "key"])
def test_code_is_refused_and_does_not_run(tmp_path, kind, legacy, place):
    trace, path = tmp_path / "ran", tmp_path / "bad.ckpt"
    bomb = kind(trace)
    content = {"state_dict": WEIGHTS, "epoch": 1}
    content |= {bomb: 1} if place == "key" else {place: {"a": bomb}}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CxrError, match=r"bad\.ckpt: not plain weights \(it names \S+, which could run code\)"):
        load_encoder(path)
    assert not trace.exists()


@pytest.mark.parametrize("kind", [Touch, Shell, Evaluated])
def test_the_bombs_are_live(tmp_path, kind):
    pickle.loads(pickle.dumps(kind(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def test_another_class_is_refused_by_its_name(tmp_path):
    torch.save({"state_dict": WEIGHTS, "args": argparse.Namespace(lr=1)}, tmp_path / "args.pt")
    with pytest.raises(CxrError, match=r"args\.pt: not plain weights \(it names argparse\.Namespace, which could"):
        load_encoder(tmp_path / "args.pt")


def module_with(monkeypatch, path, *names, ran):
    """A module that stands in for a package that is not installed, with classes that note when they are revived."""
    module = types.ModuleType(path)
    for name in names:
        revive = lambda self, state, name=name: ran.append(name)  # noqa: E731
        cls = type(name, (), {"__module__": path, "__qualname__": name, "__setstate__": revive})
        setattr(module, name, cls)
    monkeypatch.setitem(sys.modules, path, module)
    return module


@pytest.fixture
def lightning(monkeypatch):
    """Content as PyTorch Lightning 1.1 saved it for GLoRIA, with an OmegaConf object; and what was revived of it."""
    ran = []
    for parent in ("omegaconf", "pytorch_lightning", "pytorch_lightning.callbacks"):
        module_with(monkeypatch, parent, ran=ran)
    base = module_with(monkeypatch, "omegaconf.base", "ContainerMetadata", "Metadata", ran=ran)
    nodes = module_with(monkeypatch, "omegaconf.nodes", "AnyNode", ran=ran)
    dictionary = module_with(monkeypatch, "omegaconf.dictconfig", "DictConfig", ran=ran)
    sequence = module_with(monkeypatch, "omegaconf.listconfig", "ListConfig", ran=ran)
    saving = module_with(monkeypatch, "pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint", ran=ran)

    def node(cls, parent, content, metadata):
        made = cls()
        made.__dict__.update(_parent=parent, _content=content, _val=1, _metadata=metadata())
        facts = {"ref_type": typing.Any, "object_type": dict, "key_type": typing.Any, "element_type": str}
        made._metadata.__dict__.update(facts, flags={"struct": True}, resolver_cache=defaultdict(dict))
        return made

    root = node(dictionary.DictConfig, None, {}, base.ContainerMetadata)
    root._content["lr"] = node(nodes.AnyNode, root, None, base.Metadata)
    root._content["phases"] = node(sequence.ListConfig, root, [], base.ContainerMetadata)
    content = {
        "epoch": 3,
        "callbacks": {saving.ModelCheckpoint: {"monitor": "val_loss", "best_model_score": torch.tensor(0.5)}},
        "state_dict": WEIGHTS,
        "hparams_name": "cfg",
        "hparams_type": dictionary.DictConfig,
        "hyper_parameters": root,
    }
    return content, ran


@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
def test_omegaconf_settings_become_placeholders(lightning, monkeypatch, tmp_path, installed, legacy):
    content, ran = lightning
    torch.save(content, tmp_path / "gloria.ckpt", _use_new_zipfile_serialization=not legacy)
    if not installed:
        for name in [name for name in sys.modules if name.split(".")[0] in ("omegaconf", "pytorch_lightning")]:
            monkeypatch.delitem(sys.modules, name)
    before = set(torch.serialization.get_safe_globals())
    read = read_checkpoint(tmp_path / "gloria.ckpt")
    assert torch.equal(read["state_dict"]["a"], WEIGHTS["a"])
    assert isinstance(read["hyper_parameters"], Placeholder)
    assert vars(read["hyper_parameters"]) == {}
    assert ran == []
    assert installed == ("omegaconf" in sys.modules)
    assert set(torch.serialization.get_safe_globals()) == before
    torch.load(tmp_path / "gloria.ckpt", weights_only=False) if installed else None
    assert bool(ran) == installed  # so the classes would have been revived


def test_code_inside_omegaconf_settings_is_refused(lightning, tmp_path):
    content, _ = lightning
    content["hyper_parameters"]._content["bomb"] = Touch(tmp_path / "ran")
    torch.save(content, tmp_path / "gloria.ckpt")
    with pytest.raises(CxrError, match="not plain weights"):
        read_checkpoint(tmp_path / "gloria.ckpt")
    assert not (tmp_path / "ran").exists()


def test_stand_ins_of_builtins_do_nothing():
    """The names of `dict` and `int` in a pickle yield placeholders, whatever they are called with."""
    placeholder = Placeholder("import os", {"a": 1})
    placeholder.__setstate__({"_metadata": 1})
    assert vars(placeholder) == {}


def test_torchscript_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "clip.pt")
    with pytest.raises(CxrError, match=r"clip\.pt: not weights but a TorchScript program; save its state_dict\(\)"):
        load_encoder(tmp_path / "clip.pt")


def test_tar_of_the_first_pytorch_is_refused(tmp_path):
    (tmp_path / "storages").write_bytes(b"")
    with tarfile.open(tmp_path / "old.pth.tar", "w") as archive:
        archive.add(tmp_path / "storages", "storages")
    with pytest.raises(CxrError, match=r"old\.pth\.tar: not readable safely \(a tar file of PyTorch before 0\.1\.10\)"):
        load_encoder(tmp_path / "old.pth.tar")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.05, 0.6, 0.99])
def test_truncated_files_are_refused(tmp_path, legacy, share):
    path = tmp_path / "cut.pth.tar"
    torch.save({"state_dict": {"a": torch.rand(4000)}}, path, _use_new_zipfile_serialization=not legacy)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CxrError, match=r"cut\.pth\.tar: not "):
        load_encoder(path)
