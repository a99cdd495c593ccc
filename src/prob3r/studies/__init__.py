"""Studies: measurements over many pairs, each ending in a table."""

from prob3r.studies.evaluation import evaluate

__all__ = ["evaluate"]
