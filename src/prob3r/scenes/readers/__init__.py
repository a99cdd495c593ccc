"""Readers of data sets on disk, one layout a file.

Each reader converts its layout into pairs with prob3r's conventions. See `Reader` to add a layout.
"""

from prob3r.scenes.readers.base import READERS, Listing, Reader
from prob3r.scenes.readers.blendedmvs import BlendedMVS
from prob3r.scenes.readers.calibrated_pairs import CalibratedPairs
from prob3r.scenes.readers.co3d import CO3D
from prob3r.scenes.readers.co3dv2 import CO3Dv2
from prob3r.scenes.readers.colmap import COLMAP
from prob3r.scenes.readers.conventions import Camera
from prob3r.scenes.readers.corrupt import CorruptCount, CorruptError
from prob3r.scenes.readers.dtu import DTU
from prob3r.scenes.readers.eth3d import ETH3D
from prob3r.scenes.readers.habitat import Habitat
from prob3r.scenes.readers.hpatches import HPatches
from prob3r.scenes.readers.items import Items, kind
from prob3r.scenes.readers.megadepth import MegaDepth
from prob3r.scenes.readers.nerfstudio import Nerfstudio
from prob3r.scenes.readers.nrgbd import NRGBD
from prob3r.scenes.readers.posed_pairs import PosedPairs
from prob3r.scenes.readers.re10k import RealEstate10K
from prob3r.scenes.readers.scannetpp import ScanNetPP
from prob3r.scenes.readers.sevenscenes import SevenScenes
from prob3r.scenes.readers.sintel import Sintel
from prob3r.scenes.readers.tum import TUM

__all__ = [
    "CO3D",
    "COLMAP",
    "DTU",
    "ETH3D",
    "NRGBD",
    "READERS",
    "TUM",
    "BlendedMVS",
    "CO3Dv2",
    "CalibratedPairs",
    "Camera",
    "CorruptCount",
    "CorruptError",
    "HPatches",
    "Habitat",
    "Items",
    "Listing",
    "MegaDepth",
    "Nerfstudio",
    "PosedPairs",
    "Reader",
    "RealEstate10K",
    "ScanNetPP",
    "SevenScenes",
    "Sintel",
    "kind",
]
