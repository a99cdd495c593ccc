"""What a gradient keeps of a run, and how to keep less.

A gradient needs the activations of the run. In prob3r's own models every block is checkpointed: it
keeps its input alone and runs once more when the gradient comes to it (Chen et al., "Training deep
nets with sublinear memory cost", 2016). Parts of a module behind an adapter cannot run again,
because the adapter's hooks are removed by then. Its activations are moved instead: from an
accelerator to the host's memory, and on a CPU to a temporary file.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from prob3r.models.protocol import Model, MultiViewModel

_SMALL = 2**14  # bytes; smaller tensors stay in memory


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """Let no weight of a model require a gradient inside this context.

    Layers then keep less of a run, and no gradient of a weight is computed.
    """
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        for weight in learning:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in learning:
            weight.requires_grad_(True)


@contextmanager
def bounded(model: Model) -> Iterator[None]:
    """Keep little of a run for its gradient. The gradient must be taken inside this context."""
    with ExitStack() as stack:
        if isinstance(model, MultiViewModel):
            for block in blocks_of(model):
                stack.enter_context(_checkpointed(block))
        elif next(model.parameters()).device.type == "cpu":
            file = stack.enter_context(tempfile.TemporaryFile())
            stack.enter_context(saved_tensors_hooks(_Spill(file), _fetch))
        else:
            stack.enter_context(save_on_cpu())
        yield


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """Return the blocks of a model: the entries of its outermost lists of modules."""
    if isinstance(module, nn.ModuleList):
        return list(module)
    return [block for child in module.children() for block in blocks_of(child)]


@contextmanager
def _checkpointed(block: nn.Module) -> Iterator[None]:
    """Make a block keep its input alone."""
    plain = block.forward
    try:
        block.forward = partial(checkpoint, plain, use_reentrant=False, preserve_rng_state=False)
        yield
    finally:
        del block.forward  # the forward of the class is found again


_Kept = tuple[int, torch.dtype, torch.Size, BinaryIO]


class _Spill:
    """Writes what a gradient needs into a file."""

    def __init__(self, file: BinaryIO):
        self.file = file

    def __call__(self, tensor: Tensor) -> Any:
        if tensor.nbytes < _SMALL:
            return tensor
        start = self.file.seek(0, 2)
        self.file.write(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return start, tensor.dtype, tensor.shape, self.file


def _fetch(kept: Tensor | _Kept) -> Tensor:
    if isinstance(kept, Tensor):
        return kept
    start, dtype, shape, file = kept
    file.seek(start)
    raw = bytearray(file.read(shape.numel() * dtype.itemsize))
    return torch.frombuffer(raw, dtype=dtype).reshape(shape)
