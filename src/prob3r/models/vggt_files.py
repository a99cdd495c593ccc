"""Readers of official VGGT files: weights only; the sizes follow from their shapes.

A `.pt` file holds the state dict, sometimes under `model`. A hub folder adds a `config.json` with
three of the sizes.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models.architectures import Published, Shapes, register
from prob3r.models.dinov2 import HEAD_WIDTH
from prob3r.models.vggt import VGGT, VGGTConfig

# The tracker, and a token of DINOv2's pretraining; prob3r has no use for either.
_UNUSED = re.compile(r"track_head\..*|aggregator\.patch_embed\.mask_token")

_DINOV2 = "aggregator.patch_embed.patch_embed.proj.weight"
_CONVOLUTION = "aggregator.patch_embed.proj.weight"

# What the official constructor's keyword is called here.
_STATED = {"img_size": "image_size", "patch_size": "patch", "embed_dim": "width"}
_SWITCHES = ("enable_camera", "enable_point", "enable_depth", "enable_track")


class VGGTFiles(Published):
    """Reads the files that the authors of VGGT publish."""

    names: ClassVar[Mapping[str, Any]] = {
        "facebook/VGGT-1B": VGGTConfig(),
        "facebook/VGGT-1B-Commercial": VGGTConfig(),
    }

    def of_weights(self, weights: Mapping[str, Tensor]) -> VGGTConfig | None:
        """Return the configuration that follows from the shapes of weights."""
        if not any(name.startswith("aggregator.") for name in weights):
            return None
        return _sizes(weights)

    def of_hub(
        self, values: Mapping[str, Any], weights: Mapping[str, Tensor] | None, origin: str
    ) -> VGGTConfig | None:
        """Return the configuration of a hub folder; that of VGGT-1B if there are no weights."""
        if "embed_dim" not in values:
            return None
        if unknown := sorted(values.keys() - {*_STATED, *_SWITCHES}):
            raise Prob3rError(f"{origin} has arguments that are not known: {', '.join(unknown)}.")
        stated = {ours: values[name] for name, ours in _STATED.items() if name in values}
        if isinstance(side := stated.get("image_size"), int):
            stated["image_size"] = (side, side)
        config = None if weights is None else self.of_weights(weights)
        if config is None:
            config = VGGTConfig()
        elif not config.enc_depth:
            # Weights without a position embedding do not tell the size of the images.
            config = VGGTConfig.from_dict(
                config.to_dict() | {k: v for k, v in stated.items() if k == "image_size"}
            )
        for name, value in stated.items():
            if value != (found := getattr(config, name)):
                whose = (
                    "VGGT-1B, the only one known without its weights,"
                    if weights is None
                    else ("its weights")
                )
                raise Prob3rError(f"{origin} states {name} {value!r}; {whose} have {found!r}.")
        return config

    def renamed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights without the tracker's."""
        return {name: tensor for name, tensor in weights.items() if not _UNUSED.fullmatch(name)}


def _sizes(weights: Mapping[str, Tensor]) -> VGGTConfig:
    """Return the sizes that follow from the shapes of official weights.

    All other sizes are those of the official code: the heads of DINOv2 are 64 wide, the camera
    head has 16 heads and 4 iterations, and the dense heads read blocks 4, 11, 17 and 23.
    """
    shapes = Shapes(weights, "VGGT")
    size, count = shapes.size, shapes.count
    width, official = size("aggregator.camera_token", 3), VGGTConfig()
    values: dict[str, Any] = {
        "width": width,
        "depth": count("aggregator.frame_blocks"),
        "heads": width // max(size("aggregator.frame_blocks.0.attn.q_norm.weight", 0), 1),
        "registers": size("aggregator.register_token", 2),
        "features": size("point_head.scratch.layer1_rn.weight", 0),
        "channels": tuple(size(f"point_head.projects.{i}.weight", 0) for i in range(4)),
        "cam_depth": count("camera_head.trunk"),
    }
    if _CONVOLUTION in weights:
        patch = size(_CONVOLUTION, 2)
        side = official.image_size[0] // max(patch, 1)
        values |= {"patch": patch, "enc_depth": 0}
    else:
        patch = size(_DINOV2, 2)
        side = math.isqrt(max(size("aggregator.patch_embed.pos_embed", 1) - 1, 0))
        values |= {
            "patch": patch,
            "enc_depth": count("aggregator.patch_embed.blocks"),
            "enc_heads": width // HEAD_WIDTH,
            "enc_registers": size("aggregator.patch_embed.register_tokens", 1),
        }
    return VGGTConfig(image_size=(side * patch, side * patch), **values)


register(VGGT, VGGTFiles())
