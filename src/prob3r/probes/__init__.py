"""Probes: the bank, its training, its files."""

from prob3r.probes.bank import Decoded, ProbeBank, ProbeConfig
from prob3r.probes.files import check_backbone, load_probes, save_probes
from prob3r.probes.training import ProbeTraining, site_losses, train_probes

__all__ = [
    "Decoded",
    "ProbeBank",
    "ProbeConfig",
    "ProbeTraining",
    "check_backbone",
    "load_probes",
    "save_probes",
    "site_losses",
    "train_probes",
]
