"""Probe banks on disk: the shipped ones by name, and any by path."""

from collections.abc import Mapping
from dataclasses import fields
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R, fingerprint, read_tensors, write_tensors
from prob3r.probes.bank import ProbeBank, ProbeConfig

KINDS = ("mlp", "linear", "random", "encoder")
"""Shipped with every model: two kinds of probes, and two controls.

`random` is the MLP bank of a backbone of the same shape with random weights; `encoder` holds MLP
probes of the encoder's last block alone.
"""


def save_probes(
    bank: ProbeBank,
    path: Path,
    metadata: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a bank as one `.safetensors` file, which appears whole or not at all.

    Raises:
        Prob3rError: The file cannot be written.
    """
    tensors = {name: t.detach().to(dtype) for name, t in bank.state_dict().items()}
    write_tensors(path, tensors, {**(metadata or {}), "bank": bank.header()})


def load_probes(source: str | Path, kind: str = "mlp") -> ProbeBank:
    """Return a probe bank, float32.

    Args:
        source: The name of a shipped model, or the path of a bank's `.safetensors`.
        kind: Which of a shipped model's banks: one of `KINDS`.

    Raises:
        Prob3rError: There is no such bank, or its file cannot be used.
    """
    if Path(source).suffix:
        return _read(Path(source))
    if kind not in KINDS:
        raise Prob3rError(f"kind is '{kind}'; it must be one of {', '.join(KINDS)}.")
    shipped = files("prob3r") / "weights" / str(source) / f"probes-{kind}.safetensors"
    if not shipped.is_file():
        raise Prob3rError(
            f"No '{kind}' probes are shipped for '{source}'; give the path of a bank's "
            ".safetensors, or train one with `prob3r train probes`."
        )
    with as_file(shipped) as path:
        return _read(path)


def check_backbone(bank: ProbeBank, model: DUSt3R) -> None:
    """Raise Prob3rError unless the bank was trained on this very model."""
    if bank.backbone != fingerprint(model):
        raise Prob3rError(
            f"These probes were trained on the model {bank.backbone}, and this one is "
            f"{fingerprint(model)}; give the probes of this model."
        )


def _read(path: Path) -> ProbeBank:
    tensors, header = read_tensors(path)
    description = (header or {}).get("bank")
    if not isinstance(description, dict):
        raise Prob3rError(f"{path} holds no probe bank.")
    try:
        config = ProbeConfig(**{f.name: description[f.name] for f in fields(ProbeConfig)})
        bank = ProbeBank(description["sites"], config, description["backbone"])
        bank.load_state_dict({name: t.float() for name, t in tensors.items()})
    except (KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise Prob3rError(f"The probe bank {path} does not fit its own header: {reason}") from error
    if not all(parameter.isfinite().all() for parameter in bank.parameters()):
        raise Prob3rError(f"{path} has weights that are not finite; copy or train it again.")
    return bank
