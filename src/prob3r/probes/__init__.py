"""Probes, lenses and dictionaries, which decode residual sites, and their files."""

from prob3r.probes.backbone import backbone_of, check_backbone
from prob3r.probes.bank import ProbeBank, ProbeConfig
from prob3r.probes.dictionary import Dictionary
from prob3r.probes.files import shipped_probes
from prob3r.probes.lens import Lens
from prob3r.probes.own_heads import at_blocks, cameras_at_blocks, what_is_read
from prob3r.probes.provide import Asked, Show, provide, provide_each
from prob3r.probes.reader import Decoded, SiteReader, load_probes, save_probes
from prob3r.probes.ridge import Fit, RidgeBank
from prob3r.probes.targets import TARGETS, Target, target_named

__all__ = [
    "TARGETS",
    "Asked",
    "Decoded",
    "Dictionary",
    "Fit",
    "Lens",
    "ProbeBank",
    "ProbeConfig",
    "RidgeBank",
    "Show",
    "SiteReader",
    "Target",
    "at_blocks",
    "backbone_of",
    "cameras_at_blocks",
    "check_backbone",
    "load_probes",
    "provide",
    "provide_each",
    "save_probes",
    "shipped_probes",
    "target_named",
    "what_is_read",
]
