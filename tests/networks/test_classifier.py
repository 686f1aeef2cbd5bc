import itertools
import json

import numpy as np
import pytest
import torch

from cxrmonai.errors import CxrError
from cxrmonai.networks import (
    Classifier,
    ContrastiveNetwork,
    EncoderDescription,
    encoder_stages,
    load_classifier,
    load_network,
    need_classifier,
    parameter_groups,
    start_from,
)
from cxrmonai.networks import encoder as make_encoder
from cxrmonai.networks.attention import ATTENTIONS
from cxrmonai.networks.normalisation import NORMS
from cxrmonai.networks.pooling import POOLINGS, SINGLE

TINY = "test_efficientnet"  # timm's own small one, with batch norm
NAMES = ["Edema", "Mass", "Pleural Effusion"]
pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")


def make(seed=0, encoder=TINY, size=64, **options):
    torch.manual_seed(seed)
    return Classifier(options.pop("class_names", NAMES), encoder, image_size=size, **options)


def images_of(count=2, size=64, seed=0, channels=1):
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


def snapshot(network):
    return {key: value.clone() for key, value in network.state_dict().items()}


def same(network, state):
    return all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def check_that_it_trains(network, images):
    network.train()
    logits = network(images)
    assert logits.shape == (len(images), len(NAMES))
    torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.ones_like(logits)).backward()
    for name, value in network.named_parameters():
        if value.requires_grad:
            assert value.grad is not None, name
            assert value.grad.isfinite().all(), name
    assert network.head.weight.grad.abs().max() > 0
    assert any(value.grad.abs().max() > 0 for value in network.encoder.parameters() if value.requires_grad)


COMBINATIONS = [
    (attention, pooling)
    for attention, pooling in itertools.product(ATTENTIONS, POOLINGS)
    if attention == "none" or pooling != "NATIVE"
]


@pytest.mark.parametrize("norm", NORMS)
def test_every_combination_trains(norm):
    """The full product on one tiny encoder, which keeps 2×2 maps of 32 pixels with the small stem."""
    torch.manual_seed(0)
    images = images_of(size=32)
    for attention, pooling in COMBINATIONS:
        network = make(size=32, stem="cifar", attention=attention, pooling=pooling, norm=norm)
        check_that_it_trains(network, images)


COVER = [  # each encoder with and without attention, each attention, pooling and norm more than once
    ("resnet18", "none", "AVG", "batch"),
    ("resnet18", "SAM", "PCAM", "group"),
    ("densenet121", "CAM", "PCAM", "batch"),
    ("efficientnet_b0", "FPA", "LSE", "batch"),
    ("efficientnet_b0", "none", "LINEAR", "group"),
    ("convnext_atto", "none", "EXP", "batch"),
    ("convnext_atto", "CAM", "AVG_MAX_LSE", "batch"),
    ("vit_tiny_patch16_224", "none", "NATIVE", "batch"),
    ("test_resnet", "FPA", "MAX", "group"),
    ("test_resnet", "FPA", "AVG_MAX", "instance"),
    ("test_resnet", "none", "NATIVE", "batch"),
    ("test_convnext", "SAM", "LINEAR", "batch"),
    ("test_convnext", "none", "NATIVE", "batch"),
    ("test_vit", "SAM", "LSE", "batch"),
    ("test_vit", "FPA", "PCAM", "batch"),
    ("test_vit", "CAM", "MAX", "batch"),
]


