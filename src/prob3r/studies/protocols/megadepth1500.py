"""MegaDepth-1500: the relative pose of 1500 pairs of landmarks."""

from prob3r.scenes.readers import PosedPairs
from prob3r.studies.protocols.two_views import TwoViews


class MegaDepth1500(TwoViews):
    """The pairs of LoFTR, as they are in the list."""

    name = "megadepth-1500"
    title = "MegaDepth-1500: relative pose of two views"
    layout = "posed-pairs: views.txt and pairs.txt of glue-factory's megadepth1500.zip"
    frames = "the 1500 pairs of LoFTR (Sun et al., CVPR 2021), read from the list"
    reader = PosedPairs
    count = 1500
