"""π³: any number of photographs in, none of them a reference; cameras and pointmaps out.

Architecture: Wang et al., "π³: Permutation-Equivariant Visual Geometry Learning", 2025.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prob3r.geometry import patch_grid, transform
from prob3r.models.alternating import SUBLAYERS, AlternatingModel, Layer, alternate, rope_of
from prob3r.models.camera_encoding import in_first_frame
from prob3r.models.configs import (
    check_counts,
    check_multiple,
    check_rope_base,
    check_square,
    from_json,
    to_json,
)
from prob3r.models.dinov2 import DINOv2, imagenet_normalised
from prob3r.models.heads import LinearHead
from prob3r.models.layers import RoPE2D, ViewsBlock, sublayer
from prob3r.models.pi3_heads import PoseHead, ViewDecoder
from prob3r.models.protocol import Cameras, Prediction, Stack, TokenLayout
from prob3r.models.sites import Site, Tap

HEADS = ("point", "conf", "cam")
"""The stacks of the three decoders that read the trunk."""


@dataclass(frozen=True)
class Pi3Config:
    """The shape of a π³; the defaults are those of the published model.

    Attributes:
        image_size: Height and width that the model was trained for, in pixels; others work, too.
        patch: Side of a square patch, in pixels.
        width, depth, heads: Width, depth and heads of the trunk; `depth` counts pairs of a frame
            block and a global block.
        registers: Register tokens of each view in the trunk.
        enc_depth, enc_heads, enc_registers: Blocks, heads and register tokens of the DINOv2
            encoder, which has the width of the trunk.
        head_width, head_depth, head_heads: Width, blocks and heads of each of the three decoders
            that read the trunk.
        cam_width: Width of the output of the camera's decoder.
        rope_base: Base of the rotary position embedding.
    """

    image_size: tuple[int, int] = (518, 518)
    patch: int = 14
    width: int = 1024
    depth: int = 18
    heads: int = 16
    registers: int = 5
    enc_depth: int = 24
    enc_heads: int = 16
    enc_registers: int = 4
    head_width: int = 1024
    head_depth: int = 5
    head_heads: int = 16
    cam_width: int = 512
    rope_base: float = 100.0

    def __post_init__(self) -> None:
        """Raise Prob3rError if no such model can be built."""
        check_counts(self, ("registers", "enc_registers"))
        rotary = "4 times {}, for the rotary embedding"
        check_multiple("width", self.width, 4 * self.heads, rotary.format("heads"))
        check_multiple("width", self.width, self.enc_heads, "enc_heads")
        check_multiple(
            "head_width", self.head_width, 4 * self.head_heads, rotary.format("head_heads")
        )
        check_square(self.image_size, self.patch)
        check_rope_base(self.rope_base)

    @property
    def blocks(self) -> int:
        """Number of blocks with weights of their own."""
        return self.enc_depth + 2 * self.depth + len(HEADS) * self.head_depth

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as values that fit JSON."""
        return to_json(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Pi3Config":
        """Return a configuration from the result of `to_dict`; raise Prob3rError if invalid."""
        return from_json(cls, values, "π³")

    def build(self) -> "Pi3":
        """Return a model of this shape with random weights."""
        return Pi3(self)


class Pi3(AlternatingModel):
    """An encoder, a trunk of frame and global attention, and three heads with a decoder each.

    Its stacks are `enc` (DINOv2), `dec` (the trunk), and `point`, `conf` and `cam` (the decoders,
    which see one view each). Block i of the trunk is blocks 2i (frame) and 2i + 1 (global) of the
    official code.

    The model has no reference view; it predicts poses in a world frame of its own. Here, cameras
    and points are moved to camera 1's frame, so the pose of view 1 is the identity.
    """

    architecture: ClassVar[str] = "pi3"
    config_type = Pi3Config
    name = "π³"
    early = "The three decoders read both parts of block b in place of those of the last block."

    def __init__(self, config: Pi3Config):
        super().__init__(config)
        c = config
        self.encoder = DINOv2(
            c.width, c.enc_depth, c.enc_heads, c.patch, c.image_size[0] // c.patch, c.enc_registers
        )
        self.register_token = nn.Parameter(1e-6 * torch.randn(1, 1, c.registers, c.width))
        self.decoder = nn.ModuleList(
            ViewsBlock(c.width, c.heads, joint=i % 2 == 1, eps=1e-6, qk_norm=True)
            for i in range(2 * c.depth)
        )
        self.point_decoder, self.conf_decoder, self.camera_decoder = (
            ViewDecoder(2 * c.width, c.head_width, c.head_depth, c.head_heads, out)
            for out in (c.head_width, c.head_width, c.cam_width)
        )
        self.point_head = LinearHead(c.head_width, c.patch, 3)
        self.conf_head = LinearHead(c.head_width, c.patch, 1)
        self.camera_head = PoseHead(c.cam_width)

    def declare(self) -> list[Stack]:
        """Return the encoder, the trunk and the three decoders."""
        c = self.config
        layout = TokenLayout(tuple(f"register{i}" for i in range(c.registers)))
        trunk = Stack("dec", c.width, c.heads, (SUBLAYERS,) * c.depth, (layout,))
        decoders = self.point_decoder, self.conf_decoder, self.camera_decoder
        heads = [head.stack(name, layout) for head, name in zip(decoders, HEADS, strict=True)]
        return [self.encoder.stack(), trunk, *heads]

    def head_sites(self, views: int = 2) -> list[str]:
        """Return the residual sites that the heads read: the ends of the three decoders."""
        ends = [Site(name, 1, self.config.head_depth - 1, "mlp") for name in HEADS]
        return [str(end.of(view + 1)) for end in ends for view in range(views)]

    @property
    def head_blocks(self) -> tuple[int, ...]:
        """The block that all decoders read: the last one."""
        return (self.config.depth - 1,)

    def layers(
        self, images: Sequence[Float[Tensor, "b 3 h w"]], tap: Tap, kept: Collection[int]
    ) -> dict[int, Layer]:
        """Return the streams of the trunk's blocks in `kept`; see `AlternatingModel.layers`."""
        count, head_width = len(images), self.config.width // self.config.heads

        def embed(chosen: list[int]) -> Sequence[Tensor]:
            normalised = [imagenet_normalised(images[i]) for i in chosen]
            patches = self.encoder(normalised, tap, [f"enc{i + 1}" for i in chosen])
            registers = self.register_token[:, 0]
            return [torch.cat((registers.expand(len(p), -1, -1), p), 1) for p in patches]

        streams = sublayer(tap, [f"dec{view + 1}.embed" for view in range(count)], embed)
        size = images[0].shape[-2], images[0].shape[-1]
        own, every = (self._rope(size, head_width, n, images[0]) for n in (1, count))
        blocks = list(self.decoder)
        return alternate(blocks[::2], blocks[1::2], streams, own, every, tap, kept)

    def read(self, layers: Mapping[int, Layer], size: tuple[int, int], tap: Tap) -> Prediction:
        """Return cameras, pointmaps and confidences; see `AlternatingModel.read`.

        A confidence is the sigmoid of the raw output, between 0 and 1, as the authors use it.
        """
        (layer,) = layers.values()
        local = self.read_local_points(layer, size, tap)
        logits = self.read_confidence(layer, size, tap)
        cameras = self.cameras(layer, size, tap)
        poses = cameras.cam_to_world.unbind(1)
        with torch.autocast(poses[0].device.type, enabled=False):
            points = [transform(p, pose) for p, pose in zip(local, poses, strict=True)]
        confidence = [logit.sigmoid() for logit in logits]
        return Prediction(tuple(points), tuple(confidence), cameras, local_points=tuple(local))

    def cameras(self, layer: Layer, size: tuple[int, int], tap: Tap) -> Cameras:
        """Return the poses in camera 1's frame; see `AlternatingModel.cameras`."""
        poses = self.read_poses(layer, size, tap)
        with torch.autocast(poses.device.type, enabled=False):
            return Cameras(in_first_frame(poses))

    def read_local_points(
        self, layer: Layer, size: tuple[int, int], tap: Tap
    ) -> list[Float[Tensor, "b h w 3"]]:
        """Return the pointmap of every view in its own camera's frame."""
        patches = self._decoded(self.point_decoder, "point", layer, size, tap)
        raw = self._pixels(self.point_head, patches, size, len(layer.frame))
        depth = [r[..., 2:].exp() for r in raw]
        return [torch.cat((r[..., :2] * z, z), -1) for r, z in zip(raw, depth, strict=True)]

    def read_confidence(
        self, layer: Layer, size: tuple[int, int], tap: Tap
    ) -> list[Float[Tensor, "b h w"]]:
        """Return the logits of the confidences of every view."""
        patches = self._decoded(self.conf_decoder, "conf", layer, size, tap)
        raw = self._pixels(self.conf_head, patches, size, len(layer.frame))
        return [r[..., 0] for r in raw]

    def read_poses(self, layer: Layer, size: tuple[int, int], tap: Tap) -> Float[Tensor, "b v 4 4"]:
        """Return the poses of all cameras in the model's own world frame, camera to world."""
        patches = self._decoded(self.camera_decoder, "cam", layer, size, tap)
        with torch.autocast(patches.device.type, enabled=False):
            poses = self.camera_head(patches.float())
        return torch.stack(poses.chunk(len(layer.frame)), 1)

    def _decoded(
        self, decoder: ViewDecoder, name: str, layer: Layer, size: tuple[int, int], tap: Tap
    ) -> Float[Tensor, "_ n d"]:
        """Return the output of a decoder for the patches of all views, as one batch."""
        width = self.config.head_width // self.config.head_heads
        rope = self._rope(size, width, 1, layer.joint[0])
        streams = decoder(layer, rope, tap, name)
        patches = torch.cat([stream[:, self.config.registers :] for stream in streams])
        found: Tensor = decoder.linear_out(patches)
        return found

    def _pixels(
        self, head: LinearHead, patches: Tensor, size: tuple[int, int], views: int
    ) -> Sequence[Float[Tensor, "b h w c"]]:
        """Return the output of a head for the pixels of every view, in float32."""
        with torch.autocast(patches.device.type, enabled=False):
            raw: Tensor = head([patches.float()], patch_grid(*size, self.config.patch))
        return raw.chunk(views)

    def _rope(self, size: tuple[int, int], head_width: int, views: int, like: Tensor) -> RoPE2D:
        """Return the rotary embedding of the tokens of a number of views."""
        c = self.config
        grid = patch_grid(*size, c.patch)
        return rope_of(grid, c.registers, head_width, c.rope_base, views, like.device)