@pytest.mark.parametrize(("name", "attention", "pooling", "norm"), COVER)
def test_encoders_train_and_export(name, attention, pooling, norm, tmp_path):
    network = make(encoder=name, attention=attention, pooling=pooling, norm=norm)
    check_that_it_trains(network, images_of(2))
    network.eval()
    torch.nn.init.normal_(network.head.weight)
    images = images_of(3)
    with torch.no_grad():
        expected = network(images)
        assert not torch.allclose(expected[0], expected[1])
        if name.startswith("test_"):
            torch.jit.save(torch.jit.script(network), tmp_path / "network.ts")
            exported = torch.jit.load(tmp_path / "network.ts")
        else:
            exported = torch.jit.trace(network, images[:2], check_trace=False)
        for count in (1, 2, 3):
            torch.testing.assert_close(exported(images[:count]), expected[:count], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "attention", "pooling"), [("test_resnet", "FPA", "PCAM"), ("test_vit", "SAM", "AVG_MAX_LSE")]
)
def test_torch_export_with_any_batch_size(name, attention, pooling):
    """What PyTorch's ONNX exporter begins with."""
    network = make(encoder=name, attention=attention, pooling=pooling).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(network, (images_of(2),), dynamic_shapes=({0: batch},)).module()
    for count in (1, 3):
        torch.testing.assert_close(program(images_of(count)), network(images_of(count)))


@pytest.mark.parametrize(
    ("name", "attention", "pooling", "norm"),
    [
        ("test_resnet", "FPA", "PCAM", "group"),
        ("test_vit", "SAM", "AVG_MAX_LSE", "batch"),
        ("published", "none", "AVG", "batch"),
    ],
)
def test_onnx_at_several_batch_sizes(tmp_path, name, attention, pooling, norm):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    channels = 3 if name == "published" else 1
    build = {"encoder": name, "norm": norm}
    if name == "published":  # what S2MTS2 and GLoRIA change in a backbone
        build = {"encoder": make_encoder("resnet18", in_channels=3, negative_slope=0.1, upsample=80)}
    network = make(**build, attention=attention, pooling=pooling).eval()
    torch.nn.init.normal_(network.head.weight)
    path, batch = tmp_path / "network.onnx", torch.export.Dim("batch")
    images = images_of(5, channels=channels)
    torch.onnx.export(network, (images[:2],), path, dynamo=True, dynamic_shapes=({0: batch},))
    session = runtime.InferenceSession(str(path))
    with torch.no_grad():
        expected = network(images)
    assert not torch.allclose(expected[0], expected[1], atol=1e-3)
    for count in (1, 3, 5):
        (logits,) = session.run(None, {session.get_inputs()[0].name: images[:count].numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), expected[:count], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [TINY, "test_vit", "test_convnext", "swin_s3_tiny_224"])
def test_average_of_class_maps_is_the_logit(name):
    network = make(encoder=name).eval()
    images = images_of()
    with torch.no_grad():
        maps = network.class_maps(images)
        torch.testing.assert_close(maps.mean((2, 3)), network(images), rtol=1e-4, atol=1e-6)
    assert maps.std((2, 3)).min() > 0


@pytest.mark.parametrize("pooling", SINGLE)
def test_class_maps_are_the_head_at_each_position(pooling):
    network = make(pooling=pooling, attention="CAM").eval()
    with torch.no_grad():
        maps, inner = network.class_maps(images_of()), network.feature_maps(images_of())
        assert maps.shape == (2, 3, *inner.shape[2:])
        torch.testing.assert_close(maps[1, :, 0, 1], network.head(inner[1, :, 0, 1]))


