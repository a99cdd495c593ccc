"""Readers of official MASt3R files."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from prob3r.errors import Prob3rError
from prob3r.models.architectures import register
from prob3r.models.dust3r_files import DUSt3RFiles, has_descriptors
from prob3r.models.mast3r import MASt3R, MASt3RConfig

_EXPONENTIALS = (("exp", 0, math.inf), ("exp", 1, math.inf))


class MASt3RFiles(DUSt3RFiles):
    """Reads the files that the authors of MASt3R publish."""

    names: ClassVar[Mapping[str, Any]] = {
        "naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric": MASt3RConfig((512, 512)),
    }

    builder = "AsymmetricMASt3R"
    config_type = MASt3RConfig
    accepted: ClassVar[Mapping[str, tuple[Any, ...] | None]] = {
        **DUSt3RFiles.accepted,
        "head_type": ("catmlp+dpt",),
        "output_mode": None,
        "two_confs": (True,),
        "desc_mode": ("norm",),
        "desc_conf_mode": (None, *_EXPONENTIALS),
    }
    required = ("head_type", "output_mode", "two_confs")

    def claims(self, keywords: Mapping[str, Any], names: Iterable[str]) -> bool:
        """Return whether a hub folder of the family has descriptors."""
        return has_descriptors(keywords, names)

    def own(self, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Return the channels of the descriptors, and the least of their confidences."""
        mode = re.fullmatch(r"pts3d\+desc(\d+)", str(keywords["output_mode"]))
        if mode is None:
            raise Prob3rError(
                f"output_mode is {keywords['output_mode']!r}; it must be 'pts3d+desc24', or "
                "another number."
            )
        points = keywords.get("conf_mode", _EXPONENTIALS[1])
        _, least, _ = keywords.get("desc_conf_mode") or points
        return {"descriptors": int(mode[1]), "least_confidence": least}


register(MASt3R, MASt3RFiles())
