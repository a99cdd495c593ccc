"""The transformers, one architecture a file, and how their weights are found."""

from prob3r.models.dust3r import DUSt3R, DUSt3RConfig, Output

__all__ = ["DUSt3R", "DUSt3RConfig", "Output"]
