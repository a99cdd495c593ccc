"""Probes and lenses: the bank, their training, their files."""

from prob3r.probes.bank import ProbeBank, ProbeConfig
from prob3r.probes.files import backbone_of, check_backbone, load_probes, save_probes
from prob3r.probes.lens import Lens
from prob3r.probes.reader import Decoded, SiteReader
from prob3r.probes.training import ProbeTraining, site_losses, train_probes

__all__ = [
    "Decoded",
    "Lens",
    "ProbeBank",
    "ProbeConfig",
    "ProbeTraining",
    "SiteReader",
    "backbone_of",
    "check_backbone",
    "load_probes",
    "save_probes",
    "site_losses",
    "train_probes",
]
