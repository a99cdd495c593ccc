"""Precision: the dtype of a model's matrix products, decided in one place.

With bfloat16, autocast runs the matrix products and the attention of the trunk in bfloat16. The
residual streams of our architectures stay in float32: what a sublayer adds is rounded, the sum is
not. The heads run in float32, and so does everything that is computed from the output.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import local
from typing import Literal, get_args

import torch
from torch import nn

from prob3r.errors import Prob3rError
from prob3r.models import Model

Precision = Literal["float32", "bfloat16"]

AUTO = "auto"
CHOICES = (AUTO, *get_args(Precision))


def choose(asked: str, device: torch.device | str, *, heavy: bool) -> Precision:
    """Return the precision to run in.

    Args:
        asked: One of `CHOICES`. `auto` means bfloat16 for heavy work on hardware that supports
            it, and float32 for everything else.
        device: Where the model runs.
        heavy: Whether the work is heavy: fitting probes, or a sweep.

    Raises:
        Prob3rError: `asked` is not one of `CHOICES`.
    """
    if asked not in CHOICES:
        raise Prob3rError(f"The precision '{asked}' is unknown; give one of {', '.join(CHOICES)}.")
    if asked == AUTO:
        return "bfloat16" if heavy and has_bfloat16(torch.device(device)) else "float32"
    return "bfloat16" if asked == "bfloat16" else "float32"


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies matrices of bfloat16 in hardware.

    CPUs with AVX512-BF16 or AMX do.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@contextmanager
def running_in(precision: Precision, *models: Model, keep_rounded: bool = True) -> Iterator[None]:
    """Run models in a precision inside this context. Of nested contexts the innermost counts.

    The models' weights stay as they are, and must not change meanwhile. For bfloat16, autocast is
    on only inside the models' forward, so that geometry is not rounded to bfloat16.

    Args:
        precision: The precision.
        models: The models. A model that is given twice is taken once.
        keep_rounded: Whether weights are rounded to bfloat16 once, and not anew at each run. The
            rounded weights take half the memory of the model. Rounding anew takes little time if
            each run is over several scenes.

    Raises:
        Prob3rError: bfloat16 is asked for, and a model is not a PyTorch module.
    """
    half = precision == "bfloat16"
    with ExitStack() as stack:
        modules = dict.fromkeys(
            _module(model) for model in models if half or running_precision(model) == "bfloat16"
        )
        for kind in {_kind(module) for module in modules}:
            # Autocast frees the rounded weights when the outermost context ends.
            stack.enter_context(torch.autocast(kind, torch.bfloat16, enabled=False))
        for module in modules:
            stack.enter_context(_running(module, _Enter(half, keep_rounded)))
        yield


def running_precision(model: Model) -> Precision:
    """Return the precision that a model runs in."""
    hooks = model._forward_pre_hooks.values() if isinstance(model, nn.Module) else ()
    entered = [hook.half for hook in hooks if isinstance(hook, _Enter)]
    return "bfloat16" if entered and entered[-1] else "float32"


class _Enter:
    """Sets autocast before a model's forward, and back after it, whatever thread runs it."""

    def __init__(self, half: bool, keep_rounded: bool) -> None:
        self.half = half
        self.keep_rounded = keep_rounded
        self._local = local()  # autocast belongs to a thread

    def __call__(self, model: nn.Module, args: object) -> None:
        """Turn autocast on, or off."""
        context = torch.autocast(
            _kind(model), torch.bfloat16, enabled=self.half, cache_enabled=self.keep_rounded
        )
        context.__enter__()
        self._open.append(context)

    def leave(self, model: nn.Module, args: object, output: object) -> None:
        """Set autocast back, also if the forward raised an error."""
        self._open.pop().__exit__(None, None, None)

    @property
    def _open(self) -> list[torch.autocast]:
        if not hasattr(self._local, "open"):
            self._local.open = []
        found: list[torch.autocast] = self._local.open
        return found


@contextmanager
def _running(model: nn.Module, enter: _Enter) -> Iterator[None]:
    before = model.register_forward_pre_hook(enter)
    # Of nested contexts the innermost is entered last, so it is left first.
    after = model.register_forward_hook(enter.leave, always_call=True, prepend=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()


def _module(model: Model) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise Prob3rError(
            f"A {type(model).__name__} is not a PyTorch module; it runs in its own precision only."
        )
    return model


def _kind(model: nn.Module) -> str:
    return next(model.parameters()).device.type
