"""Checkpoints of each published layout, made from networks that know nothing of the loader."""

import re
from dataclasses import replace

import pytest
import torch
from published_networks import ClipTower, Convolutional, RefersTransformer, scrambled
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.networks import describe_checkpoint, encoder, load_encoder, preprocessing, start_from, trained_size
from cxrmonai.networks.checkpoints import DescribedNetwork

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def below(prefix, weights):
    return {prefix + key: value.clone() for key, value in weights.items()}


def momentum_contrast(network, head, outer="module.", **entries):
    """As MoCo's trainer saves: query and key encoder, queue, optimiser."""
    state = below(f"{outer}encoder_q.", {**network.weights(), **head})
    state |= {f"{outer}encoder_k.{key}": torch.zeros_like(value) for key, value in list(network.weights().items())[:4]}
    state |= {f"{outer}queue": torch.rand(8, 16), f"{outer}queue_ptr": torch.zeros(1, dtype=torch.long)}
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.03, "params": [0]}]}
    return {"epoch": 20, **entries, "state_dict": state, "optimizer": optimizer}


MLP_HEAD = {"fc.0.weight": torch.rand(4, 4), "fc.0.bias": torch.rand(4), "fc.2.weight": torch.rand(2, 4)}


def moco(arch):
    network = scrambled(Convolutional(arch))
    head = {"classifier.weight": torch.rand(8, 1024)} if arch == "densenet121" else MLP_HEAD
    return network, momentum_contrast(network, head, arch=arch)


def s2mts2(outer):
    network = scrambled(Convolutional("densenet121", slope=0.1))
    head = {"classifier.weight": torch.rand(8, 1024), "classifier_group.0.weight": torch.rand(8, 8)}
    return network, momentum_contrast(network, head, outer)


def gloria(arch):
    network = scrambled(Convolutional(arch, upsample=299))
    state = {
        "gloria.text_encoder.model.embeddings.word_embeddings.weight": torch.rand(5, 3),
        **below("gloria.img_encoder.model.", network.weights()),
        "gloria.img_encoder.global_embedder.weight": torch.rand(3, 8),
        "gloria.img_encoder.global_embedder.bias": torch.rand(3),
        "gloria.img_encoder.local_embedder.weight": torch.rand(3, 4, 1, 1),
    }
    content = {"epoch": 1, "global_step": 2, "pytorch-lightning_version": "1.1.4", "state_dict": state}
    return network, {**content, "optimizer_states": [], "hyper_parameters": {"lr": 1e-4}}


def convirt(nested):
    network = scrambled(Convolutional("resnet50"))
    weights = {**network.weights(), "fc.weight": torch.rand(3, 4), "fc.bias": torch.rand(3)}
    if not nested:
        return network, weights
    parts = {"text_encoder": {"a": torch.rand(2)}, "image_proj": {"b": torch.rand(2)}, "text_proj": {}}
    return network, {"image_encoder": network.weights(), **parts, "config": {"dim": 512}}


def faint(network, *names):
    """Makes tokens so small that the epsilon of the first norm counts."""
    with torch.no_grad():
        for name in names:
            network.get_parameter(name).mul_(0.01)
    return network


def chexzero(half=False, **shape):
    network = faint(scrambled(ClipTower(**shape)), "class_embedding", "positional_embedding", "conv1.weight")
    if half:  # CLIP keeps its norms in float32
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear, nn.MultiheadAttention)):
                module.half()
        network.proj.data = network.proj.data.half()
    state = {
        "positional_embedding": torch.rand(77, 8),
        "text_projection": torch.rand(8, 24),
        "logit_scale": torch.tensor(4.6),
        **below("visual.", network.weights()),
        "transformer.resblocks.0.ln_1.weight": torch.rand(8),
        "token_embedding.weight": torch.rand(9, 8),
        "ln_final.weight": torch.rand(8),
    }
    return network.float(), state


def refers(raw=False, **shape):
    names = ("cls_token", "position_embeddings", "patch_embeddings.weight", "patch_embeddings.bias")
    network = faint(scrambled(RefersTransformer(**shape)), *(f"transformer.embeddings.{name}" for name in names))
    head = {"head.weight": torch.rand(14, 128), "head.bias": torch.rand(14)}
    if not raw:
        return network, {**network.weights(), **head}
    model = {**below("visual.vit.", {**network.weights(), **head}), "textual.embedding.weight": torch.rand(4, 2)}
    return network, {"model": model, "optimizer": {}, "scheduler": {"last_epoch": 3}, "iteration": 100}


