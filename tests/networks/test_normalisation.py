import json

import pytest
import torch
import torch.nn.functional as F

from cxrmonai.errors import CxrError
from cxrmonai.networks import ContrastiveNetwork, EncoderDescription, encoder, load_encoder, load_network
from cxrmonai.networks.normalisation import LenientBatchNorm2d, group_count, make_norm

NAME = "test_efficientnet"


def batch_norms(network):
    return {name: module for name, module in network.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}


@pytest.mark.parametrize(
    ("channels", "groups"), [(64, 32), (32, 32), (48, 24), (40, 20), (31, 31), (37, 1), (1, 1), (112, 28)]
)
def test_most_groups_that_fit(channels, groups):
    assert group_count(channels) == groups
    assert make_norm("group", channels).num_groups == groups


@pytest.mark.parametrize("norm", ["group", "instance"])
@pytest.mark.parametrize("name", ["test_resnet", NAME, "densenet121"])
def test_every_batch_norm_is_replaced_under_its_name(name, norm):
    with torch.device("meta"):
        before, after = encoder(name), encoder(name, norm=norm)
    assert not batch_norms(after)
    keys = [
        key for key in before.state_dict() if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
    ]
    assert list(after.state_dict()) == keys
    assert after.description == EncoderDescription(name, norm=norm)


def plain(norm, module, maps):
    groups = group_count(maps.shape[1]) if norm == "group" else maps.shape[1]
    parts = maps.unflatten(1, (groups, -1)).flatten(2)
    variance, mean = torch.var_mean(parts, dim=2, keepdim=True, correction=0)
    values = ((parts - mean) / (variance + module.eps).sqrt()).reshape(maps.shape)
    return values * module.weight[:, None, None] + module.bias[:, None, None]


@pytest.mark.parametrize("norm", ["group", "instance"])
@pytest.mark.parametrize("name", ["test_resnet", NAME])
def test_norm_and_fused_activation(name, norm):
    """EfficientNet and DenseNet fuse an activation with the norm, which must live on."""
    before, after = encoder(name).double(), encoder(name, norm=norm).double()
    for path, old in batch_norms(before).items():
        new = after.get_submodule(path)
        torch.nn.init.normal_(new.weight)
        torch.nn.init.normal_(new.bias)
        maps = torch.randn(2, old.num_features, 4, 3, dtype=torch.float64)
        act = getattr(old, "act", torch.nn.Identity())
        assert new.eps == old.eps
        torch.testing.assert_close(new(maps.clone()), act(plain(norm, new, maps)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", ["group", "instance"])
def test_initial_weights_are_those_of_the_backbone(norm):
    """ResNets start the last norm of each block at zero."""
    assert encoder("resnet18", norm=norm).layer1[0].bn2.weight.abs().max() == 0


@pytest.mark.parametrize("norm", ["group", "instance"])
def test_an_image_does_not_depend_on_its_batch(norm):
    images = torch.rand(3, 1, 64, 64)
    own, usual = encoder(NAME, norm=norm).train(), encoder(NAME).train()
    torch.testing.assert_close(own(images)[:1], own(images[:1]), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(usual(images)[:1], usual(images[:1]), rtol=1e-2)


def test_refusals():
    with pytest.raises(CxrError, match="'test_vit' has no batch norm that norm group could replace; use --norm batch"):
        encoder("test_vit", norm="group")
    with pytest.raises(CxrError, match="'levit_128s' has batch norms over tokens"), torch.device("meta"):
        encoder("levit_128s", norm="instance")
    for make in (lambda: encoder(NAME, norm="layer"), lambda: make_norm("layer", 4)):
        with pytest.raises(CxrError, match="norm 'layer': known are batch, group, instance"):
            make()


def network_of(norm, seed=0):
    torch.manual_seed(seed)
    network = ContrastiveNetwork(NAME, feature_size=4)
    network.encoder = encoder(NAME, norm=norm)
    return network


def test_norm_comes_back_from_the_file(tmp_path):
    network = network_of("group")
    torch.save(network.state_dict(), tmp_path / "model.pt")
    loaded = load_encoder(tmp_path / "model.pt")
    assert loaded.description.norm == "group"
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(loaded.eval()(images), network.encoder.eval()(images))
    with pytest.raises(CxrError, match=r"model\.pt: holds .*group.*, the config asks for test_efficientnet"):
        load_network(network_of("batch"), tmp_path / "model.pt")


def test_old_files_without_a_norm_have_batch_norms(tmp_path):
    state = network_of("batch").state_dict()
    content = json.loads(bytes(state["_extra_state"].tolist()))
    del content["encoder"]["norm"]
    state["_extra_state"] = torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8)
    torch.save(state, tmp_path / "old.pt")
    assert load_encoder(tmp_path / "old.pt").description.norm == "batch"
    load_network(network_of("batch", seed=1), tmp_path / "old.pt")


def test_lenient_batch_norm_is_batch_norm():
    ours, theirs = LenientBatchNorm2d(3), torch.nn.BatchNorm2d(3)
    for training in (True, False):
        maps = torch.randn(2, 3, 4, 4)
        torch.testing.assert_close(ours.train(training)(maps), theirs.train(training)(maps))
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_lenient_batch_norm_takes_a_single_value():
    norm, value = LenientBatchNorm2d(3).train(), torch.rand(1, 3, 1, 1)
    norm(torch.randn(4, 3, 2, 2))
    before = norm.running_mean.clone()
    expected = F.batch_norm(value, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0, norm.eps)
    torch.testing.assert_close(norm(value), expected)
    assert torch.equal(norm.running_mean, before)
