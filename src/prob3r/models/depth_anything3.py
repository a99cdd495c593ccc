"""Depth Anything 3: any number of photographs in, with cameras or without; depth and cameras out.

Architecture: Lin et al., "Depth Anything 3: Recovering the Visual Space from Any Views", 2025.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.geometry import patch_grid, transform, unproject
from prob3r.models.alternating import SUBLAYERS, AlternatingModel, Layer, alternate, rope_of
from prob3r.models.camera_encoding import encode, in_first_frame, intrinsics_of, motion_of
from prob3r.models.configs import (
    check_counts,
    check_dense_head,
    check_multiple,
    check_rope_base,
    check_square,
    from_json,
    to_json,
)
from prob3r.models.dense_head import every_view
from prob3r.models.dinov2 import DINOv2, imagenet_normalised
from prob3r.models.inputs import common_size
from prob3r.models.layers import ViewsBlock, layer_norm, sublayer
from prob3r.models.protocol import Cameras, Prediction, Stack, TokenLayout
from prob3r.models.ray_head import CameraDecoder, CameraEncoder, RayHead
from prob3r.models.sites import Site, Tap

CHOOSING = 3
"""From so many views on, the model chooses its reference view itself."""


@dataclass(frozen=True)
class DepthAnything3Config:
    """The shape of a Depth Anything 3; the defaults are those of the small one.

    Attributes:
        image_size: Height and width that the model was trained for, in pixels; others work, too.
        patch: Side of a square patch, in pixels.
        width, heads: Width and heads of all blocks.
        enc_depth: Blocks in which every view is processed alone, an even number.
        depth: Pairs of a frame block and a global block after them.
        head_blocks: The four of these pairs that the head reads; the last one is the last pair.
        features: Channels of the fused maps in the head.
        channels: Channels of the four maps before they are fused.
        cam_depth, cam_heads: Blocks and heads of the encoder of given cameras. With 0 blocks, there
            is no such encoder.
        rope_base: Base of the rotary position embedding.
    """

    image_size: tuple[int, int] = (518, 518)
    patch: int = 14
    width: int = 384
    heads: int = 6
    enc_depth: int = 4
    depth: int = 4
    head_blocks: tuple[int, int, int, int] = (0, 1, 2, 3)
    features: int = 64
    channels: tuple[int, int, int, int] = (48, 96, 192, 384)
    cam_depth: int = 4
    cam_heads: int = 16
    rope_base: float = 100.0

    def __post_init__(self) -> None:
        """Raise Prob3rError if no such model can be built."""
        check_counts(self, ("cam_depth", "head_blocks"))
        check_multiple(
            "width", self.width, 4 * self.heads, "4 times heads, for the rotary embedding"
        )
        check_multiple("width", self.width, self.cam_heads if self.cam_depth else 1, "cam_heads")
        check_multiple("enc_depth", self.enc_depth, 2, "pairs of blocks follow")
        check_dense_head(self.features, self.channels, "head's")
        blocks = self.head_blocks
        if list(blocks) != sorted(blocks) or blocks[-1] != self.depth - 1:
            raise Prob3rError(
                f"head_blocks is {blocks}; it must name four blocks in order, the last of them "
                f"{self.depth - 1}."
            )
        check_square(self.image_size, self.patch)
        check_rope_base(self.rope_base)

    @property
    def blocks(self) -> int:
        """Number of blocks with weights of their own."""
        return self.enc_depth + 2 * self.depth + self.cam_depth

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as values that fit JSON."""
        return to_json(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DepthAnything3Config":
        """Return a configuration from the result of `to_dict`; raise Prob3rError if invalid."""
        return from_json(cls, values, "Depth Anything 3")

    def build(self) -> "DepthAnything3":
        """Return a model of this shape with random weights."""
        return DepthAnything3(self)


class DepthAnything3(AlternatingModel):
    """A DINOv2 whose later blocks alternate between frame and global attention, and its heads.

    Its stacks are `enc` (the blocks in which every view is processed alone) and `dec` (the other
    blocks, in pairs: with n blocks in `enc`, block i is blocks n + 2i and n + 2i + 1 of the
    official code). At `dec.embed`, a camera token replaces the class token of `enc`. It
    distinguishes the reference view from the others, or it is computed from given cameras.

    With three or more views and no given cameras, the model chooses the reference itself; see
    `choose`. The official code puts that view first. Here, views keep their order. This does not
    change the result, because nothing else depends on the order. For any reference, cameras and
    points are moved to camera 1's frame, so the pose of view 1 is the identity. Points are computed
    from depth and cameras, and have the confidence of the depth.
    """

    architecture: ClassVar[str] = "depth-anything-3"
    config_type = DepthAnything3Config
    name = "Depth Anything 3"
    early = (
        "The depth head reads four blocks: at block b, every later one of the four is replaced by "
        "block b, and the cameras are read off the camera tokens of block b."
    )

    def __init__(self, config: DepthAnything3Config):
        super().__init__(config)
        c = config
        self.backbone = nn.Module()
        self.backbone.pretrained = Backbone(c)
        self.head = RayHead(2 * c.width, 2, c.features, c.channels)
        self.cam_dec = CameraDecoder(2 * c.width)
        if c.cam_depth:
            self.cam_enc = CameraEncoder(c.width, c.cam_depth, c.cam_heads)

    def declare(self) -> list[Stack]:
        """Return the blocks in which views are alone, and those in which they meet."""
        c = self.config
        layout = TokenLayout(("camera",))
        return [
            self._backbone.stack(),
            Stack("dec", c.width, c.heads, (SUBLAYERS,) * c.depth, (layout,)),
        ]

    def reads(self, site: str, views: int = 2) -> list[str]:
        """Return the residual sites that a sublayer reads, its own stream's first.

        The trunk's input also reads the class tokens of all views, by which the reference is
        chosen.
        """
        found = super().reads(site, views)
        place = Site.parse(site)
        if place.stack != "dec" or place.block is not None or views < CHOOSING:
            return found
        end = Site("enc", 1, self.config.enc_depth - 1, "self_attn")
        return found + [str(self.before(end.of(view + 1))) for view in range(views)]

    def head_sites(self, views: int = 2) -> list[str]:
        """Return the residual sites that the heads read."""
        places = [
            Site("dec", 1, block, part)
            for block in self.config.head_blocks
            for part in ("mlp", "global_mlp")
        ]
        return [str(place.of(view + 1)) for place in places for view in range(views)]

    @property
    def head_blocks(self) -> tuple[int, ...]:
        """The blocks that the head reads."""
        return tuple(sorted({*self.config.head_blocks}))

    def forward(
        self,
        *images: Float[Tensor, "b 3 _h _w"],
        tap: Tap | None = None,
        cameras: Cameras | None = None,
    ) -> Prediction:
        """Return depth, cameras, pointmaps and confidences of a batch of scenes.

        Args:
            images: One batch a view, all of one size, colours in [-1, 1].
            tap: Called at every site, to read or to edit.
            cameras: The cameras, if they are known. The model was trained with poses in camera 1's
                frame with a median distance to camera 1 of 1. The model predicts cameras in any
                case.

        Raises:
            Prob3rError: There is no view, views differ in size, an image's sides are not multiples
                of the patch size, or the model does not take these cameras.
        """
        tap = Tap() if tap is None else tap
        size = common_size(images, self.config.patch, self.name)
        tokens = None if cameras is None else self.camera_tokens(cameras, size, len(images))
        return self.read(self._layers(images, tap, self.head_blocks, tokens), size, tap)

    def layers(
        self, images: Sequence[Float[Tensor, "b 3 h w"]], tap: Tap, kept: Collection[int]
    ) -> dict[int, Layer]:
        """Return the streams of the trunk's blocks in `kept`; see `AlternatingModel.layers`."""
        return self._layers(images, tap, kept, None)

    def read(self, layers: Mapping[int, Layer], size: tuple[int, int], tap: Tap) -> Prediction:
        """Return depth, cameras, pointmaps and confidences; see `AlternatingModel.read`."""
        last = layers[self.config.depth - 1]
        with torch.autocast(last.joint[0].device.type, enabled=False):
            cameras = self.cameras(last, size, tap)
            states = [layers[block] for block in self.config.head_blocks]
            depth, confidence = self.read_depth(states, size)
            assert cameras.intrinsics is not None
            parts = zip(
                depth, cameras.cam_to_world.unbind(1), cameras.intrinsics.unbind(1), strict=True
            )
            points = tuple(transform(unproject(z, k), pose) for z, pose, k in parts)
        return Prediction(points, confidence, cameras, depth, confidence)

    def cameras(self, layer: Layer, size: tuple[int, int], tap: Tap) -> Cameras:
        """Return the cameras in camera 1's frame; see `AlternatingModel.cameras`."""
        with torch.autocast(layer.joint[0].device.type, enabled=False):
            encodings = self.read_cameras(layer)
            return Cameras(
                in_first_frame(motion_of(encodings)), intrinsics_of(encodings, size, 1e-6)
            )

    def read_cameras(self, layer: Layer) -> Float[Tensor, "b v 9"]:
        """Return the encodings of all cameras, camera to world, in the model's own world."""
        views = range(len(layer.frame))
        tokens = torch.cat([layer.joined(view, slice(1)) for view in views], 1)
        found: Tensor = self.cam_dec(tokens.float())
        return found

    def read_depth(
        self, states: Sequence[Layer], size: tuple[int, int]
    ) -> tuple[tuple[Float[Tensor, "b h w"], ...], tuple[Float[Tensor, "b h w"], ...]]:
        """Return the depth of every view and its confidences, read off four blocks."""
        grid = patch_grid(*size, self.config.patch)
        raw = every_view(
            lambda read: self.head(read, grid, size), self.normed(states), slice(1, None)
        )
        return tuple(r[..., 0].exp() for r in raw), tuple(1 + r[..., 1].exp() for r in raw)

    def read_rays(
        self, states: Sequence[Layer], size: tuple[int, int]
    ) -> tuple[tuple[Float[Tensor, "b r c 6"], ...], tuple[Float[Tensor, "b r c"], ...]]:
        """Return the rays of every view and their confidences, 8 of them to a patch side.

        Depth and cameras do not need them, so a run does not compute them.

        Args:
            states: Four blocks, as `rays` reads them.
            size: Height and width of the images, in pixels.
        """
        grid = patch_grid(*size, self.config.patch)
        raw = every_view(
            lambda read: self.head.rays(read, grid, size), self.normed(states), slice(1, None)
        )
        return tuple(r[..., :6] for r in raw), tuple(1 + r[..., 6].exp() for r in raw)

    def rays(
        self, *images: Float[Tensor, "b 3 _h _w"]
    ) -> tuple[tuple[Float[Tensor, "b r c 6"], ...], tuple[Float[Tensor, "b r c"], ...]]:
        """Return the rays of every view, in the model's own world, and their confidences."""
        size = common_size(images, self.config.patch, self.name)
        layers = self.layers(images, Tap(), self.head_blocks)
        return self.read_rays([layers[block] for block in self.config.head_blocks], size)

    def normed(self, states: Sequence[Layer]) -> list[Layer]:
        """Return blocks as the head reads them: the last norm applies to their global part only."""
        norm = self._backbone.norm
        return [Layer(s.frame, [norm(stream.float()) for stream in s.joint]) for s in states]

    def camera_tokens(
        self, cameras: Cameras, size: tuple[int, int], views: int
    ) -> Float[Tensor, "b v d"]:
        """Return the camera tokens that stand for given cameras.

        Raises:
            Prob3rError: The model has no encoder of cameras, or the cameras are not those of all
                views with their intrinsics.
        """
        if not self.config.cam_depth:
            raise Prob3rError("This Depth Anything 3 has no encoder of cameras; give it none.")
        if cameras.intrinsics is None or cameras.cam_to_world.shape[1] != views:
            raise Prob3rError(
                f"There are {views} views; cameras must hold the pose and the intrinsics of each."
            )
        with torch.autocast(cameras.cam_to_world.device.type, enabled=False):
            encodings = encode(cameras.cam_to_world, cameras.intrinsics, size)
            tokens: Tensor = self.cam_enc(encodings)
        return tokens

    def reference(self, *images: Float[Tensor, "b 3 _h _w"]) -> Int[Tensor, " b"]:
        """Return which view of each scene the model takes as its reference, from 1."""
        common_size(images, self.config.patch, self.name)
        names = [f"enc{view + 1}" for view in range(len(images))]
        return self._backbone.encode(_normalised(images), Tap(), names)[1] + 1

    @property
    def _backbone(self) -> "Backbone":
        backbone = self.backbone.pretrained
        assert isinstance(backbone, Backbone)
        return backbone

    def _layers(
        self,
        images: Sequence[Tensor],
        tap: Tap,
        kept: Collection[int],
        tokens: Tensor | None,
    ) -> dict[int, Layer]:
        """Return the streams of the trunk's blocks in `kept`, with camera tokens or without."""
        c, count, backbone = self.config, len(images), self._backbone

        def embed(chosen: list[int]) -> Sequence[Tensor]:
            # Where the reference is chosen, all views have a part in the choice.
            choosing = tokens is None and count >= CHOOSING
            read = list(range(count)) if choosing else chosen
            streams, reference = backbone.encode(
                _normalised([images[i] for i in read]), tap, [f"enc{i + 1}" for i in read]
            )
            found = dict(zip(read, streams, strict=True))
            first = {
                i: backbone.first_token(i, reference) if tokens is None else tokens[:, i, None]
                for i in chosen
            }
            return [torch.cat((first[i], found[i][:, 1:]), 1) for i in chosen]

        streams = sublayer(tap, [f"dec{view + 1}.embed" for view in range(count)], embed)
        size = images[0].shape[-2], images[0].shape[-1]
        grid, width, device = patch_grid(*size, c.patch), c.width // c.heads, images[0].device
        own = rope_of(grid, 1, width, c.rope_base, 1, device)
        every = rope_of(grid, 1, width, c.rope_base, count, device, apart=False)
        later = list(backbone.blocks)[c.enc_depth :]
        return alternate(later[::2], later[1::2], streams, own, every, tap, kept)


class Backbone(DINOv2):
    """DINOv2 with a second half in which views meet, camera tokens, and the choice of a reference.

    It has no register tokens, and its positions are resized by a scale factor.
    """

    def __init__(self, config: DepthAnything3Config):
        c = config
        side = c.image_size[0] // c.patch
        super().__init__(c.width, c.enc_depth, c.heads, c.patch, side, registers=0, offset=0.1)
        self.camera_token = nn.Parameter(0.02 * torch.randn(1, 2, c.width))
        self.blocks.extend(
            ViewsBlock(c.width, c.heads, joint=i % 2 == 1, eps=1e-6, qk_norm=True)
            for i in range(2 * c.depth)
        )
        self.norm = layer_norm(c.width, 1e-5)

    def encode(
        self, images: Sequence[Float[Tensor, "b 3 h w"]], tap: Tap, names: Sequence[str]
    ) -> tuple[list[Float[Tensor, "b n d"]], Int[Tensor, " b"]]:
        """Return the streams of all views before they meet, and the reference view, from 0.

        Arguments are those of `DINOv2.forward`.
        """
        if len(names) < CHOOSING:
            last = [tap.known(f"{name}.{self.depth - 1}.mlp") for name in names]
            known = [stream for stream in last if stream is not None]
            if len(known) == len(names):
                return known, torch.zeros(len(known[0]), dtype=torch.long, device=known[0].device)
        streams = self.embed(images, tap, names)
        reference = torch.zeros(len(streams[0]), dtype=torch.long, device=streams[0].device)
        for i, block in enumerate(list(self.blocks)[: self.depth]):
            if i == self.depth - 1 and len(streams) >= CHOOSING:
                reference = choose(torch.stack([stream[:, 0] for stream in streams], 1))
            streams = block(streams, None, tap, [f"{name}.{i}" for name in names])
        return streams, reference

    def first_token(self, view: int, reference: Int[Tensor, " b"]) -> Float[Tensor, "b 1 d"]:
        """Return the camera token of a view, which counts from 0 here."""
        chosen = (reference == view)[:, None, None]
        return self.camera_token[:, :1].where(chosen, self.camera_token[:, 1:])


def choose(classes: Float[Tensor, "b v d"]) -> Int[Tensor, " b"]:
    """Return the view of each scene whose class token is closest to the average, from 0.

    Three numbers of each view are scaled to [0, 1] over the views of the scene: the mean cosine
    similarity of its class token with those of the other views, the norm of the token, and the
    variance of the token at norm 1. The chosen view has the least sum of distances to 0.5.

    Args:
        classes: The class tokens of all views.
    """
    length = classes.norm(dim=-1)
    unit = classes / length[..., None]
    views = classes.shape[1]
    likeness = ((unit @ unit.mT).sum(-1) - 1) / (views - 1)
    numbers = torch.stack((likeness, length, unit.var(-1)), -1)
    low, high = numbers.amin(1, keepdim=True), numbers.amax(1, keepdim=True)
    scaled = (numbers - low) / (high - low + 1e-8)
    return (scaled - 0.5).abs().sum(-1).argmin(1)


def _normalised(images: Sequence[Tensor]) -> list[Tensor]:
    return [imagenet_normalised(image) for image in images]