# maker, feature size, edge of the images, what the report says of layout and input, what is dropped and how often
LAYOUTS = {
    "moco-resnet18": (
        lambda: moco("resnet18"),
        512,
        64,
        "MoCo-CXR or MedAug",
        {"image_size": 320, "fit": "crop", "fit_size": 0, "mean": (0.5020,) * 3, "std": (0.085585,) * 3},
        {"module.encoder_q.fc.": 3, "module.encoder_k.": 4, "module.queue": 2},
    ),
    "moco-resnet50": (
        lambda: moco("resnet50"),
        2048,
        64,
        "MoCo-CXR or MedAug",
        {"image_size": 320, "fit": "crop"},
        {"module.encoder_q.fc.": 3, "module.encoder_k.": 4, "module.queue": 2},
    ),
    "moco-densenet121": (
        lambda: moco("densenet121"),
        1024,
        64,
        "MoCo-CXR or MedAug",
        {"image_size": 320, "fit": "crop"},
        {"module.encoder_q.classifier": 1, "module.encoder_k.": 4, "module.queue": 2},
    ),
    "s2mts2": (
        lambda: s2mts2("module."),
        1024,
        64,
        "S2MTS2",
        {"image_size": 256, "fit_size": 0, **IMAGENET},
        {"module.encoder_q.classifier": 2, "module.encoder_k.": 4, "module.queue": 2},
    ),
    "s2mts2-bare": (
        lambda: s2mts2(""),
        1024,
        64,
        "S2MTS2",
        {"image_size": 256},
        {"encoder_q.classifier": 2, "encoder_k.": 4, "queue": 2},
    ),
    "gloria-resnet18": (
        lambda: gloria("resnet18"),
        512,
        56,
        "GLoRIA",
        {"image_size": 224, "fit": "letterbox", "fit_size": 256, "then": "crop", "mean": (0.5,) * 3, "std": (0.5,) * 3},
        {"gloria.img_encoder.global_embedder.": 2, "gloria.img_encoder.local_embedder.": 1, "gloria.text_encoder.": 1},
    ),
    "gloria-resnet50": (
        lambda: gloria("resnet50"),
        2048,
        56,
        "GLoRIA",
        {"image_size": 224},
        {"gloria.img_encoder.global_embedder.": 2, "gloria.img_encoder.local_embedder.": 1, "gloria.text_encoder.": 1},
    ),
    "convirt-flat": (
        lambda: convirt(nested=False),
        2048,
        64,
        "ConVIRT, or another ResNet50 in torchvision's own names",
        {"image_size": 224, "fit": "letterbox", "fit_size": 0, **IMAGENET},
        {"fc.": 2},
    ),
    "convirt": (lambda: convirt(nested=True), 2048, 64, "ConVIRT", {"image_size": 224, **IMAGENET}, {}),
    "chexzero": (
        chexzero,
        128,
        64,
        "CheXzero (CLIP)",
        {
            "image_size": 64,
            "fit": "letterbox",
            "fit_size": 320,
            "then": "resize",
            "interpolation": "bicubic",
            "mean": (101.48761 / 255,) * 3,
            "std": (83.43944 / 255,) * 3,
        },
        {
            "visual.proj": 1,
            "transformer.": 1,
            "token_embedding.": 1,
            "positional_embedding": 1,
            "ln_final.": 1,
            "text_projection": 1,
            "logit_scale": 1,
        },
    ),
    "chexzero-half": (lambda: chexzero(half=True), 128, 64, "CheXzero (CLIP)", {"image_size": 64}, None),
    "chexzero-320": (
        lambda: chexzero(patch=16, image_size=320, width=64, depth=1),
        64,
        320,
        "CheXzero (CLIP)",
        {"image_size": 320, "fit_size": 0},
        None,
    ),
    "refers": (
        refers,
        128,
        32,
        "REFERS",
        {"image_size": 32, "fit": "crop", "fit_size": 0, **IMAGENET},
        {"head.": 2},
    ),
    "refers-raw": (
        lambda: refers(raw=True),
        128,
        32,
        "REFERS (pretraining)",
        {"image_size": 32},
        {"visual.vit.head.": 2},
    ),
    "refers-320": (
        lambda: refers(image_size=320, width=64, depth=1),
        64,
        320,
        "REFERS",
        {"image_size": 320},
        {"head.": 2},
    ),
}
SMALL = ("moco-resnet18", "gloria-resnet18", "chexzero", "refers", "refers-raw")


