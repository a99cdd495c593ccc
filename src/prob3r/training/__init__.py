"""Training of backbones, probes and dictionaries: recipes, streams, objectives, the loop."""

from prob3r.training.backbone import train_backbone
from prob3r.training.dictionary import DictionaryTraining, train_dictionary
from prob3r.training.loop import Progress, Task, run
from prob3r.training.probes import ProbeTraining, site_losses, train_probes
from prob3r.training.recipe import Recipe, Stage, recipes

__all__ = [
    "DictionaryTraining",
    "ProbeTraining",
    "Progress",
    "Recipe",
    "Stage",
    "Task",
    "recipes",
    "run",
    "site_losses",
    "train_backbone",
    "train_dictionary",
    "train_probes",
]
