from tempfile import TemporaryFile

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from prob3r.models import Model, MultiViewModel, load
from prob3r.runs.attribution import attribute
from prob3r.runs.attribution.memory import _fetch, _Spill, blocks_of, bounded, frozen
from tests.models.examples import EXAMPLES
from tests.models.test_adapter import EXAMPLE
from tests.runs.attribution.conftest import noise, smooth


def kept(model: Model, size: tuple[int, int], bound: bool) -> int:
    """Return the bytes of all tensors that a gradient keeps of a run."""
    images = [image.requires_grad_() for image in noise(size).images]
    held: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        held[tensor.data_ptr()] = tensor
        return tensor

    with frozen(model), saved_tensors_hooks(pack, lambda tensor: tensor):
        if bound:
            with bounded(model):
                output = model(*images)
        else:
            output = model(*images)
    assert output.points[1].requires_grad
    return sum(tensor.nbytes for tensor in held.values())


def test_a_checkpointed_run_keeps_a_fraction() -> None:
    model = load("mini-vggt")
    assert isinstance(model, MultiViewModel)
    model = model.double()
    assert kept(model, (32, 32), True) < kept(model, (32, 32), False) / 3


def test_a_column_is_fetched_as_it_was_spilled() -> None:
    column = torch.rand(1, 1, 2**14).mT
    assert column.stride() == (2**14, 1, 2**14)
    with TemporaryFile() as file:
        spilled = _Spill(file)(column)
        assert not isinstance(spilled, Tensor)
        assert torch.equal(_fetch(spilled), column)


@pytest.mark.parametrize("name", ["vggt", "adapter"])
def test_effects_are_the_same_with_little_memory(name: str) -> None:
    if name == "adapter":
        torch.manual_seed(3)
        model, views = EXAMPLE.adapted(EXAMPLE.TwoViews()).double(), noise((64, 64))
    else:
        model, views = EXAMPLES[name]().double(), noise((28, 28), 3)
    kinds = ("sublayers", "heads", "edges")
    little, much = (
        attribute(model, views, smooth, kinds=kinds, bound_memory=bound) for bound in (True, False)
    )
    for kind in kinds:
        torch.testing.assert_close(getattr(little, kind), getattr(much, kind))


def test_blocks_are_the_entries_of_the_outermost_lists() -> None:
    inner = nn.ModuleList([nn.Linear(1, 1)])
    block = nn.Sequential(inner[0], nn.ModuleDict({"deep": inner}))
    model = nn.ModuleDict({"blocks": nn.ModuleList([block]), "head": nn.Linear(1, 1)})
    assert blocks_of(model) == [block]
