"""Readers of official π³ files: weights only; the sizes follow from their shapes.

A `.pth`, `.pt` or `.safetensors` file holds the state dict. A hub folder adds a `config.json` that
names the size and the position embedding.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models.architectures import Published, Shapes, register
from prob3r.models.dinov2 import HEAD_WIDTH, IMAGENET_DEVIATION, IMAGENET_MEAN
from prob3r.models.pi3 import Pi3, Pi3Config

# What images are normalised with, which is a part of the code here; and a token of DINOv2's
# pretraining.
_CONSTANTS = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_DEVIATION}
_UNUSED = "encoder.mask_token"

_STATED = {"decoder_size": "large", "pos_type": "rope100"}


class Pi3Files(Published):
    """Reads the files that the authors of π³ publish."""

    names: ClassVar[Mapping[str, Any]] = {"yyfz233/Pi3": Pi3Config()}

    def of_weights(self, weights: Mapping[str, Tensor]) -> Pi3Config | None:
        """Return the configuration that follows from the shapes of weights."""
        if not {"point_decoder.projects.weight", "register_token"} & weights.keys():
            return None
        return _sizes(weights)

    def of_hub(
        self, values: Mapping[str, Any], weights: Mapping[str, Tensor] | None, origin: str
    ) -> Pi3Config | None:
        """Return the configuration of a hub folder; the published one if there are no weights."""
        if "decoder_size" not in values:
            return None
        if unknown := sorted(values.keys() - _STATED):
            raise Prob3rError(f"{origin} has arguments that are not known: {', '.join(unknown)}.")
        for name, known in _STATED.items():
            if (value := values.get(name, known)) != known:
                raise Prob3rError(f"{origin} has {name} {value!r}; it must be {known!r}.")
        config = Pi3Config() if weights is None else self.of_weights(weights)
        if config is None:
            raise Prob3rError(f"{origin} is of a π³, and the weights beside it are not.")
        return config

    def renamed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights without the constants.

        Raises:
            Prob3rError: Images are to be normalised with other numbers than ImageNet's.
        """
        for name, constant in _CONSTANTS.items():
            stated = weights[name].flatten().tolist() if name in weights else constant
            if len(stated) != 3 or not torch.tensor(stated).allclose(torch.tensor(constant)):
                raise Prob3rError(f"{name} is {stated[:3]}; it must be ImageNet's, {constant}.")
        return {k: v for k, v in weights.items() if k not in {*_CONSTANTS, _UNUSED}}


def _sizes(weights: Mapping[str, Tensor]) -> Pi3Config:
    """Return the sizes that follow from the shapes of official weights.

    All other sizes are those of the official code: the heads of DINOv2 and of the three decoders
    are 64 wide.
    """
    shapes = Shapes(weights, "π³")
    size, count = shapes.size, shapes.count
    width, patch = size("register_token", 3), size("encoder.patch_embed.proj.weight", 2)
    side = math.isqrt(max(size("encoder.pos_embed", 1) - 1, 0)) * patch
    blocks, head_width = count("decoder"), size("point_decoder.projects.weight", 0)
    if blocks % 2:
        raise Prob3rError(f"The decoder has {blocks} blocks; a π³ has frame and global ones.")
    return Pi3Config(
        image_size=(side, side),
        patch=patch,
        width=width,
        depth=blocks // 2,
        heads=width // max(size("decoder.0.attn.q_norm.weight", 0), 1),
        registers=size("register_token", 2),
        enc_depth=count("encoder.blocks"),
        enc_heads=max(width // HEAD_WIDTH, 1),
        enc_registers=size("encoder.register_tokens", 1),
        head_width=head_width,
        head_depth=count("point_decoder.blocks"),
        head_heads=max(head_width // HEAD_WIDTH, 1),
        cam_width=size("camera_decoder.linear_out.weight", 0),
    )


register(Pi3, Pi3Files())
