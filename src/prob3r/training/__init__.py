"""Training of backbones: recipes, the stream of pairs, objectives, and the run itself."""

from prob3r.training.recipe import Recipe, Stage, recipes
from prob3r.training.run import train

__all__ = ["Recipe", "Stage", "recipes", "train"]
