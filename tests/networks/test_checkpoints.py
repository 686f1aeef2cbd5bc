import json
import pickle
from pathlib import Path

import pytest
import torch
from ignite.handlers import Checkpoint
from monai.handlers import CheckpointLoader
from monai.networks.utils import copy_model_state

from cxrmonai.errors import CxrError
from cxrmonai.networks import (
    ContrastiveNetwork,
    describe_checkpoint,
    encoder,
    load_encoder,
    load_network,
    preprocessing,
    start_from,
    trained_size,
)
from cxrmonai.transforms.preprocessing import Preprocessing

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
        load_network(make(), tmp_path / "nested.pt")
    kind = type(content).__name__
    words = "no description" if kind == "dict" else f"holds no dictionary of weights but a {kind}"
    with pytest.raises(CxrError, match=rf"nested\.pt: {words}"):
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


def saved(network, path):
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.parametrize("channels", [1, 3])
def test_input_of_ours_is_what_our_bundles_do(tmp_path, channels):
    path = saved(make(image_size=48, in_channels=channels), tmp_path / "model.pt")
    expected = Preprocessing(48, mean=(0.5,) * channels, std=(0.25,) * channels)
    assert preprocessing(path) == load_encoder(path).preprocessing == expected
    assert trained_size(path) == 48


def test_input_that_is_set_travels_with_the_weights(tmp_path):
    network = make(image_size=48)
    network.encoder.preprocessing = Preprocessing(40, fit="crop", fit_size=48, mean=(0.3,), std=(0.2,))
    path = saved(network, tmp_path / "model.pt")
    loaded = load_network(make(image_size=48), path)
    expected = network.encoder.preprocessing
    assert preprocessing(path) == load_encoder(path).preprocessing == loaded.encoder.preprocessing == expected
    assert trained_size(path) == 40


def test_weights_of_another_size_do_not_change_the_input(tmp_path):
    """Weights to start from come with their own size, the run goes on with its own."""
    path = saved(make(image_size=48), tmp_path / "model.pt")
    assert not hasattr(start_from(make(image_size=64), path).encoder, "preprocessing")


def test_size_that_is_not_told(model):
    assert load_encoder(model).preprocessing is None
    for read in (preprocessing, trained_size):
        with pytest.raises(CxrError, match=r"model\.pt: does not tell the size of its images; give --image_size"):
            read(model)
    assert "input         the file does not tell its size; give --image_size" in str(describe_checkpoint(model))


@pytest.mark.parametrize(
    "stored", [{"image_size": 0}, {"image_size": 8, "gamma": 2}, 5, {"image_size": 8, "mean": "a"}]
)
def test_unreadable_preprocessing(trained, tmp_path, stored):
    content = json.loads(bytes(trained.state_dict()["_extra_state"].tolist())) | {"preprocessing": stored}
    state = torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8)
    path = edited(trained, tmp_path / "new.pt", _extra_state=state)
    for read in (load_encoder, preprocessing, lambda path: load_network(make(), path)):
        with pytest.raises(CxrError, match=r"new\.pt: the preprocessing .* not readable; upgrade"):
            read(path)


def test_report(tmp_path):
    network = make(image_size=48, stem="cifar")
    path = saved(network, tmp_path / "model.pt")
    report = describe_checkpoint(path)
    assert report.description == network.encoder.description
    assert report.feature_size == network.encoder.num_features
    assert str(report).splitlines() == [
        f"checkpoint    {path}",
        "layout        cxrmonai, model.pt of a bundle",
        f"encoder       {NAME} (1 channel, cifar stem)",
        f"features      {network.encoder.num_features} numbers an image",
        "input         longest side to 48 px, zero-padded to a square; 1 channel; mean 0.5, std 0.25 (grey 0–1)",
        "trained with  feature_size 8, head mlp, image_size 48",
        f"used          {len(network.encoder.state_dict())} keys",
        f"dropped       {len(network.head.state_dict())} keys head.* (behind the encoder)",
    ]


def test_report_of_what_is_none(tmp_path):
    (tmp_path / "odd.pt").write_bytes(b"hello")
    with pytest.raises(CxrError, match=r"odd\.pt: not "):
        describe_checkpoint(tmp_path / "odd.pt")


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