def test_pcam_maps_are_probabilities_and_weigh_the_logit():
    network = make(pooling="PCAM").eval()
    torch.nn.init.normal_(network.head.weight)
    with torch.no_grad():
        maps, inner = network.class_maps(images_of()), network.feature_maps(images_of())
        scores = torch.einsum("kc,bchw->bkhw", network.head.weight, inner) + network.head.bias[:, None, None]
        torch.testing.assert_close(maps, scores.sigmoid())
        expected = (maps * scores).sum((2, 3)) / maps.sum((2, 3))
        torch.testing.assert_close(network(images_of()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["AVG_MAX", "AVG_MAX_LSE", "NATIVE"])
def test_poolings_without_class_maps_say_so(pooling):
    with pytest.raises(CxrError, match=rf"pooling {pooling} has no maps of classes; train with one of AVG, .*PCAM"):
        make(pooling=pooling).class_maps(images_of())


@pytest.mark.parametrize("pooling", POOLINGS)
def test_features_are_what_the_head_sees(pooling):
    network = make(pooling=pooling).eval()
    with torch.no_grad():
        features, logits = network.features(images_of()), network(images_of())
        if pooling == "PCAM":
            features = features.reshape(2, 3, -1)
            expected = torch.stack([(features[:, k] * network.head.weight[k]).sum(1) for k in range(3)], dim=1)
            torch.testing.assert_close(logits, expected + network.head.bias)
        else:
            torch.testing.assert_close(logits, network.head(features))
    assert features.shape[-1] == network.head.in_features


def test_tokens_become_a_map_row_by_row():
    network = make(encoder="test_vit").eval()
    tokens = network.encoder.forward_features(images_of())
    assert network.encoder.num_prefix_tokens == 1
    maps = network.feature_maps(images_of())
    assert maps.shape == (2, 64, 4, 4)
    for row, column in [(0, 0), (1, 2), (3, 3)]:
        assert torch.equal(maps[:, :, row, column], tokens[:, 1 + 4 * row + column])


def test_channels_come_first():
    network = make(encoder="swin_s3_tiny_224").eval()
    with torch.no_grad():
        theirs, maps = network.encoder.forward_features(images_of(1)), network.feature_maps(images_of(1))
    assert theirs.shape == (1, 2, 2, 768)
    assert torch.equal(maps[0, :, 0, 1], theirs[0, 0, 1])


def test_norm_after_the_encoders_pooling_is_applied_at_each_position():
    network = make(encoder="test_convnext").eval()
    with torch.no_grad():
        network.encoder.head.norm.weight.copy_(torch.rand(64))
        raw, maps = network.encoder.forward_features(images_of()), network.feature_maps(images_of())
        vector = torch.nn.functional.layer_norm(raw[1, :, 0, 1], (64,), eps=network.encoder.head.norm.eps)
        torch.testing.assert_close(maps[1, :, 0, 1], vector * network.encoder.head.norm.weight)
    native = make(encoder="test_convnext", pooling="NATIVE").eval()
    with torch.no_grad():
        torch.testing.assert_close(native.features(images_of()), native.encoder(images_of()))


def test_layers_behind_the_maps_are_kept_and_not_trained():
    """DDP would wait for gradients that never come."""
    network = make(encoder="mobilenetv3_small_050")
    fixed = [name for name, value in network.named_parameters() if not value.requires_grad]
    assert fixed == ["encoder.conv_head.weight", "encoder.conv_head.bias"]
    check_that_it_trains(network, images_of())
    assert all(value.requires_grad for value in make(encoder="mobilenetv3_small_050", pooling="NATIVE").parameters())


def test_construction_moves_no_statistics_and_keeps_the_encoders_weights():
    torch.manual_seed(4)
    expected = make_encoder(TINY).state_dict()
    with torch.no_grad():
        network = make(seed=4, attention="FPA")
    assert same(network.encoder, expected)
    assert all(value.max() == 0 for key, value in network.attention.state_dict().items() if key.endswith("_mean"))
    assert all(module.training for module in network.modules())
    assert all(value.requires_grad for value in network.parameters())


REFUSALS = [
    ({"attention": "SE"}, "attention 'SE': known are none, CAM, SAM, FPA"),
    ({"pooling": "avg"}, "pooling 'avg': known are AVG, .*, NATIVE"),
    ({"task": "binary"}, "task 'binary': known are multilabel, multiclass"),
    ({"norm": "layer"}, "norm 'layer': known are batch, group, instance"),
    ({"attention": "CAM", "pooling": "NATIVE"}, "attention CAM needs maps, and pooling NATIVE has none"),
    ({"pooling": "PCAM", "task": "multiclass"}, "pooling PCAM .* use task multilabel or another pooling"),
    ({"class_names": ["a"], "task": "multiclass"}, "task multiclass needs two class_names or more"),
    ({"class_names": []}, "class_names: give at least one name"),
    ({"class_names": ["a", " "]}, "class_names: give at least one name, and none that is empty"),
    ({"class_names": ["a", "b", "a"]}, "class_names: 'a' is there twice"),
    ({"dropout": 1.0}, r"dropout 1\.0: must be at least 0 and below 1"),
    ({"lse_gamma": 0}, r"lse_gamma 0(\.0)?: must be above 0"),
    ({"encoder": "test_vit", "norm": "group"}, "'test_vit' has no batch norm that norm group could replace"),
    ({"norm": "instance", "size": 32}, f"'{TINY}' with norm instance cannot take images of 32 pixels"),
    ({"encoder": "crossvit_9_240", "size": 240}, "'crossvit_9_240' gives no maps to pool; use pooling NATIVE"),
    (
        {"encoder": "coat_lite_tiny", "size": 0},
        "'coat_lite_tiny' gives tokens that are no square map; use pooling NATIVE",
    ),
]


@pytest.mark.parametrize(("options", "words"), REFUSALS)
def test_what_makes_no_sense_is_refused(options, words):
    with pytest.raises(CxrError, match=words):
        make(**options)


def test_names_in_one_text():
    assert make(class_names="Edema, Mass").class_names == ["Edema", "Mass"]


def test_dropout_acts_in_training_alone():
    for pooling in ("AVG", "PCAM"):
        network = make(pooling=pooling, dropout=0.5, norm="group").train()
        assert not torch.equal(network(images_of()), network(images_of()))
        network.eval()
        assert torch.equal(network(images_of()), network(images_of()))


def test_probabilities():
    logits = torch.tensor([[0.0, 2.0, -1.0]])
    torch.testing.assert_close(make().probabilities(logits), 1 / (1 + (-logits).exp()))
    shares = make(task="multiclass").probabilities(logits.to(torch.bfloat16))
    assert shares.dtype == torch.float32
    torch.testing.assert_close(shares, logits.exp() / logits.exp().sum())


@pytest.mark.parametrize("pooling", POOLINGS)
def test_autocast(pooling):
    network = make(pooling=pooling).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(network(images_of()).float(), network(images_of()).float())
        assert network(images_of()).isfinite().all()


SAVED = [
    {"attention": "FPA", "pooling": "LSE", "lse_gamma": 4.0, "norm": "group", "dropout": 0.25},
    {"attention": "SAM", "pooling": "PCAM", "norm": "instance", "stem": "cifar", "in_channels": 3, "size": 32},
    {"encoder": "test_vit", "pooling": "NATIVE", "task": "multiclass"},
    {"encoder": "test_convnext", "pooling": "AVG_MAX_LSE", "size": 0},
]


@pytest.mark.parametrize("options", SAVED)
def test_classifier_comes_back_from_the_file_alone(options, tmp_path):
    network = make(**options)
    images = images_of(3, options.get("size", 64) or 64, channels=options.get("in_channels", 1))
    network(images)  # moves the statistics of batch norms
    torch.save(network.state_dict(), tmp_path / "model.pt")
    loaded = load_classifier(tmp_path / "model.pt")
    assert loaded.settings == network.settings
    assert loaded.encoder.description == network.encoder.description
    assert loaded.class_names == NAMES
    assert same(loaded, network.state_dict())
    assert torch.equal(loaded.eval()(images), network.eval()(images))
    assert same(load_network(make(seed=1, **options), tmp_path / "model.pt"), network.state_dict())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"class_names": ["Edema", "Mass", "Nodule"]}, r"class_names \['Edema', 'Mass', 'Pleural Effusion'\]"),
        ({"pooling": "MAX"}, "pooling AVG; give --pooling AVG"),
        ({"attention": "CAM"}, "attention none; give --attention none"),
        ({"lse_gamma": 5.0}, r"lse_gamma 10\.0"),
        ({"task": "multiclass"}, "task multilabel"),
        ({"dropout": 0.5}, r"dropout 0\.0"),
        ({"size": 32}, "image_size 64"),
        ({"norm": "group"}, "holds .*, the config asks for .*group"),
    ],
)
def test_load_network_names_the_key_that_differs(options, words, tmp_path):
    torch.save(make().state_dict(), tmp_path / "model.pt")
    network = make(seed=1, **options)
    before = snapshot(network)
    with pytest.raises(CxrError, match=rf"model\.pt: .*{words}"):
        load_network(network, tmp_path / "model.pt")
    assert same(network, before)


