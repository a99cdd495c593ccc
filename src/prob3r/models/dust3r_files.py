"""Readers of official DUSt3R files."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from prob3r.models.architectures import register
from prob3r.models.dust3r import DUSt3R, DUSt3RConfig
from prob3r.models.official import FamilyFiles


class DUSt3RFiles(FamilyFiles):
    """Reads the files that the authors of DUSt3R publish."""

    names: ClassVar[Mapping[str, Any]] = {
        "naver/DUSt3R_ViTLarge_BaseDecoder_224_linear": DUSt3RConfig((224, 224)),
        "naver/DUSt3R_ViTLarge_BaseDecoder_512_linear": DUSt3RConfig((512, 512)),
        "naver/DUSt3R_ViTLarge_BaseDecoder_512_dpt": DUSt3RConfig((512, 512), head="dpt"),
    }

    builder = "AsymmetricCroCo3DStereo"
    config_type = DUSt3RConfig
    accepted: ClassVar[Mapping[str, tuple[Any, ...] | None]] = {
        "head_type": None,
        "output_mode": ("pts3d",),
        "depth_mode": (("exp", -math.inf, math.inf),),
        "conf_mode": (("exp", 1, math.inf),),
        "patch_embed_cls": ("PatchEmbedDust3R", "ManyAR_PatchEmbed"),
        "landscape_only": (False, True),
        "freeze": ("none", "mask", "encoder"),
    }
    # Left over from pretraining by completion; no part of a DUSt3R.
    unused = re.compile(r"mask_token|prediction_head\..*")

    def claims(self, keywords: Mapping[str, Any], names: Iterable[str]) -> bool:
        """Return whether a hub folder of the family has pointmap heads, and no descriptors."""
        return has_pointmap_heads(keywords, names) and not has_descriptors(keywords, names)

    def own(self, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Return the kind of the heads."""
        return {"head": keywords.get("head_type", "linear")}

    def renamed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights with aliases merged and decoder 2 filled in."""
        renamed = super().renamed(weights)
        if not any(name.startswith("dec_blocks2.") for name in renamed):
            renamed |= {
                name.replace("dec_blocks.", "dec_blocks2.", 1): tensor.clone()
                for name, tensor in renamed.items()
                if name.startswith("dec_blocks.")
            }
        return renamed


def has_descriptors(keywords: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Return whether a configuration, or else the weights, have descriptors beside points."""
    if "output_mode" in keywords:
        return str(keywords["output_mode"]).startswith("pts3d+desc")
    return any(".head_local_features." in name for name in names)


def has_pointmap_heads(keywords: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Return whether a configuration or weights have pointmap heads, which pretraining lacks."""
    return bool(DUSt3RFiles.accepted.keys() & keywords.keys()) or any(
        name.startswith("downstream_head") for name in names
    )


register(DUSt3R, DUSt3RFiles())
