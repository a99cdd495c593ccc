"""Dry runs: code runs on shapes without arithmetic, to count its memory and its operations."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import (
    TreeSpec,
    tree_flatten,
    tree_leaves,
    tree_map_only,
    tree_unflatten,
)
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

_Sizes = Sequence[int]

_T = TypeVar("_T")


class DryRun(TorchDispatchMode):
    """Runs code for the shapes of its tensors only, and counts their memory.

    Operations on floating-point numbers are skipped. Memory is reserved for their results but never
    written, so the system does not provide it. Indices and masks are computed, so their values are
    right. All tensors are ordinary CPU tensors, so the code runs as on a CPU.

    Attributes:
        live: Bytes of the tensors that exist now.
        peak: The largest value of `live` since `peak` was last set.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._storages: dict[int, int] = {}
        self._shapes: dict[Any, Any] = {}
        self._fake = FakeTensorMode()

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Return the result of an operation; its values have no meaning if they are floats."""
        result = self._result(func, args, kwargs or {})
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._account(leaf)
        return result

    def _result(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        leaves, tree = tree_flatten((args, kwargs))
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if func.is_view or (given and not any(t.is_floating_point() for t in given)):
            return func(*args, **kwargs)
        if func._schema.is_mutable:
            return args[0] if func._schema.returns else None
        described = [_Shape.of(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        # The key has the types as well: 1 and 1.0 are equal, but give tensors of different types.
        key = func, tree, tuple((type(each), each) for each in described)
        if key not in self._shapes:
            self._shapes[key] = self._shapes_of(func, described, tree)
        shapes = self._shapes[key]
        made = [each for each in tree_leaves(shapes) if isinstance(each, _Shape)]
        if not given and not any(shape.dtype.is_floating_point for shape in made):
            return func(*args, **kwargs)
        return tree_map_only(_Shape, _Shape.empty, shapes)

    def _shapes_of(self, func: OpOverload, described: list[Any], tree: TreeSpec) -> Any:
        with self._fake:
            leaves = [each.empty() if isinstance(each, _Shape) else each for each in described]
            args, kwargs = tree_unflatten(leaves, tree)
            return tree_map_only(Tensor, _Shape.of, func(*args, **kwargs))

    def _account(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if id(storage) not in self._storages:
            self._storages[id(storage)] = storage.nbytes()
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._free, id(storage)).atexit = False

    def _free(self, storage: int) -> None:
        self.live -= self._storages.pop(storage)


@dataclass(frozen=True, slots=True)
class _Shape:
    """The size, strides and type of a tensor, without its values."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> "_Shape":
        """Return the shape of a tensor."""
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype)

    def empty(self) -> Tensor:
        """Return an uninitialised tensor of this shape."""
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype)


def operations(work: Callable[[], _T]) -> tuple[_T, int]:
    """Return the result of some work and the number of its floating-point operations.

    Only matrix products, convolutions and attention are counted.
    """
    with FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
        result = work()
    return result, counter.get_total_flops()


def _attention(queries: _Sizes, keys: _Sizes, values: _Sizes, *_: object, **__: object) -> int:
    return sdpa_flop_count(queries, keys, values)


# The table of PyTorch's counter lacks the attention kernel for CPUs.
_FORMULAS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


def storage_bytes(tensors: Iterable[Tensor | None]) -> int:
    """Return the size of the storages of tensors, in bytes; a shared storage counts once."""
    storages = {id(s): s for t in tensors if t is not None for s in [t.untyped_storage()]}
    return sum(storage.nbytes() for storage in storages.values())