def with_content(state, change):
    content = json.loads(bytes(state["_extra_state"].tolist()))
    change(content)
    return {**state, "_extra_state": torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8)}


def test_files_that_hold_no_classifier(tmp_path):
    path, state = tmp_path / "odd.pt", make().state_dict()
    faults = [
        (ContrastiveNetwork(TINY, feature_size=4).state_dict(), "holds an encoder but no classifier"),
        ({key: value for key, value in state.items() if key != "_extra_state"}, "no description of a network"),
        ({**state, "_extra_state": torch.zeros(3, dtype=torch.uint8)}, "description .* not readable"),
        (with_content(state, lambda content: content["settings"].pop("task")), "other settings than this version"),
        (with_content(state, lambda content: content["settings"].update(new=1)), "other settings than this version"),
        (with_content(state, lambda content: content.pop("settings")), "holds an encoder but no classifier"),
        ({key: value for key, value in state.items() if key != "head.bias"}, r"missing head\.bias"),
        ({**state, "head.weight": torch.zeros(2, 2)}, r"misshapen head\.weight"),
    ]
    for content, words in faults:
        torch.save(content, path)
        with pytest.raises(CxrError, match=rf"odd\.pt: .*{words}"):
            load_classifier(path)


def test_where_a_classifier_is_needed_a_path_without_one_says_how_to_come_by_it(tmp_path):
    (tmp_path / "model.pt").touch()
    assert need_classifier(tmp_path / "model.pt") == str(tmp_path / "model.pt")
    for asked, words in (
        ((), "--ckpt_path, or train one with .*bundles/supervised/configs"),
        (("classifier", "irnet"), "--classifier, or train one with .*bundles/irnet/configs"),
    ):
        with pytest.raises(CxrError, match=rf"no\.pt: no such file; name a classifier with {words}"):
            need_classifier(tmp_path / "no.pt", *asked)


