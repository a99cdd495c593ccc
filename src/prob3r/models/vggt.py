"""VGGT: any number of photographs in; cameras, depth and pointmaps out.

Architecture: Wang et al., "VGGT: Visual Geometry Grounded Transformer", CVPR 2025.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.geometry import patch_grid
from prob3r.models.alternating import Alternating, AlternatingModel, Layer
from prob3r.models.camera_head import CameraHead, cameras_of
from prob3r.models.configs import (
    check_counts,
    check_dense_head,
    check_multiple,
    check_rope_base,
    check_square,
    from_json,
    to_json,
)
from prob3r.models.dense_head import DenseHead, every_view
from prob3r.models.dinov2 import DINOv2, PatchEmbedding, imagenet_normalised
from prob3r.models.inputs import common_size
from prob3r.models.protocol import Cameras, Prediction, Stack
from prob3r.models.sites import Site, Tap

_MAY_BE_ZERO = ("registers", "enc_depth", "enc_registers")


@dataclass(frozen=True)
class VGGTConfig:
    """The shape of a VGGT; the defaults are those of VGGT-1B.

    Attributes:
        image_size: Height and width that the model was trained for, in pixels; others work, too.
        patch: Side of a square patch, in pixels.
        width, depth, heads: Width, depth and heads of the trunk; `depth` counts pairs of a frame
            block and a global block.
        registers: Register tokens of each view in the trunk.
        enc_depth, enc_heads, enc_registers: Blocks, heads and register tokens of the DINOv2
            encoder, which has the width of the trunk. With 0 blocks, there is no encoder, and a
            convolution embeds the patches.
        head_blocks: The four blocks of the trunk that the depth and point heads read.
        features: Channels of the fused maps in the depth and point heads.
        channels: Channels of the four maps before they are fused.
        cam_depth, cam_heads, cam_iterations: Blocks, heads and iterations of the camera head.
        rope_base: Base of the rotary position embedding.
    """

    image_size: tuple[int, int] = (518, 518)
    patch: int = 14
    width: int = 1024
    depth: int = 24
    heads: int = 16
    registers: int = 4
    enc_depth: int = 24
    enc_heads: int = 16
    enc_registers: int = 4
    head_blocks: tuple[int, int, int, int] = (4, 11, 17, 23)
    features: int = 256
    channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    cam_depth: int = 4
    cam_heads: int = 16
    cam_iterations: int = 4
    rope_base: float = 100.0

    def __post_init__(self) -> None:
        """Raise Prob3rError if no such model can be built."""
        check_counts(self, (*_MAY_BE_ZERO, "head_blocks"))
        check_multiple(
            "width", self.width, 4 * self.heads, "4 times heads, for the rotary embedding"
        )
        check_multiple("width", self.width, self.enc_heads if self.enc_depth else 1, "enc_heads")
        check_multiple("twice the width", 2 * self.width, self.cam_heads, "cam_heads")
        check_dense_head(self.features, self.channels, "heads'")
        blocks = self.head_blocks
        if list(blocks) != sorted(blocks) or not 0 <= blocks[0] <= blocks[-1] < self.depth:
            raise Prob3rError(
                f"head_blocks is {blocks}; it must name four blocks in order, from 0 to "
                f"{self.depth - 1}."
            )
        if self.enc_depth:
            check_square(self.image_size, self.patch, "with a DINOv2 encoder ")
        check_rope_base(self.rope_base)

    @property
    def blocks(self) -> int:
        """Number of blocks with weights of their own."""
        return self.enc_depth + 2 * self.depth + self.cam_depth

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as values that fit JSON."""
        return to_json(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "VGGTConfig":
        """Return a configuration from the result of `to_dict`; raise Prob3rError if invalid."""
        return from_json(cls, values, "VGGT")

    def build(self) -> "VGGT":
        """Return a model of this shape with random weights."""
        return VGGT(self)


class VGGT(AlternatingModel):
    """An encoder, a trunk of frame and global attention, and heads for cameras, depth and points.

    Its stacks are `enc` (DINOv2, if there is one), `dec` (the trunk; each block is a frame block
    and a global block), and `cam` (the camera head, with one token a view and the blocks of all
    iterations, one iteration after another).
    """

    architecture: ClassVar[str] = "vggt"
    config_type = VGGTConfig
    name = "VGGT"
    early = (
        "The depth and point heads read four blocks: at block b, every later one of the four is "
        "replaced by block b, and the camera head starts from the camera tokens of block b."
    )

    def __init__(self, config: VGGTConfig):
        super().__init__(config)
        c = config
        side = c.image_size[0] // c.patch
        self.aggregator = Alternating(
            DINOv2(c.width, c.enc_depth, c.enc_heads, c.patch, side, c.enc_registers)
            if c.enc_depth
            else PatchEmbedding(c.width, c.patch),
            c.width,
            c.depth,
            c.heads,
            c.patch,
            c.registers,
            c.rope_base,
        )
        self.camera_head = CameraHead(2 * c.width, c.cam_depth, c.cam_heads, c.cam_iterations)
        self.point_head = DenseHead(2 * c.width, 4, c.features, c.channels)
        self.depth_head = DenseHead(2 * c.width, 2, c.features, c.channels)

    def declare(self) -> list[Stack]:
        """Return the encoder, if there is one, the trunk and the camera head."""
        embedding = self.aggregator.patch_embed
        encoder = [embedding.stack()] if isinstance(embedding, DINOv2) else []
        return [*encoder, self.aggregator.stack(), self.camera_head.stack()]

    def reads(self, site: str, views: int = 2) -> list[str]:
        """Return the residual sites that a sublayer reads, its own stream's first.

        The camera head starts from both parts of the trunk's last block. A modulation reads the
        tokens that it started from, and the ends of all iterations so far.
        """
        place = Site.parse(site)
        if place.sublayer != "modulation" or place.block is None:
            return super().reads(site, views)
        ends = [str(end.of(place.view)) for end in self.camera_head.ends(place.block)]
        return [*reversed(ends), str(Site("cam", place.view, None, "embed"))]

    def head_sites(self, views: int = 2) -> list[str]:
        """Return the residual sites that the heads read."""
        dense = [
            Site("dec", 1, block, part)
            for block in self.config.head_blocks
            for part in ("mlp", "global_mlp")
        ]
        places = [*dense, *self.camera_head.ends()]
        return [str(place.of(view + 1)) for place in places for view in range(views)]

    @property
    def head_blocks(self) -> tuple[int, ...]:
        """The blocks that the depth and point heads read, and the camera head's, the last one."""
        return tuple(sorted({*self.config.head_blocks, self.config.depth - 1}))

    def layers(
        self, images: Sequence[Float[Tensor, "b 3 h w"]], tap: Tap, kept: Collection[int]
    ) -> dict[int, Layer]:
        """Return the streams of the trunk's blocks in `kept`; see `AlternatingModel.layers`."""
        found: dict[int, Layer] = self.aggregator(
            [imagenet_normalised(image) for image in images], tap, kept
        )
        return found

    def read(self, layers: Mapping[int, Layer], size: tuple[int, int], tap: Tap) -> Prediction:
        """Return cameras, depth, pointmaps and confidences; see `AlternatingModel.read`."""
        return self._read(layers, size, tap)[0]

    def refined(
        self, *images: Float[Tensor, "b 3 _h _w"], tap: Tap | None = None
    ) -> tuple[Prediction, list[Float[Tensor, "b v 9"]]]:
        """Return the prediction, and the encodings of all cameras after each iteration.

        The arguments and the errors are those of `forward`.
        """
        tap = Tap() if tap is None else tap
        size = common_size(images, self.config.patch, self.name)
        return self._read(self.layers(images, tap, self.head_blocks), size, tap)

    def _read(
        self, layers: Mapping[int, Layer], size: tuple[int, int], tap: Tap
    ) -> tuple[Prediction, list[Float[Tensor, "b v 9"]]]:
        last = layers[self.config.depth - 1]
        # The heads run in float32 for any dtype of the trunk.
        with torch.autocast(last.joint[0].device.type, enabled=False):
            encodings = self.read_cameras(last, tap)
            states = [layers[block] for block in self.config.head_blocks]
            depth, depth_confidence = self.read_depth(states, size)
            points, confidence = self.read_points(states, size)
        cameras = cameras_of(encodings[-1], size)
        return Prediction(points, confidence, cameras, depth, depth_confidence), encodings

    def cameras(self, layer: Layer, size: tuple[int, int], tap: Tap) -> Cameras:
        """Return the cameras after the last iteration; see `AlternatingModel.cameras`."""
        with torch.autocast(layer.joint[0].device.type, enabled=False):
            return cameras_of(self.read_cameras(layer, tap)[-1], size)

    def read_cameras(self, layer: Layer, tap: Tap) -> list[Float[Tensor, "b v 9"]]:
        """Return the encodings of all cameras after each iteration of the camera head."""

        def camera(view: int) -> Float[Tensor, "b 1 d"]:
            return layer.joined(view, slice(1)).float()

        found: list[Tensor] = self.camera_head(len(layer.frame), camera, tap)
        return found

    def read_depth(
        self, states: Sequence[Layer], size: tuple[int, int]
    ) -> tuple[tuple[Float[Tensor, "b h w"], ...], tuple[Float[Tensor, "b h w"], ...]]:
        """Return the depth of every view and its confidences, predicted from four blocks."""
        raw = self._dense(self.depth_head, states, size)
        return tuple(r[..., 0].exp() for r in raw), tuple(1 + r[..., 1].exp() for r in raw)

    def read_points(
        self, states: Sequence[Layer], size: tuple[int, int]
    ) -> tuple[tuple[Float[Tensor, "b h w 3"], ...], tuple[Float[Tensor, "b h w"], ...]]:
        """Return the pointmap of every view and its confidences, predicted from four blocks."""
        raw = self._dense(self.point_head, states, size)
        points = (r[..., :3].sign() * r[..., :3].abs().expm1() for r in raw)
        return tuple(points), tuple(1 + r[..., 3].exp() for r in raw)

    def _dense(
        self, head: Callable[..., Tensor], states: Sequence[Layer], size: tuple[int, int]
    ) -> list[Float[Tensor, "b h w c"]]:
        """Return the output of a dense head for every view."""
        grid = patch_grid(*size, self.config.patch)
        patches = slice(1 + self.config.registers, None)
        return every_view(lambda read: head(read, grid, size), states, patches)
