"""ScanNet-1500: the relative pose of 1500 pairs indoors."""

import re
from collections.abc import Sequence

from prob3r.scenes.readers import CalibratedPairs
from prob3r.studies.protocols.protocol import Key
from prob3r.studies.protocols.two_views import TwoViews

_FRAME = re.compile(r".*(scene\d{4}_\d\d)/.*?(\d+)(?:\.color)?\.\w+")


class ScanNet1500(TwoViews):
    """The pairs of SuperGlue, as they are in the list."""

    name = "scannet-1500"
    title = "ScanNet-1500: relative pose of two views"
    layout = "calibrated-pairs: pairs_calibrated.txt of glue-factory's scannet1500.zip"
    frames = (
        "the 1500 pairs of SuperGlue (Sarlin et al., CVPR 2020), read from the list; the digest is "
        "that of assets/scannet_test_pairs_with_gt.txt in magicleap/SuperGluePretrainedNetwork, "
        "45a750e5"
    )
    reader = CalibratedPairs
    count = 1500
    published = "39ee941564fa4261"

    def key(self, names: Sequence[str]) -> Key:
        """Return the scene and the numbers of both frames, which no list spells differently."""
        found = [_FRAME.fullmatch(name) for name in names]
        if not all(found):
            return list(names)
        (scene, first), (_, second) = (match.groups() for match in found if match)
        return scene, [int(first), int(second)]