def test_starts_from_a_pretrained_encoder(tmp_path):
    torch.manual_seed(7)
    pretrained = ContrastiveNetwork(TINY, feature_size=4)
    torch.save(pretrained.state_dict(), tmp_path / "model.pt")
    network = start_from(make(), tmp_path / "model.pt")
    assert same(network.encoder, pretrained.encoder.state_dict())


def test_takes_an_encoder_that_is_built():
    built = make_encoder(TINY, in_channels=3, norm="group")
    network = Classifier(NAMES, built, image_size=64, attention="FPA")
    assert network.encoder is built
    assert network.settings["norm"] == "group"
    assert isinstance(network.attention.middle[1], torch.nn.GroupNorm)
    assert network(images_of(channels=3)).shape == (2, 3)
    fixed = Classifier(NAMES, make_encoder(TINY).requires_grad_(False), image_size=64)
    assert [name for name, value in fixed.named_parameters() if value.requires_grad] == ["head.weight", "head.bias"]
    with pytest.raises(CxrError, match="the encoder is built for 32 pixels; give --image_size 32"):
        Classifier(NAMES, make_encoder("test_vit", image_size=32), image_size=64)


STAGES = {"resnet18": 5, "densenet121": 5, "efficientnet_b0": 8, "convnext_atto": 5, "vit_tiny_patch16_224": 13}


