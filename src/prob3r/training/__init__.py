"""Training: recipes, the stream of pairs, objectives, and the loop."""

from prob3r.training.backbone import train_backbone
from prob3r.training.loop import Progress, Task, run
from prob3r.training.recipe import Recipe, Stage, recipes

__all__ = ["Progress", "Recipe", "Stage", "Task", "recipes", "run", "train_backbone"]