class Wrapped(DescribedNetwork):
    def forward(self, x):
        return self.encoder(x)


@pytest.fixture(scope="module")
def made():
    """Each network and the content of its file, made once."""
    cache = {}

    def make(name):
        if name not in cache:
            cache[name] = LAYOUTS[name][0]()
        return cache[name]

    yield make
    cache.clear()


def written(content, folder, legacy=False):
    torch.save(content, folder / "published.pth.tar", _use_new_zipfile_serialization=not legacy)
    return folder / "published.pth.tar"


def random_images(name):
    size = LAYOUTS[name][2]
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def part_of(content):
    """The part of a file that holds the weights."""
    return next((content[key] for key in ("state_dict", "model", "image_encoder") if key in content), content)


@pytest.mark.parametrize("name", LAYOUTS)
def test_features_are_those_of_the_authors_network(made, name, tmp_path):
    (network, content), (_, feature_size, _, layout, expected, dropped) = made(name), LAYOUTS[name]
    path = written(content, tmp_path, legacy=name in ("moco-resnet18", "refers"))
    loaded = load_encoder(path).eval()
    images = random_images(name)
    with torch.no_grad():
        features, theirs = loaded(images), network(images)
        torch.testing.assert_close(features, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())
        assert loaded.forward_features(images).shape[0] == 2
    assert not torch.allclose(theirs[0], theirs[1])
    assert features.shape == (2, feature_size)
    assert loaded.num_features == feature_size
    assert {value.dtype for value in loaded.state_dict().values()} <= {torch.float32, torch.int64}
    assert {key: getattr(loaded.preprocessing, key) for key in expected} == expected
    assert loaded.preprocessing.channels == loaded.description.in_channels == 3

    report = describe_checkpoint(path)
    assert report.preprocessing == loaded.preprocessing
    assert report.layout == layout
    assert report.feature_size == feature_size
    assert report.description == loaded.description
    assert report.used == len(network.weights()) - (layout == "CheXzero (CLIP)")  # without the projection
    if dropped is not None:
        assert {one.prefix: one.count for one in report.dropped} == dropped


@pytest.mark.parametrize("name", ["s2mts2", "gloria-resnet18", "chexzero", "refers"])
def test_encoder_is_rebuilt_from_our_own_file(made, name, tmp_path):
    first = load_encoder(written(made(name)[1], tmp_path))
    torch.save(Wrapped(first, {"image_size": 99}).state_dict(), tmp_path / "model.pt")
    second = load_encoder(tmp_path / "model.pt")
    assert second.description == first.description
    assert second.preprocessing == first.preprocessing == preprocessing(tmp_path / "model.pt")
    images = random_images(name)
    with torch.no_grad():
        assert torch.equal(second.eval()(images), first.eval()(images))


@pytest.mark.parametrize("name", SMALL)
def test_preprocessing_comes_without_the_encoder(made, name, tmp_path, monkeypatch):
    path = written(made(name)[1], tmp_path)
    expected = load_encoder(path).preprocessing
    monkeypatch.setattr("cxrmonai.networks.checkpoints.encoder", None)
    assert preprocessing(path) == expected
    assert trained_size(path) == expected.image_size


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("s2mts2", {"negative_slope": 0.0}),
        ("gloria-resnet18", {"upsample": 0}),
        ("chexzero", {"name": "vit_base_patch32_clip_224"}),
        ("refers", {"name": "vit_base_patch16_clip_224"}),
    ],
)
def test_what_a_published_build_changes_is_seen_by_these_tests(made, name, change, tmp_path):
    loaded = load_encoder(written(made(name)[1], tmp_path)).eval()
    plain = encoder(**replace(loaded.description, **change).as_dict()).eval()
    images = random_images(name)
    with torch.no_grad():
        features = loaded(images)
        plain.load_state_dict(loaded.state_dict(), strict=name != "refers")
        assert (plain(images) - features).abs().max() > 1e-3 * features.abs().max()


def test_projection_of_clip(made, tmp_path):
    network, content = made("chexzero")
    path = written(content, tmp_path)
    loaded = load_encoder(path, projection=True).eval()
    images = random_images("chexzero")
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), network(images, projected=True), rtol=1e-5, atol=1e-4)
    assert loaded.num_features == loaded.description.projection == 24
    torch.save(Wrapped(loaded, {"image_size": 64}).state_dict(), tmp_path / "model.pt")
    with torch.no_grad():
        assert torch.equal(load_encoder(tmp_path / "model.pt").eval()(images), loaded(images))
    for other in (tmp_path / "model.pt", written(made("refers")[1], tmp_path)):
        with pytest.raises(CxrError, match="has no projection; leave --projection out"):
            load_encoder(other, projection=True)