@pytest.mark.parametrize("name", STAGES)
def test_stages(name):
    with torch.device("meta"):
        network = make_encoder(name)
    stages = encoder_stages(network)
    assert len(stages) == STAGES[name]
    assert sorted(itertools.chain(*stages)) == sorted(name for name, _ in network.named_parameters())
    assert next(network.named_parameters())[0] in stages[0]


def test_stages_of_densenet_end_with_their_transitions():
    with torch.device("meta"):
        stages = encoder_stages(make_encoder("densenet121"))
    assert {".".join(name.split(".")[:2]) for name in stages[1]} == {"features.denseblock1", "features.transition1"}
    assert {".".join(name.split(".")[:2]) for name in stages[4]} == {"features.denseblock4", "features.norm5"}


def frozen_network(stages, **options):
    return make(encoder="test_resnet", **options).freeze(stages)


@pytest.mark.parametrize("stages", [0, 1, 3, 5])
def test_frozen_stages_do_not_move(stages):
    network = frozen_network(stages)
    names = {f"encoder.{name}" for stage in encoder_stages(network.encoder)[:stages] for name in stage}
    roots = {name.rpartition(".")[0] for name in names}
    before = snapshot(network)
    optimizer = torch.optim.SGD(parameter_groups(network, 0.1, 0.0), momentum=0.9)
    for _ in range(2):
        network.eval()
        network.train()  # as trainers do, each epoch
        torch.nn.init.normal_(network.head.weight)
        network(images_of(4)).square().sum().backward()
        optimizer.step()
    for key, value in network.state_dict().items():
        if key.startswith("encoder."):
            assert torch.equal(value, before[key]) == (key.rpartition(".")[0] in roots), key


def test_freezing_survives_train_and_is_undone():
    network = frozen_network(5)
    assert not any(module.training for module in network.encoder.modules())
    assert network.head.training
    torch.nn.Sequential(network).train()
    assert not any(module.training for module in network.encoder.modules())
    network.freeze(2)
    assert not network.encoder.bn1.training
    assert not network.encoder.layer1[0].bn1.training
    assert network.encoder.layer2[0].bn1.training
    assert network.freeze(0) is network
    assert all(module.training for module in network.modules())
    assert all(value.requires_grad for value in network.parameters())
    network.eval().freeze(3)
    assert not any(module.training for module in network.modules())


def test_freezing_faults():
    with pytest.raises(CxrError, match=r"freeze 6: encoder 'test_resnet' has 5 stages with its stem; give 0 to 5"):
        frozen_network(6)
    with pytest.raises(CxrError, match="freeze -1: "):
        frozen_network(-1)
    plain = torch.nn.Linear(1, 1)
    plain.description = EncoderDescription("plain")
    with pytest.raises(CxrError, match="timm does not tell the stages of encoder 'plain'; leave freeze at 0"):
        encoder_stages(plain)


def rates(network, groups):
    place = {id(value): group for group in groups for value in group["params"]}
    return {name: place[id(value)] for name, value in network.named_parameters() if id(value) in place}


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", TINY])
def test_groups_hold_each_trained_parameter_once(name):
    network = make(encoder=name, attention="FPA").freeze(2)
    groups = parameter_groups(network, 0.1, 0.01, layer_decay=0.7)
    held = [id(value) for group in groups for value in group["params"]]
    assert sorted(held) == sorted(id(value) for value in network.parameters() if value.requires_grad)
    torch.optim.AdamW(groups)


