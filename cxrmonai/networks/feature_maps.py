"""Feature maps of a convolutional encoder at several depths, with the encoder's own names of weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import AvgPool2dSame
from timm.models._features_fx import get_notrace_functions, get_notrace_modules
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase

from cxrmonai.errors import CxrError

QUARTER, SIXTEENTH, LAST = 4, 16, 32
STRIDES = (SIXTEENTH, LAST)
_LEAVES = (*get_notrace_modules(), _NormBase, nn.GroupNorm, nn.LayerNorm)  # they ask for their mode as they run
_EDGE = 2 * LAST


class FeatureEncoder(fx.GraphModule):
    """An encoder that gives its maps at a quarter of the input's size and its last ones, or all, as (B, C, h, w).

    It is the traced graph of a timm backbone and shares its modules, so that names and values of weights stay; parts
    behind the last map are kept in the state dict and not trained. It can be scripted, exported and copied.

    Args:
        encoder: of `encoders.encoder` or `load_encoder`, convolutional, for images of any size.
        output_stride: 32 as built; or 16: the last stage keeps the resolution and its convolutions are dilated instead
            (Chen et al., DeepLab, 2017), unless the encoder ends at a sixteenth anyway.
        every: whether it gives its maps at all sizes, the largest first, and not those two alone.

    Attributes:
        channels: of the maps.
        description, preprocessing, num_features: of the encoder.

    Raises:
        CxrError: the encoder has no such maps, or its last stage cannot be dilated.
    """

    def __init__(self, encoder: nn.Module, output_stride: int = SIXTEENTH, every: bool = False) -> None:
        name = encoder.description.name
        if output_stride not in STRIDES:
            raise CxrError(f"output_stride {output_stride}: known are {', '.join(map(str, STRIDES))}")
        modules = _stages(encoder, name)
        last = max(modules)
        if output_stride > last:
            raise CxrError(f"encoder '{name}' ends at a sixteenth of the image; give --output_stride {SIXTEENTH}")
        if output_stride < last:
            _dilate(encoder, modules[SIXTEENTH])
        paths = [modules[size] for size in sorted(modules)] if every else [modules[QUARTER], modules[last]]
        super().__init__(encoder, _graph(encoder, name, paths))
        self._adopt(encoder, [key for key, _ in encoder.named_parameters() if key not in dict(self.named_parameters())])
        self.channels = self._tried(name, output_stride)

    def _adopt(self, encoder: nn.Module, unreached: Sequence[str]) -> None:
        """Takes over what tracing leaves behind: the facts of the encoder, and modules that the maps do not pass."""
        self.unreached = sorted({key.rpartition(".")[0] for key in unreached})
        for path in self.unreached:
            self.add_submodule(path, encoder.get_submodule(path))
            self.get_submodule(path).requires_grad_(False)
        self.description, self.num_features = encoder.description, encoder.num_features
        self.preprocessing = getattr(encoder, "preprocessing", None)

    def __deepcopy__(self, memo: dict[int, Any]) -> FeatureEncoder:
        made = super().__deepcopy__(memo)
        for path in self.unreached:
            made.add_submodule(path, copy.deepcopy(self.get_submodule(path), memo))
        for name in ("unreached", "description", "num_features", "preprocessing", "channels"):
            setattr(made, name, getattr(self, name))
        return made

    def _tried(self, name: str, output_stride: int) -> tuple[int, ...]:
        maps = _try(self, self)
        sizes = [each.shape[-1] for each in maps]
        if _EDGE // QUARTER not in sizes or sizes[-1] * output_stride != _EDGE:
            raise CxrError(
                f"encoder '{name}' cannot be kept at output_stride {output_stride}; give --output_stride {LAST}, or "
                "another encoder"
            )
        return tuple(each.shape[1] for each in maps)


def _stages(encoder: nn.Module, name: str) -> dict[int, str]:
    """Paths of the modules that give the maps of each part of the input's size, to a sixteenth or a thirty-second."""
    info = getattr(encoder, "feature_info", None)
    rows = getattr(info, "info", info) or []
    found = {row["reduction"]: row["module"] for row in rows if row.get("module")}
    build = encoder.description
    if build.image_size or build.output_stride or not {QUARTER, SIXTEENTH} <= found.keys() or max(found) > LAST:
        depth = encoder.description.depth
        short = f" of {depth} stages (train it with --depth 0 to keep all)" if depth else ""
        raise CxrError(
            f"encoder '{name}'{short} gives no maps from a quarter to a sixteenth of the image; give a "
            "convolutional one, such as resnet18, densenet121 or efficientnet_b0"
        )
    return found


def _try(module: nn.Module, call: Any) -> Any:
    """What a call makes of one small black image, in evaluation mode so that no statistics move."""
    some = next(module.parameters())
    image = torch.zeros(1, module.description.in_channels, _EDGE, _EDGE, device=some.device, dtype=some.dtype)
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            return call(image)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise CxrError(f"encoder '{module.description.name}' cannot give maps: {error}") from error
    finally:
        module.train(was_training)


class _Tracer(fx.Tracer):
    """Traces an encoder and notes what each of its modules gives."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self.outputs: dict[str, fx.Proxy] = {}

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return isinstance(module, _LEAVES) or super().is_leaf_module(module, path)

    def call_module(self, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        output = super().call_module(module, forward, args, kwargs)
        self.outputs[self.path_of_module(module)] = output
        return output


def _graph(encoder: nn.Module, name: str, paths: Sequence[str]) -> fx.Graph:
    tracer = _Tracer()
    try:
        graph = tracer.trace(encoder)
        ends = tuple(tracer.outputs[path].node for path in paths)
    except (fx.proxy.TraceError, KeyError, TypeError, AttributeError) as error:
        raise CxrError(f"encoder '{name}' cannot be taken apart into maps; give another encoder") from error
    for node in reversed(graph.nodes):
        if node.op == "output":
            graph.erase_node(node)
    graph.output(ends)
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("output", "placeholder"):
            graph.erase_node(node)
    return graph


def _dilate(encoder: nn.Module, sixteenth: str) -> None:
    """Takes the stride out of what runs after the maps at a sixteenth, and dilates the convolutions that follow it."""
    order: list[tuple[str, nn.Module]] = []
    kinds = (nn.Conv2d, nn.AvgPool2d)
    hooks = [
        module.register_forward_hook(lambda *_, path=path, module=module: order.append((path, module)))
        for path, module in encoder.named_modules()
        if isinstance(module, kinds) or path == sixteenth
    ]
    _try(encoder, encoder.forward_features)
    for hook in hooks:
        hook.remove()
    places = [k for k, (path, _) in enumerate(order) if path == sixteenth]
    strided = False
    for path, module in order[places[-1] + 1 :] if places else []:
        if isinstance(module, nn.AvgPool2d) and module.stride in (2, (2, 2)):
            encoder.set_submodule(path, AvgPool2dSame(module.kernel_size, stride=1))
            strided = True
        elif isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.stride = (1, 1)
            strided = True
        elif isinstance(module, nn.Conv2d) and strided and max(module.kernel_size) > 1:
            module.dilation = tuple(2 * value for value in module.dilation)
            if not isinstance(module.padding, str):
                module.padding = tuple(2 * value for value in module.padding)
