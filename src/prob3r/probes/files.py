"""Site readers on disk and on the hub, the shipped ones by name; and the models they belong to."""

import json
from collections.abc import Mapping
from dataclasses import fields
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch

from prob3r.errors import Prob3rError
from prob3r.io.files import make_folder, writing_to
from prob3r.io.hub import download, hub_id
from prob3r.models import (
    Model,
    fingerprint,
    random,
    read_tensors,
    shipped,
    write_tensors,
)
from prob3r.probes.bank import ProbeBank, ProbeConfig
from prob3r.probes.lens import Lens
from prob3r.probes.reader import SiteReader
from prob3r.probes.ridge import Fit, RidgeBank

KINDS = ("mlp", "linear", "tuned", "random", "encoder")
"""What can be trained and shipped: two kinds of probes, the tuned lens, and two controls.

`random` is the MLP bank of a backbone of the same shape with random weights; `encoder` holds MLP
probes of the encoder's last block alone.
"""

WEIGHTS, CARD = "probes.safetensors", "probes.json"
"""What a folder or a repository with a bank holds; the second repeats the header of the first."""


def save_probes(
    bank: SiteReader,
    path: Path,
    metadata: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a bank, or a lens, as one `.safetensors` file, which appears whole or not at all.

    Raises:
        Prob3rError: The file cannot be written.
    """
    tensors = {name: t.detach().to(dtype) for name, t in bank.state_dict().items()}
    write_tensors(path, tensors, {**(metadata or {}), "bank": bank.header()})


def save_folder(bank: SiteReader, folder: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a bank, or a lens, as a folder with its weights and, as JSON, their header.

    Raises:
        Prob3rError: The folder cannot be written to.
    """
    make_folder(folder)
    save_probes(bank, folder / WEIGHTS, metadata)
    header = {**(metadata or {}), "bank": bank.header()}
    with writing_to(folder / CARD) as path:
        path.write_text(json.dumps(header, indent=1, sort_keys=True), encoding="utf-8")


def load_probes(
    source: str | Path,
    kind: str = "mlp",
    *,
    revision: str | None = None,
    token: str | None = None,
) -> SiteReader:
    """Return a probe bank, or a lens, float32.

    Args:
        source: The name of a shipped model; the path of a bank's `.safetensors`, or of its folder;
            or a hub id, `owner/name` or `owner/name@revision`. A path that exists goes before a hub
            id.
        kind: Which of a shipped model's banks: one of `KINDS`.
        revision: Of a bank on the hub.
        token: For the hub, instead of the one that is logged in with.

    Raises:
        Prob3rError: There is no such bank, or its file cannot be used or fetched.
    """
    if kind not in KINDS:
        raise Prob3rError(f"kind is '{kind}'; it must be one of {', '.join(KINDS)}.")
    path = Path(source)
    if source not in shipped():
        if (repository := hub_id(source, revision)) and not path.exists():
            path = download(repository, [WEIGHTS], [CARD], token=token)
        if path.is_dir():
            path /= WEIGHTS
        if path.suffix:
            return _read(path)
    file = files("prob3r") / "weights" / str(source) / f"probes-{kind}.safetensors"
    if not file.is_file():
        raise Prob3rError(
            f"No '{kind}' probes are shipped for '{source}'; give the path of a bank's "
            ".safetensors, or fit one at once with `prob3r probes fit`."
        )
    with as_file(file) as path:
        return _read(path)


def check_backbone(bank: SiteReader, model: Model) -> str:
    """Return the model's fingerprint; raise Prob3rError if the bank was trained on another."""
    weights = fingerprint(model)
    if bank.backbone not in ("", weights):  # the first is a bank that was not trained
        raise Prob3rError(
            f"These probes were trained on the model {bank.backbone}, and this one is "
            f"{weights}; give the probes of this model."
        )
    return weights


def backbone_of(bank: SiteReader, model: Model) -> Model:
    """Return the model that a bank reads: this one or, for a control, its like with random weights.

    Raises:
        Prob3rError: The bank was trained on another model.
    """
    if bank.random_seed is not None:
        device = next(model.parameters()).device
        model = random(model, bank.random_seed).to(device)
    check_backbone(bank, model)
    return model


def _read(path: Path) -> SiteReader:
    tensors, header = read_tensors(path)
    description = (header or {}).get("bank")
    if not isinstance(description, dict):
        raise Prob3rError(f"{path} holds no probe bank.")
    try:
        # Every layer has weights; a damaged depth must not keep us building layers for hours.
        if description.get("depth", 0) > len(tensors):
            raise ValueError("it has fewer layers than it says")
        with torch.device("meta"):  # so that a damaged width takes no memory
            bank = _empty(description)
        copies = {name: t.to(torch.float32, copy=True) for name, t in tensors.items()}
        bank.load_state_dict(copies, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise Prob3rError(
            f"The probe bank {path} does not fit its own header: {reason}."
        ) from error
    if not all(parameter.isfinite().all() for parameter in bank.parameters()):
        raise Prob3rError(f"{path} has weights that are not finite; copy or train it again.")
    return bank


def _empty(description: Mapping[str, Any]) -> SiteReader:
    """Return the reader that a header describes, with weights still to be read."""
    sites, backbone = description["sites"], description["backbone"]
    if description.get("reader") == "lens":
        return Lens(sites, description["stream"], description["patch"], backbone)
    if description.get("reader") == "ridge":
        names = "stream", "patch", "features", "seed"
        stream, patch, features, seed = (description[name] for name in names)
        fit = Fit.from_dict(description["fit"]) if "fit" in description else None
        ridge = RidgeBank(sites, stream, patch, backbone, features, seed, fit)
        ridge.random_seed = _seed(description)
        return ridge
    config = ProbeConfig(**{f.name: description[f.name] for f in fields(ProbeConfig)})
    bank = ProbeBank(sites, config, backbone)
    bank.random_seed = _seed(description)
    return bank


def _seed(description: Mapping[str, Any]) -> int | None:
    """Return the seed of the random weights of a control's backbone."""
    seed = description.get("random_seed")
    if seed is not None and not (isinstance(seed, int) and 0 <= seed < 2**63):
        raise TypeError(f"random_seed is {seed!r}; it must be a whole number")
    return seed