@pytest.mark.parametrize("name", ["gloria-resnet18", "chexzero"])
def test_torchscript_of_a_published_encoder(made, name, tmp_path):
    loaded = load_encoder(written(made(name)[1], tmp_path)).eval()
    images = random_images(name)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(loaded)(images), loaded(images))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("fault", ["missing", "misshapen", "left over"])
def test_a_key_that_does_not_fit_is_named(made, name, fault, tmp_path):
    network, content = made(name)
    part = part_of(content)
    first = next(key for key in part if key.endswith(next(iter(network.weights()))))
    prefix = first[: -len(next(iter(network.weights())))]
    victims = [key for key in part if key.startswith(prefix) and key.endswith((".bias", ".running_mean"))]
    victim = next(key for key in victims if "head" not in key and "fc." not in key.replace("ffn.fc", ""))
    changed = dict(part)
    if fault == "missing":
        del changed[victim]
    elif fault == "misshapen":
        changed[victim] = torch.zeros(5)
    else:
        victim = f"{prefix}surplus.weight"
        changed[victim] = torch.zeros(2)
    key = next((key for key in ("state_dict", "model", "image_encoder") if key in content), None)
    path = written({**content, key: changed} if key else changed, tmp_path)
    shape = r" \(5,\).* for \(" if fault == "misshapen" else ""
    for read in (load_encoder, describe_checkpoint):
        with pytest.raises(
            CxrError, match=rf"published\.pth\.tar: read as .* do not fit .*: {fault} .*{victim}.*{shape}"
        ):
            read(path)


def test_all_that_is_wrong_is_listed_and_cut(made, tmp_path):
    _, content = made("refers")
    changed = {key: value for key, value in content.items() if ".layer.1." not in key or "query" not in key}
    changed |= {f"extra{number}": torch.zeros(1) for number in range(10)}
    changed["transformer.encoder.encoder_norm.bias"] = torch.zeros(127)
    with pytest.raises(CxrError) as caught:
        load_encoder(written(changed, tmp_path))
    text = str(caught.value)
    assert "missing transformer.encoder.layer.1.attn.query.weight, transformer.encoder.layer.1.attn.query.bias;" in text
    assert "extra7 and 2 more; misshapen transformer.encoder.encoder_norm.bias (127,) for (128,)" in text


@pytest.mark.parametrize("shapes", [[(127,), (129,), (128,)], [(), (), ()]])
def test_parts_of_one_weight_must_be_alike(made, shapes, tmp_path):
    """Query and key that are wrong by as much as they make up for each other."""
    changed = dict(made("refers")[1])
    for part, shape in zip(("query", "key", "value"), shapes, strict=True):
        changed[f"transformer.encoder.layer.0.attn.{part}.bias"] = torch.zeros(shape)
    words = re.escape(f"{', '.join(map(str, shapes))} for (384,)")
    with pytest.raises(CxrError, match=rf"misshapen .*query\.bias, .*key\.bias, .*value\.bias {words}"):
        load_encoder(written(changed, tmp_path))


