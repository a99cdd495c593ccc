"""Information about a model that needs no weights."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prob3r.errors import Prob3rError
from prob3r.models.architectures import ARCHITECTURES, published_model
from prob3r.models.checkpoints import config_of, read_card
from prob3r.models.protocol import Model, Shape, Stack
from prob3r.models.registry import from_code, path_of

_BYTES = 4  # weights are float32 once they are read


@dataclass(frozen=True)
class Info:
    """Information from a model's file, and what follows from its configuration.

    Attributes:
        architecture: Name of the architecture.
        config: The configuration.
        stacks: The stacks of blocks, in the order in which they run.
        most_views: Largest number of views that it takes, or None if it takes any number.
        parameters: Number of weights.
        memory: Size of the weights in memory, as float32, in bytes.
        sites: Names of its residual sites for two views.
        attention_sites: Names of its attention sites for two views.
        licence: Licence of the weights, if the file or the folder states one.
        card: All other metadata in the file.
    """

    architecture: str
    config: Shape
    stacks: tuple[Stack, ...]
    most_views: int | None
    parameters: int
    memory: int
    sites: list[str]
    attention_sites: list[str]
    licence: str | None
    card: dict[str, Any]


def info(source: str | Path) -> Info:
    """Return information about a model without reading or downloading its weights.

    A model that is made by code (`package.module:factory`) is made. For a published model whose
    files cannot be downloaded, the configuration is found by its name.

    Args:
        source: As for `load`; or the name of a published model, with or without the owner on the
            hub.

    Raises:
        Prob3rError: As for `load`, except for errors of the weights.
    """
    model: Model | None = from_code(source)
    card: dict[str, Any] = {}
    licence = None
    if model is None:
        try:
            with path_of(source, weights=False) as path:
                card = read_card(path)
                licence = card.get("licence") or _licence_beside(path)
            kind, config = ARCHITECTURES[card["architecture"]], config_of(card, str(source))
        except Prob3rError:
            known = published_model(str(source))
            if known is None or Path(source).exists():
                raise
            kind, config = known
            card = {"architecture": kind.architecture, "read": "nothing; known by its name"}
        with torch.device("meta"):
            model = kind(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    rest = {k: v for k, v in card.items() if k not in ("architecture", "config", "licence")}
    return Info(
        card.get("architecture", type(model).__name__),
        model.config,
        tuple(model.stacks.values()),
        model.most_views,
        parameters,
        _BYTES * parameters,
        model.sites(),
        model.attention_sites(),
        licence,
        rest,
    )


def _licence_beside(path: Path) -> str | None:
    """Return the licence that a hub folder's README states in its front matter."""
    readme = (path if path.is_dir() else path.parent) / "README.md"
    if not readme.is_file():
        return None
    front = re.match(r"---\n(.*?)\n---", readme.read_text(encoding="utf-8", errors="replace"), re.S)
    stated = re.search(r"^license:\s*(\S+)\s*$", front[1], re.M) if front else None
    return stated[1] if stated else None
