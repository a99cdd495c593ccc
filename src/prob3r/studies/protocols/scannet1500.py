"""ScanNet-1500: the relative pose of 1500 pairs indoors."""

from prob3r.scenes.readers import CalibratedPairs
from prob3r.studies.protocols.two_views import TwoViews


class ScanNet1500(TwoViews):
    """The pairs of SuperGlue, as they are in the list."""

    name = "scannet-1500"
    title = "ScanNet-1500: relative pose of two views"
    layout = "calibrated-pairs: pairs_calibrated.txt of glue-factory's scannet1500.zip"
    frames = "the 1500 pairs of SuperGlue (Sarlin et al., CVPR 2020), read from the list"
    reader = CalibratedPairs
    count = 1500
