import numpy as np
import pytest
import torch

from cxrmonai.errors import CxrError
from cxrmonai.networks.attention import make_attention


def maps_of(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(name, channels, norm="batch"):
    """With every parameter and statistic moved away from its start."""
    torch.manual_seed(3)
    module = make_attention(name, channels, norm).double().eval()
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, dtype=torch.float64) - 0.3)
    for key, value in module.state_dict().items():
        if key.endswith("running_var"):
            value.add_(1)
    return module


def test_none_changes_nothing():
    maps = maps_of((2, 3, 4, 5))
    assert make_attention("none", 3)(maps) is maps


def test_channel_attention_is_squeeze_and_excitation():
    module, maps = made("CAM", 6), maps_of((2, 6, 3, 4))
    first, second = module.fc[0], module.fc[2]
    assert first.weight.shape == (3, 6)  # ratio 2
    squeezed = maps.numpy().mean((2, 3))
    hidden = np.maximum(squeezed @ first.weight.detach().numpy().T + first.bias.detach().numpy(), 0)
    gate = 1 / (1 + np.exp(-(hidden @ second.weight.detach().numpy().T + second.bias.detach().numpy())))
    expected = maps.numpy() * gate[:, :, None, None]
    np.testing.assert_allclose(module(maps).detach().numpy(), expected, rtol=1e-12)


def one_by_one(convolution, maps):
    weight = convolution.weight.detach().numpy()[:, :, 0, 0]
    return np.einsum("oc,bchw->bohw", weight, maps) + convolution.bias.detach().numpy()[:, None, None]


def test_position_attention_against_loops():
    module, maps = made("SAM", 16), maps_of((2, 16, 2, 3))
    assert module.query.weight.shape[0] == 2  # an eighth of the channels
    query, key, value = (
        one_by_one(part, maps.numpy()).reshape(2, -1, 6) for part in (module.query, module.key, module.value)
    )
    expected = maps.numpy().reshape(2, 16, 6).copy()
    for b in range(2):
        for i in range(6):
            likeness = np.exp([query[b, :, i] @ key[b, :, j] for j in range(6)])
            for j in range(6):
                expected[b, :, i] += module.gate.item() * likeness[j] / likeness.sum() * value[b, :, j]
    np.testing.assert_allclose(module(maps).detach().numpy().reshape(2, 16, 6), expected, rtol=1e-12)


def test_position_attention_starts_as_the_identity():
    maps = maps_of((2, 4, 3, 3)).float()
    assert torch.equal(make_attention("SAM", 4)(maps), maps)


def convolved(maps, convolution):
    """A convolution by loops."""
    weight, stride, pad = convolution.weight.detach().numpy(), convolution.stride[0], convolution.padding[0]
    padded = np.pad(maps, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    edge = weight.shape[2]
    height, width = ((n + 2 * pad - edge) // stride + 1 for n in maps.shape[2:])
    out = np.zeros((len(maps), len(weight), height, width))
    for i in range(height):
        for j in range(width):
            window = padded[:, :, i * stride : i * stride + edge, j * stride : j * stride + edge]
            out[:, :, i, j] = np.einsum("bcuv,ocuv->bo", window, weight)
    bias = convolution.bias
    return out if bias is None else out + bias.detach().numpy()[:, None, None]


def normed(maps, norm):
    mean, var, weight, bias = (
        value.detach().numpy()[:, None, None] for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (maps - mean) / np.sqrt(var + norm.eps) * weight + bias


def enlarged(maps, size):
    """Bilinear, corners not aligned, by loops."""
    out = np.zeros((*maps.shape[:2], *size))
    for i in range(size[0]):
        for j in range(size[1]):
            value = 0
            for n, k, axis in ((size[0], i, 2), (size[1], j, 3)):
                place = min(max((k + 0.5) * maps.shape[axis] / n - 0.5, 0), maps.shape[axis] - 1)
                low = int(place)
                near = (low, min(low + 1, maps.shape[axis] - 1), place - low)
                value = near if axis == 2 else (value, near)
            (top, bottom, down), (left, right, along) = value
            upper = maps[:, :, top, left] * (1 - along) + maps[:, :, top, right] * along
            lower = maps[:, :, bottom, left] * (1 - along) + maps[:, :, bottom, right] * along
            out[:, :, i, j] = upper * (1 - down) + lower * down
    return out


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("size", [(7, 6), (2, 2), (1, 1)])
def test_pyramid_attention_against_loops(norm, size):
    module, maps = made("FPA", 4, norm), maps_of((2, 4, *size))
    x = maps.numpy()

    def level(part, values):
        values = convolved(values, part[0])
        if norm == "batch":
            return np.maximum(normed(values, part[1]), 0)
        return np.where(values > 0, values, 0.1 * values)

    first = level(module.down1, x)
    second = level(module.down2, first)
    third = level(module.down3, second)
    inner = level(module.across2, second) + enlarged(level(module.across3, third), second.shape[2:])
    pyramid = enlarged(level(module.across1, first) + enlarged(inner, first.shape[2:]), size)
    middle = convolved(x, module.middle[0])
    if norm == "batch":
        middle = normed(middle, module.middle[1])
    else:
        groups = module.middle[1]
        assert groups.num_groups == 4
        mean, var = middle.mean((2, 3), keepdims=True), middle.var((2, 3), keepdims=True)
        middle = (middle - mean) / np.sqrt(var + groups.eps)
        middle = middle * groups.weight.detach().numpy()[:, None, None] + groups.bias.detach().numpy()[:, None, None]
    overall = np.maximum(one_by_one(module.overall[1], x.mean((2, 3), keepdims=True)), 0)
    expected = pyramid * np.maximum(middle, 0) + overall
    np.testing.assert_allclose(module(maps).detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_pyramid_attention_trains_on_one_image_whose_map_shrinks_to_one_value():
    module = make_attention("FPA", 4).train()
    module(torch.rand(1, 4, 7, 7)).sum().backward()
    assert all(value.grad.isfinite().all() for value in module.parameters())


def test_unknown_word():
    with pytest.raises(CxrError, match="attention 'SE': known are none, CAM, SAM, FPA"):
        make_attention("SE", 4)
