"""The networks of the published encoders as their authors' code has them, written without timm or the loader.

Each function returns a network in eval mode whose `state_dict()` has the published names below the prefix.
"""

import torch
import torch.nn.functional as F
import torchvision
from torch import nn


def scrambled(network, seed=0):
    """Random weights and statistics, large enough that every activation and every bias counts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var"):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            elif value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator)
                value.add_(0.1 * noise if value.ndim < 2 else 0.5 * value.std().nan_to_num(0.1) * noise)
    return network.eval()


class Convolutional(nn.Module):
    """A ResNet or DenseNet of torchvision without its classifier."""

    def __init__(self, name, slope=0.0, upsample=0):
        super().__init__()
        self.network = torchvision.models.get_model(name, num_classes=7)
        self.slope, self.upsample = slope, upsample
        if slope:
            self._leaky(self.network)

    def _leaky(self, module):
        for key, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, key, nn.LeakyReLU(self.slope))
            else:
                self._leaky(child)

    def weights(self):
        """Names and values below the published prefix."""
        return {key: value for key, value in self.network.state_dict().items() if key.split(".")[0] not in HEADS}

    def forward(self, x):
        if self.upsample:
            x = nn.Upsample(size=(self.upsample, self.upsample), mode="bilinear", align_corners=True)(x)
        if hasattr(self.network, "features"):
            maps = self.network.features(x)
            return (F.leaky_relu(maps, self.slope) if self.slope else F.relu(maps)).mean((2, 3))
        for stage in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            x = getattr(self.network, stage)(x)
        return x.mean((2, 3))


HEADS = ("fc", "classifier")


class ClipBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        y = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](y * torch.sigmoid(1.702 * y))


class ClipTower(nn.Module):
    """CLIP's image tower (Radford et al., 2021), tokens first as there."""

    def __init__(self, width=128, depth=2, patch=32, image_size=64, projection=24):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn((image_size // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.Sequential(*[ClipBlock(width, width // 64) for _ in range(depth)])
        self.proj = nn.Parameter(torch.randn(width, projection) / width**0.5)

    def weights(self):
        return self.state_dict()

    def forward(self, x, projected=False):
        x = self.conv1(x).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(x), 1, -1)
        x = self.ln_pre(torch.cat([first, x], 1) + self.positional_embedding)
        x = self.transformer.resblocks(x.transpose(0, 1)).transpose(0, 1)
        x = self.ln_post(x[:, 0])
        return x @ self.proj if projected else x


class RefersAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.heads = heads

    def forward(self, x):
        split = lambda y: y.view(*y.shape[:2], self.heads, -1).transpose(1, 2)  # noqa: E731
        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        scores = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
        return self.out((scores @ v).transpose(1, 2).flatten(2))


class RefersBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attention_norm, self.ffn_norm = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = RefersAttention(width, heads)
        self.ffn = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x):
        x = x + self.attn(self.attention_norm(x))
        return x + self.ffn["fc2"](F.gelu(self.ffn["fc1"](self.ffn_norm(x))))


class RefersTransformer(nn.Module):
    """The ViT-B/16 of REFERS (Zhou et al., 2022)."""

    def __init__(self, width=128, depth=2, image_size=32):
        super().__init__()
        embeddings, encoder = nn.Module(), nn.Module()
        embeddings.patch_embeddings = nn.Conv2d(3, width, 16, stride=16)
        embeddings.position_embeddings = nn.Parameter(torch.randn(1, (image_size // 16) ** 2 + 1, width))
        embeddings.cls_token = nn.Parameter(torch.randn(1, 1, width))
        encoder.layer = nn.ModuleList([RefersBlock(width, width // 64) for _ in range(depth)])
        encoder.encoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.transformer = nn.ModuleDict({"embeddings": embeddings, "encoder": encoder})

    def weights(self):
        return self.state_dict()

    def forward(self, x):
        embeddings, encoder = self.transformer["embeddings"], self.transformer["encoder"]
        x = embeddings.patch_embeddings(x).flatten(2).transpose(1, 2)
        x = torch.cat([embeddings.cls_token.expand(len(x), -1, -1), x], 1) + embeddings.position_embeddings
        for block in encoder.layer:
            x = block(x)
        return encoder.encoder_norm(x)[:, 0]
