"""Probes and lenses: the bank, and their files."""

from prob3r.probes.bank import ProbeBank, ProbeConfig
from prob3r.probes.files import backbone_of, check_backbone, load_probes, save_probes
from prob3r.probes.lens import Lens
from prob3r.probes.reader import Decoded, SiteReader

__all__ = [
    "Decoded",
    "Lens",
    "ProbeBank",
    "ProbeConfig",
    "SiteReader",
    "backbone_of",
    "check_backbone",
    "load_probes",
    "save_probes",
]
