"""Readers of official CroCo v2 files."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from prob3r.models.architectures import are_tensors, register
from prob3r.models.croco import CroCo, CroCoConfig
from prob3r.models.dust3r_files import has_pointmap_heads
from prob3r.models.official import FamilyFiles

_KEYWORDS = "croco_kwargs"


class CroCoFiles(FamilyFiles):
    """Reads the files that the authors of CroCo v2 publish.

    A `.pth` file holds the keyword arguments of the official constructor under `croco_kwargs`.
    """

    names: ClassVar[Mapping[str, Any]] = {
        "CroCo_V2_ViTBase_SmallDecoder": CroCoConfig((224, 224), 16, 768, 12, 12, 512, 8, 16),
        "CroCo_V2_ViTBase_BaseDecoder": CroCoConfig((224, 224), 16, 768, 12, 12),
        "CroCo_V2_ViTLarge_BaseDecoder": CroCoConfig((224, 224)),
    }

    builder = "CroCoNet"
    config_type = CroCoConfig
    accepted: ClassVar[Mapping[str, tuple[Any, ...] | None]] = {
        "mask_ratio": None,
        "mlp_ratio": (4,),
        "norm_im2_in_dec": (True,),
    }
    unused = re.compile(r"(?!)")

    def claims(self, keywords: Mapping[str, Any], names: Iterable[str]) -> bool:
        """Return whether a hub folder of the family has no pointmap heads."""
        return not has_pointmap_heads(keywords, names)

    def own(self, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Return the share of the patches that are hidden in training."""
        return {"mask_ratio": keywords.get("mask_ratio", CroCoConfig.mask_ratio)}

    def of_pickle(self, content: Any) -> tuple[Any, dict[str, Tensor]] | None:
        """Return what a file says that has `croco_kwargs`, or a model string."""
        keywords = content.get(_KEYWORDS) if isinstance(content, dict) else None
        if not isinstance(keywords, dict):
            return super().of_pickle(content)
        weights = content.get("model")
        return (self.config(keywords, _KEYWORDS), weights) if are_tensors(weights) else None


register(CroCo, CroCoFiles())