SHAPES = {
    "no grid": ("visual.positional_embedding", torch.rand(7, 128), r"positional embedding \(7, 128\).*square"),
    "no tokens": ("visual.positional_embedding", torch.rand(1, 128), r"positional embedding \(1, 128\).*square"),
    "flat": ("visual.positional_embedding", torch.rand(5), r"positional_embedding \(5,\).*2 dimensions"),
    "gone": ("visual.positional_embedding", None, r"missing visual\.positional_embedding"),
    "patch": ("visual.conv1.weight", torch.rand(128, 3, 8, 8), "patches of 8 pixels; known are 14, 16, 32"),
    "width": ("visual.conv1.weight", torch.rand(100, 3, 32, 32), "tokens of 100 numbers.*multiple of 64"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_shapes_of_which_no_transformer_can_be_built(made, case, tmp_path):
    key, value, words = SHAPES[case]
    changed = {**made("chexzero")[1], key: value}
    changed = {key: value for key, value in changed.items() if value is not None}
    for read in (load_encoder, preprocessing):
        with pytest.raises(CxrError, match=rf"published\.pth\.tar: .*{words}"):
            read(written(changed, tmp_path))


def test_moco_and_s2mts2_are_told_apart_or_refused(made, tmp_path):
    _, content = made("moco-densenet121")
    assert load_encoder(written(content, tmp_path)).description.negative_slope == 0
    stripped = {"state_dict": content["state_dict"]}
    with pytest.raises(CxrError, match=r"'arch'.*fits neither; use the file as published"):
        load_encoder(written(stripped, tmp_path))
    _, content = made("moco-resnet18")
    with pytest.raises(CxrError, match="'arch' says resnet50, its weights say resnet18"):
        load_encoder(written({**content, "arch": "resnet50"}, tmp_path))


UNKNOWN = {
    "vgg": {"features.0.weight": torch.zeros(2), "features.0.bias": torch.zeros(2)},
    "lightning": {"state_dict": {"model.layer1.0.conv1.weight": torch.zeros(2)}, "epoch": 1},
    "flat resnet18": {"conv1.weight": torch.zeros(2), "layer1.0.conv1.weight": torch.zeros(2)},
    "not tensors": {"image_encoder": {"layer1.0.conv3.weight": [1.0]}},
    "nothing": {},
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_unknown_layouts_are_refused(case, tmp_path):
    content = UNKNOWN[case]
    begin = ".".join(next(iter(content)).split(".")[:2]) if content else "nothing"
    for read in (load_encoder, describe_checkpoint, preprocessing):
        with pytest.raises(CxrError, match=rf"published\.pth\.tar: no description .* published one; it holds {begin}"):
            read(written(content, tmp_path))


def test_long_lists_of_unknown_keys_are_cut(tmp_path):
    with pytest.raises(CxrError, match=r"it holds .{97}…$"):
        load_encoder(written({f"block{number}.weight": torch.zeros(1) for number in range(99)}, tmp_path))


def test_start_from_a_published_encoder(made, tmp_path):
    path = written(made("moco-resnet18")[1], tmp_path)
    network = start_from(Wrapped(encoder("resnet18", in_channels=3), {"image_size": 64}), path)
    images = random_images("moco-resnet18")
    with torch.no_grad():
        assert torch.equal(network.eval()(images), load_encoder(path).eval()(images))
    with pytest.raises(
        CxrError, match=r"holds resnet18 \(3 channels, default stem\), the config asks for .*1 channel,"
    ):
        start_from(Wrapped(encoder("resnet18"), {"image_size": 64}), path)


def test_report_is_readable(made, tmp_path):
    path = written(made("gloria-resnet18")[1], tmp_path)
    assert str(describe_checkpoint(path)).splitlines() == [
        f"checkpoint    {path}",
        "layout        GLoRIA",
        "encoder       resnet18 (3 channels, default stem, upsample 299)",
        "features      512 numbers an image",
        "input         longest side to 256 px, zero-padded to a square; centre crop of 224 px; "
        "3 channels of the same grey; mean 0.5, std 0.5 (grey 0–1)",
        "used          120 keys",
        "dropped       2 keys gloria.img_encoder.global_embedder.* (projection of the whole image)",
        "dropped       1 keys gloria.img_encoder.local_embedder.* (projection of regions)",
        "dropped       1 keys gloria.text_encoder.* (text encoder)",
        "not read      epoch, global_step, pytorch-lightning_version, optimizer_states, hyper_parameters",
    ]


def test_report_of_other_parts(made, tmp_path):
    report = describe_checkpoint(written(made("refers-raw")[1], tmp_path))
    assert report.others == ("optimizer", "scheduler", "iteration", "model.textual.*")
    assert describe_checkpoint(written(made("convirt")[1], tmp_path)).others == (
        "text_encoder",
        "image_proj",
        "text_proj",
        "config",
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "resnet18", "width": 64}, "'resnet18' takes no width and depth"),
        ({"name": "vit_tiny_patch16_224", "width": 100}, "width 100: must be a multiple of 64"),
        ({"name": "vit_tiny_patch16_224", "upsample": 299}, "'vit_tiny_patch16_224' is no ResNet"),
        ({"name": "convnext_atto", "negative_slope": 0.1}, "'convnext_atto' has no ReLU"),
        ({"name": "resnet18", "projection": 8}, "'resnet18' is no vision transformer"),
    ],
)
def test_options_that_a_backbone_cannot_have(options, words):
    with pytest.raises(CxrError, match=words):
        encoder(**options)
