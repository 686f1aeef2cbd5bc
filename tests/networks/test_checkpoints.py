import json
import pickle
from pathlib import Path

import pytest
import torch
from ignite.handlers import Checkpoint
from monai.handlers import CheckpointLoader
from monai.networks.utils import copy_model_state

from cxrmonai.errors import CxrError
from cxrmonai.networks import ContrastiveNetwork, encoder, load_encoder, load_network, start_from

NAME = "test_efficientnet"  # timm's own small one, with batch norm


def make(seed=0, **options):
    torch.manual_seed(seed)
    return ContrastiveNetwork(**{"encoder": NAME, "feature_size": 8, **options})


@pytest.fixture(scope="module")
def trained():
    """A network whose batch norms have seen images."""
    network = make(seed=1)
    network(torch.rand(4, 1, 32, 32))
    return network.eval()


@pytest.fixture
def model(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.fixture
def other():
    return make(seed=2)


def same(network, state):
    return all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def snapshot(network):
    return {key: value.clone() for key, value in network.state_dict().items()}


def edited(trained, path, **changes):
    state = {**trained.state_dict(), **changes}
    torch.save({key: value for key, value in state.items() if value is not None}, path)
    return path


def features(network, images):
    with torch.no_grad():
        return network.eval()(images)


@pytest.mark.parametrize(
    "options",
    [{"stem": "cifar", "in_channels": 3}, {"encoder": "test_vit", "image_size": 32}, {"head": "linear"}],
)
def test_encoder_comes_back_from_the_file_alone(options, tmp_path):
    network = make(**options)
    images = torch.rand(4, options.get("in_channels", 1), 32, 32)
    network(images)  # moves the statistics of batch norms
    torch.save(network.state_dict(), tmp_path / "model.pt")
    loaded = load_encoder(tmp_path / "model.pt")
    assert loaded.description == network.encoder.description
    assert torch.equal(features(loaded, images), features(network.encoder, images))


def test_state_is_flat_tensors(trained):
    assert all(isinstance(value, torch.Tensor) for value in trained.state_dict().values())


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("read", [load_encoder, lambda path: load_network(make(), path)])
def test_code_in_a_pickle_does_not_run(tmp_path, legacy, read):
    trace = tmp_path / "ran"
    torch.save({"a": Bomb(trace)}, tmp_path / "bad.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CxrError, match=r"bad\.pt: not plain weights"):
        read(tmp_path / "bad.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(CxrError, match=r"plain\.pt: not"):
        read(tmp_path / "plain.pt")
    assert not trace.exists()
    torch.load(tmp_path / "bad.pt", weights_only=False)
    assert trace.exists()  # so the bomb was live


@pytest.mark.parametrize(
    "content", [b"", b"hello world\n", b"PK\x03\x04", b"\x80\x02", b"image,label\n", b"\x89PNG\r\n"]
)
def test_file_that_is_no_checkpoint(tmp_path, content):
    (tmp_path / "odd.pt").write_bytes(content)
    with pytest.raises(CxrError, match=r"odd\.pt: not "):
        load_encoder(tmp_path / "odd.pt")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_truncated_file(model, share):
    data = model.read_bytes()
    model.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CxrError, match=r"model\.pt: not a readable checkpoint"):
        load_encoder(model)


def test_missing_file(tmp_path):
    with pytest.raises(CxrError, match=r"gone\.pt: no such file"):
        load_encoder(tmp_path / "gone.pt")


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {"a": torch.zeros(1)}}, torch.zeros(3)])
def test_content_that_is_no_flat_dictionary(tmp_path, content):
    torch.save(content, tmp_path / "nested.pt")
    with pytest.raises(CxrError, match=r"nested\.pt: not a flat dictionary"):
        load_encoder(tmp_path / "nested.pt")


