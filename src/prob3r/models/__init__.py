"""The transformers, one architecture a file, and how their weights are found."""

from prob3r.models.adapter import Adapter
from prob3r.models.architectures import ARCHITECTURES, Published, register
from prob3r.models.checkpoints import (
    filled,
    open_checkpoint,
    read,
    read_tensors,
    save,
    write_tensors,
)
from prob3r.models.croco import CroCo, CroCoConfig
from prob3r.models.croco_files import CroCoFiles
from prob3r.models.depth_anything3 import DepthAnything3, DepthAnything3Config
from prob3r.models.depth_anything3_files import DepthAnything3Files
from prob3r.models.dust3r import DUSt3R, DUSt3RConfig
from prob3r.models.dust3r_files import DUSt3RFiles
from prob3r.models.hooks import AttentionHookPoint, HookPoint
from prob3r.models.info import Info, info
from prob3r.models.mast3r import MASt3R, MASt3RConfig
from prob3r.models.mast3r_files import MASt3RFiles
from prob3r.models.official import parse_model_string
from prob3r.models.pi3 import Pi3, Pi3Config
from prob3r.models.pi3_files import Pi3Files
from prob3r.models.posed import PosedDUSt3R
from prob3r.models.protocol import (
    Cameras,
    Model,
    MultiViewModel,
    Prediction,
    Stack,
    TokenLayout,
)
from prob3r.models.registry import fingerprint, load, metadata, random, shipped, shipped_file
from prob3r.models.vggt import VGGT, VGGTConfig
from prob3r.models.vggt_files import VGGTFiles

__all__ = [
    "ARCHITECTURES",
    "VGGT",
    "Adapter",
    "AttentionHookPoint",
    "Cameras",
    "CroCo",
    "CroCoConfig",
    "CroCoFiles",
    "DUSt3R",
    "DUSt3RConfig",
    "DUSt3RFiles",
    "DepthAnything3",
    "DepthAnything3Config",
    "DepthAnything3Files",
    "HookPoint",
    "Info",
    "MASt3R",
    "MASt3RConfig",
    "MASt3RFiles",
    "Model",
    "MultiViewModel",
    "Pi3",
    "Pi3Config",
    "Pi3Files",
    "PosedDUSt3R",
    "Prediction",
    "Published",
    "Stack",
    "TokenLayout",
    "VGGTConfig",
    "VGGTFiles",
    "filled",
    "fingerprint",
    "info",
    "load",
    "metadata",
    "open_checkpoint",
    "parse_model_string",
    "random",
    "read",
    "read_tensors",
    "register",
    "save",
    "shipped",
    "shipped_file",
    "write_tensors",
]