def test_norms_biases_and_positions_do_not_decay():
    network = make(encoder="test_vit", attention="SAM")
    placed = rates(network, parameter_groups(network, 0.1, 0.01))
    free = {name for name, group in placed.items() if group["weight_decay"] == 0}
    assert {"encoder.cls_token", "encoder.pos_embed", "encoder.norm.weight", "attention.gate", "head.bias"} <= free
    decayed = set(placed) - free
    assert {"encoder.patch_embed.proj.weight", "encoder.blocks.0.mlp.fc1.weight", "head.weight"} <= decayed
    assert all(placed[name]["weight_decay"] == 0.01 for name in decayed)
    assert not any(name.endswith("bias") or "norm" in name for name in decayed)


def test_rates_fall_from_layer_to_layer():
    network = make(encoder="test_vit", attention="CAM")
    placed = rates(network, parameter_groups(network, 0.1, 0.0, encoder_lr_factor=0.5, layer_decay=0.8))
    expected = {
        "head.weight": 0.1,
        "attention.fc.0.weight": 0.1,
        "encoder.norm.weight": 0.05 * 0.8,
        "encoder.blocks.5.attn.qkv.weight": 0.05 * 0.8,
        "encoder.blocks.4.norm1.weight": 0.05 * 0.8**2,
        "encoder.blocks.0.mlp.fc2.bias": 0.05 * 0.8**6,
        "encoder.pos_embed": 0.05 * 0.8**7,
    }
    for name, rate in expected.items():
        assert placed[name]["lr"] == pytest.approx(rate, rel=1e-12), name


def test_one_rate_by_default():
    network = make()
    groups = parameter_groups(network, 0.1, 0.01)
    assert [group["lr"] for group in groups] == [0.1, 0.1]
    by_factor = rates(network, parameter_groups(network, 0.1, 0.01, encoder_lr_factor=0.1))
    assert by_factor["head.weight"]["lr"] == 0.1
    assert by_factor["encoder.conv_stem.weight"]["lr"] == pytest.approx(0.01)


class Wrapped(torch.nn.Module):
    """As DistributedDataParallel holds a network."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def test_groups_freeze_before_the_network_is_wrapped():
    network = make(encoder="test_resnet")
    with pytest.raises(CxrError, match="freeze 2: freeze the stages before the network is spread over ranks"):
        parameter_groups(Wrapped(network), 0.1, 0.0, freeze=2)
    frozen = {name for stage in encoder_stages(network.encoder)[:2] for name in stage}
    groups = parameter_groups(network, 0.1, 0.0, freeze=2)
    assert {name for name, value in network.encoder.named_parameters() if not value.requires_grad} == frozen
    again = parameter_groups(Wrapped(network), 0.1, 0.0, freeze=2)
    assert [len(group["params"]) for group in again] == [len(group["params"]) for group in groups]
    assert parameter_groups(network, 0.1, 0.0)
    assert network.frozen_stages == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"encoder_lr_factor": 0}, "encoder_lr_factor 0: must be above 0"),
        ({"layer_decay": 0}, "layer_decay 0: must be above 0 and at most 1"),
        ({"layer_decay": 1.5}, r"layer_decay 1\.5: must be above 0 and at most 1"),
    ],
)
def test_rates_out_of_range(options, words):
    with pytest.raises(CxrError, match=words):
        parameter_groups(make(), 0.1, 0.0, **options)


def test_an_untrained_head_can_expect_each_class_as_often_as_it_is_there():
    images = torch.rand(2, 1, 32, 32)
    frequencies = np.array([[90, 10], [50, 50], [8, 0]])
    network = Classifier("A,B,C", "test_resnet", pooling="PCAM").expect(frequencies).eval()
    given = network.probabilities(network(images)).mean(0).tolist()
    assert given == pytest.approx([0.1, 0.5, 1 / 9], abs=0.03)
    classes = Classifier("A,B", "test_resnet", task="multiclass").expect(np.array([[25, 75], [75, 25]])).eval()
    assert classes.probabilities(classes(images)).mean(0).tolist() == pytest.approx([0.75, 0.25], abs=0.03)
