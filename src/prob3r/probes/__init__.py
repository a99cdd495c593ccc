"""Probes and lenses: the bank, and their files."""

from prob3r.probes.bank import ProbeBank, ProbeConfig
from prob3r.probes.files import backbone_of, check_backbone, load_probes, save_probes
from prob3r.probes.lens import Lens
from prob3r.probes.provide import Asked, Show, provide
from prob3r.probes.reader import Decoded, SiteReader
from prob3r.probes.ridge import Fit, RidgeBank

__all__ = [
    "Asked",
    "Decoded",
    "Fit",
    "Lens",
    "ProbeBank",
    "ProbeConfig",
    "RidgeBank",
    "Show",
    "SiteReader",
    "backbone_of",
    "check_backbone",
    "load_probes",
    "provide",
    "save_probes",
]
