"""prob3r: look inside multi-view transformers."""
