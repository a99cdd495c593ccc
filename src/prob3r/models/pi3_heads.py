"""π³'s heads: decoders that see one view each, and the head that predicts the camera.

Architecture: Wang et al., "π³: Permutation-Equivariant Visual Geometry Learning", 2025. Parameter
names are those of the official checkpoints.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.models.alternating import Layer
from prob3r.models.layers import InputProjection, RoPE2D, ViewsBlock, sublayer
from prob3r.models.protocol import Stack, TokenLayout
from prob3r.models.sites import Tap


class ViewDecoder(nn.Module):
    """Blocks over the tokens of each view alone, between two linear layers.

    Args:
        read: Width of the input.
        width: Width of its stream.
        depth: Number of blocks.
        heads: Heads of every attention.
        out: Width of the output.
    """

    def __init__(self, read: int, width: int, depth: int, heads: int, out: int):
        super().__init__()
        self.heads = heads
        self.projects = InputProjection(read, width)
        self.blocks = nn.ModuleList(
            ViewsBlock(width, heads, eps=1e-6, scale=None) for _ in range(depth)
        )
        self.linear_out = nn.Linear(width, out)

    def stack(self, name: str, layout: TokenLayout) -> Stack:
        """Return the stack of its blocks."""
        blocks = (("self_attn", "mlp"),) * len(self.blocks)
        return Stack(name, self.projects.out_features, self.heads, blocks, (layout,))

    def forward(
        self, layer: Layer, rope: RoPE2D, tap: Tap, name: str
    ) -> list[Float[Tensor, "b n d"]]:
        """Return the stream of every view after the last block.

        Args:
            layer: The block of the trunk that is read.
            rope: Rotary embedding of the tokens of one view.
            tap: Called at every site.
            name: Name of the stack.
        """
        names = [f"{name}{view + 1}" for view in range(len(layer.frame))]

        def embed(chosen: list[int]) -> Sequence[Tensor]:
            read = torch.cat([layer.joined(i, slice(None)) for i in chosen])
            return self.projects(read).chunk(len(chosen))

        streams = sublayer(tap, [f"{name}.embed" for name in names], embed)
        for i, block in enumerate(self.blocks):
            streams = block(streams, rope, tap, [f"{name}.{i}" for name in names])
        return streams


class PoseHead(nn.Module):
    """Predicts the pose of a camera from the patches of its view."""

    def __init__(self, width: int):
        super().__init__()
        self.res_conv = nn.ModuleList(_Residual(width) for _ in range(2))
        self.more_mlps = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.fc_t = nn.Linear(width, 3)
        self.fc_rot = nn.Linear(width, 9)
        # Fresh cameras are near the identity.
        nn.init.normal_(self.fc_rot.weight, std=0.01)
        with torch.no_grad():
            self.fc_rot.bias.copy_(torch.eye(3).flatten())

    def forward(self, patches: Float[Tensor, "b n d"]) -> Float[Tensor, "b 4 4"]:
        """Return poses, camera to world."""
        import roma  # takes long, and `import prob3r` should not

        for block in self.res_conv:
            patches = block(patches)
        view = self.more_mlps(patches.mean(1))
        rows = F.normalize(self.fc_rot(view).unflatten(-1, (3, 3)), dim=-1)
        upper = torch.cat((roma.special_procrustes(rows), self.fc_t(view)[..., None]), -1)
        bottom = upper.new_tensor((0.0, 0, 0, 1)).expand(len(upper), 1, 4)
        return torch.cat((upper, bottom), 1)


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.res_conv1, self.res_conv2, self.res_conv3 = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        added = x
        for layer in (self.res_conv1, self.res_conv2, self.res_conv3):
            added = torch.relu(layer(added))
        return x + added