def test_no_description(trained, tmp_path):
    path = edited(trained, tmp_path / "bare.pt", _extra_state=None)
    with pytest.raises(CxrError, match=r"bare\.pt: no description"):
        load_encoder(path)


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "{}", json.dumps({"encoder": {"name": NAME, "new": 1}})])
def test_unreadable_description(trained, tmp_path, text):
    path = edited(trained, tmp_path / "new.pt", _extra_state=torch.tensor(list(text.encode()), dtype=torch.uint8))
    for read in (load_encoder, lambda path: load_network(make(), path)):
        with pytest.raises(CxrError, match=r"new\.pt: the description .* not readable; upgrade"):
            read(path)


FAULTS = {
    "missing": (
        {"encoder.conv_stem.weight": None, "encoder.bn1.bias": None},
        r"missing .*conv_stem\.weight, .*bn1\.bias",
    ),
    "extra": ({"encoder.new.weight": torch.zeros(2)}, r"left over .*new\.weight"),
    "misshapen": ({"encoder.bn1.weight": torch.zeros(3)}, r"misshapen .*bn1\.weight \(3,\) for \(24,\)"),
    "all": (
        {"encoder.bn1.weight": torch.zeros(3), "encoder.bn1.bias": None, "encoder.new": torch.zeros(1)},
        r"missing .*bn1\.bias; left over .*new; misshapen .*bn1\.weight",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_key_must_fit_and_else_nothing_is_loaded(trained, other, tmp_path, fault):
    changes, words = FAULTS[fault]
    path = edited(trained, tmp_path / "odd.pt", **changes)
    before = snapshot(other)
    for read in (load_encoder, lambda path: load_network(other, path), lambda path: start_from(other, path)):
        with pytest.raises(CxrError, match=rf"odd\.pt: the weights do not fit the network: .*{words}"):
            read(path)
    assert same(other, before)


def test_long_lists_are_cut(trained, other, tmp_path):
    path = edited(trained, tmp_path / "odd.pt", **{f"encoder.more{k}": torch.zeros(1) for k in range(11)})
    with pytest.raises(CxrError, match=r"more7 and 3 more$"):
        load_network(other, path)


@pytest.mark.parametrize("options", [{"stem": "cifar"}, {"encoder": "test_resnet"}, {"in_channels": 3}])
def test_encoder_of_another_build(model, options):
    network = make(seed=2, **options)
    before = snapshot(network)
    for read in (load_network, start_from):
        with pytest.raises(CxrError, match=rf"model\.pt: holds {NAME} \(1 channel, default stem\), the config asks"):
            read(network, model)
    with pytest.raises(CxrError, match=f"the weights belong to {NAME}"):
        network.load_state_dict(torch.load(model, weights_only=True), strict=False)
    assert same(network, before)


def test_start_from_takes_the_encoder_and_leaves_the_head(trained, model):
    network = make(seed=2, feature_size=5)
    head = snapshot(network.head)
    assert start_from(network, model) is network
    assert same(network.encoder, trained.encoder.state_dict())
    assert same(network.head, head)


def test_start_from_nothing(other):
    before = snapshot(other)
    assert start_from(other, None) is other
    assert same(other, before)


def test_load_network(trained, other, model):
    assert not same(other, trained.state_dict())
    assert load_network(other, model) is other
    assert same(other, trained.state_dict())


def test_load_network_of_any_module(tmp_path):
    torch.save(encoder(NAME).state_dict(), tmp_path / "bare.pt")
    network = load_network(encoder(NAME), tmp_path / "bare.pt")
    assert same(network, torch.load(tmp_path / "bare.pt", weights_only=True))


def test_loads_by_ignite(trained, other, model):
    Checkpoint.load_objects({"model": other}, torch.load(model, weights_only=True), strict=True)
    assert same(other, trained.state_dict())


def test_loads_by_monais_checkpoint_loader(trained, other, model):
    from ignite.engine import Engine

    engine = Engine(lambda *_: None)
    CheckpointLoader(str(model), {"model": other}, strict=True).attach(engine)
    engine.run([0])
    assert same(other, trained.state_dict())


def test_loads_by_monais_copy_model_state(trained, other):
    _, changed, unchanged = copy_model_state(other, trained)
    assert not unchanged
    assert len(changed) == len(trained.state_dict())
    assert same(other, trained.state_dict())
