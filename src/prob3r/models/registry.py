"""Models by name: shipped with prob3r, on disk, on the hub, or made by code; random models."""

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, overload

import torch
from torch import nn

from prob3r.errors import Prob3rError
from prob3r.io.hub import download, hub_id
from prob3r.models.architectures import ARCHITECTURES
from prob3r.models.checkpoints import INDEX, SHARDS, WEIGHTS, read, read_card
from prob3r.models.factories import installed, is_factory, make, make_installed
from prob3r.models.protocol import AnyModel, Builds, Built, Model, MultiViewModel

_WEIGHTS = Path(str(files("prob3r") / "weights"))


def load(source: str | Path, device: str | torch.device = "cpu") -> Model:
    """Return a model, float32 and in eval mode.

    Args:
        source: The name of a shipped model. Or the path of a prob3r `.safetensors`, of official
            weights (`.pth`, `.pt`, `.safetensors`), or of a hub folder. Or a hub id, `owner/name`
            or `owner/name@revision`, of a repository with the layout of a hub folder. Or the name
            of a model of an installed package (see `prob3r.models.factories`). Or
            `package.module:factory`; its code then runs. A path that exists takes precedence.
        device: Device of the weights.

    Raises:
        Prob3rError: There is no such model, its file cannot be used or downloaded, its code fails,
            or the device cannot be used.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise Prob3rError(f"The device '{device}' cannot be used: {reason}") from error
    made = from_code(source)
    if made is not None:
        return made.to(device)
    with path_of(source) as path:
        return read(path).to(device)


def from_code(source: str | Path) -> Model | None:
    """Return a new model if a source is a factory or an installed name, else None.

    Raises:
        Prob3rError: The model cannot be made; see `prob3r.models.factories.make`.
    """
    if not isinstance(source, str) or source in _shipped_files() or Path(source).exists():
        return None
    if is_factory(source):
        return make(source)
    return make_installed(source) if source in installed() else None


def metadata(source: str | Path) -> dict[str, Any]:
    """Return the card of a model's file: `architecture`, `config`, and all other saved metadata.

    The weights are neither read nor downloaded. The argument and the errors are those of `load`.
    """
    with path_of(source, weights=False) as path:
        return read_card(path)


def shipped() -> list[str]:
    """Return the names of the models that are shipped with prob3r."""
    return sorted(_shipped_files())


def shipped_file(model: str | Path, file: str) -> Path | None:
    """Return a file that is shipped with a model, such as its probes, or None if there is none.

    Args:
        model: The name of a model; for a path, the result is None.
        file: The name of the file.
    """
    path = _WEIGHTS / model / file
    return path if model in shipped() and path.is_file() else None


@overload
def random(like: Builds[Built], seed: int = 0) -> Built: ...


@overload
def random(like: AnyModel, seed: int = 0) -> AnyModel: ...


def random(like: Any, seed: int = 0) -> Any:
    """Return a model of the same shape with fresh random weights, on the CPU and in eval mode.

    It is a control: it shows what a probe or an architecture can do without training. A third-party
    model is copied, and its weights are drawn by the initialisation of its modules. Weights of
    modules without an initialisation are drawn from a normal distribution with their mean and
    standard deviation.

    Args:
        like: A model, or the configuration of one of prob3r's architectures.
        seed: Seed of the weights.

    Raises:
        Prob3rError: The model is not a torch module, or no architecture has such configurations.
    """
    # Modules draw from the global generator only; its state is restored afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(like, MultiViewModel):
            kinds = (kind for kind in type(like).__mro__ if kind in ARCHITECTURES.values())
            return next(kinds, type(like))(like.config).eval()
        if isinstance(like, Builds) and not isinstance(like, nn.Module):
            return like.build().eval()
        if not isinstance(like, nn.Module):
            raise Prob3rError(
                f"A {type(like).__name__} is no torch module, and has no like with random weights."
            )
        made = copy.deepcopy(like).cpu().eval()
        drawn: set[int] = set()
        for module in made.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
                drawn.update(id(p) for p in module.parameters(recurse=False))
        with torch.no_grad():
            for weight in (p for p in made.parameters() if id(p) not in drawn):
                spread, mean = torch.std_mean(weight, correction=0)
                weight.normal_(mean.item(), spread.item())
        return made


def fingerprint(model: Model) -> str:
    """Return a hash of a model's configuration and weights, as 16 hexadecimal digits.

    It depends on the values only, not on the device or the file of the weights.
    """
    return digest(model.config.to_dict(), model.state_dict())


def digest(described: Mapping[str, Any], weights: Mapping[str, Any]) -> str:
    """Return a hash of a description that fits JSON and of named tensors: 16 hexadecimal digits."""
    found = hashlib.blake2b(digest_size=8)
    found.update(json.dumps(described, sort_keys=True).encode())
    for name, tensor in sorted(weights.items()):
        found.update(name.encode())
        found.update(tensor.detach().float().cpu().contiguous().numpy())
    return found.hexdigest()


@contextmanager
def path_of(source: str | Path, weights: bool = True) -> Iterator[Path]:
    """Return the path of a source; download it from the hub if needed.

    Args:
        source: As for `load`.
        weights: Whether to download the weights. Without them, a folder from the hub has only the
            description of the model.

    Raises:
        Prob3rError: There is no such model, or it cannot be downloaded.
    """
    ours = _shipped_files()
    if isinstance(source, str) and source in ours:
        yield ours[source]
    elif Path(source).exists():
        yield Path(source)
    elif repository := hub_id(source):
        wanted = [WEIGHTS, INDEX, SHARDS] if weights else []
        folder = download(repository, ["config.json"], ["README.md", *wanted])
        if weights and not any((folder / name).is_file() for name in (WEIGHTS, INDEX)):
            raise Prob3rError(f"'{repository}' on the hub has no {WEIGHTS}.")
        yield folder
    else:
        names = ", ".join(ours) or "none here"
        raise Prob3rError(
            f"There is no model '{source}': give the name of a shipped one ({names}), the path of "
            "a prob3r .safetensors, an official .pth or a hub folder, a hub id, owner/name, or "
            "package.module:factory."
        )


def _shipped_files() -> dict[str, Path]:
    return {file.parent.name: file for file in sorted(_WEIGHTS.glob("*/model.safetensors"))}
