"""An accelerator for machines without one: its tensors compute on the CPU, but live elsewhere.

They say that their device is `meta`, meet tensors of the CPU as little as a GPU's would, and give
their numbers away through `.cpu()`, `.item()` and `.tolist()` alone. What runs here cannot have
mixed up devices; that it is right, or fast, on a real one is not shown.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = "meta"

_aten = torch.ops.aten
_MOVES = {_aten._to_copy.default, _aten.copy_.default}
_READS = {_aten.index.Tensor, _aten._unsafe_index.Tensor}
_WRITES = {_aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}


class Remote(Tensor):
    """A tensor of the accelerator; `here` is what it computes with."""

    here: Tensor

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, here: Tensor) -> "Remote":
        remote = torch.Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=DEVICE,
        )
        remote.here = here
        return remote

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})

    def as_subclass(self, cls: type) -> Tensor:
        return type(cls.__name__, (Remote, cls), {})(self.here)

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None) -> Tensor:
        return Remote(self.here.new_tensor(_here(data), dtype=dtype))

    def __getitem__(self, places: Any) -> Tensor:
        return super().__getitem__(_places(places))

    def __setitem__(self, places: Any, value: Any) -> None:
        value = value if isinstance(value, Tensor) else self.new_tensor(value)
        super().__setitem__(_places(places), value)

    def nanquantile(self, *args: Any, **kwargs: Any) -> Tensor:
        # Made of steps that change a tensor's shape in place, which a wrapper does not notice.
        return Remote(self.here.nanquantile(*args, **kwargs))

    def tolist(self) -> list[Any]:
        return self.here.tolist()


class _Accelerator(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})


@contextmanager
def accelerator() -> Iterator[str]:
    """Give the name of a device that exists for as long as this lasts."""
    autocast, enabled = torch.autocast, torch.is_autocast_enabled

    def no_autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        own = device_type == DEVICE
        return nullcontext() if own else autocast(device_type, *args, **kwargs)

    # What torch answers for `meta` by itself, past all dispatch.
    with (
        patch.object(torch, "tensor", _made(torch.tensor)),
        patch.object(torch, "as_tensor", _made(torch.as_tensor)),
        patch.object(torch, "autocast", no_autocast),
        patch.object(torch, "is_autocast_enabled", lambda kind: kind != DEVICE and enabled(kind)),
        _Accelerator(),
    ):
        yield DEVICE


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Return what an operation gives, on the device where a GPU would have put it."""
    leaves = list(_leaves((args, kwargs)))
    remote = [leaf for leaf in leaves if isinstance(leaf, Remote)]
    lost = [t for t in leaves if isinstance(t, Tensor) and t.is_meta and not isinstance(t, Remote)]
    assert not lost, f"{operation} got a tensor that torch made on its own, without numbers"
    asked = kwargs.get("device")
    there = bool(remote) if asked is None else torch.device(asked).type == DEVICE
    if operation not in _MOVES:
        strays = _strays(operation, args, leaves) if remote else []
        if strays:
            raise RuntimeError(f"{operation} got tensors of both devices: {strays}")
        if there and any(isinstance(leaf, torch.Generator) for leaf in leaves):
            raise RuntimeError(f"{operation} got a generator of the CPU for the accelerator")
    if asked is not None and there:
        kwargs = kwargs | {"device": "cpu"}
    found = operation(*_map(_here, args), **_map(_here, kwargs))
    if operation is _aten.copy_.default:
        return args[0]  # which is where it was
    known = {id(leaf.here): leaf for leaf in remote}
    return _map(lambda leaf: _there(leaf, known), found) if there else found


def _leaves(value: Any) -> Iterator[Any]:
    """Yield what tuples, lists and dictionaries hold, also inside one another.

    With torch's own walk over trees, the tests on this device take twice as long.
    """
    if isinstance(value, tuple | list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _leaves(each)
    else:
        yield value


def _map(function: Callable[[Any], Any], value: Any) -> Any:
    """Return the same tuples, lists and dictionaries, with the function's results in them."""
    if isinstance(value, dict):
        return {key: _map(function, each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return type(value)([_map(function, each) for each in value])
    return function(value)


def _strays(operation: Any, args: Any, leaves: list[Any]) -> list[tuple[int, ...]]:
    """Return the shapes of the tensors that may not meet the accelerator's."""
    if operation in _READS | _WRITES:
        # Places may be given by either device, if the tensor itself is remote.
        leaves = [args[0], *(args[2:3] if operation in _WRITES else ())]
    local = [t for t in leaves if isinstance(t, Tensor) and not isinstance(t, Remote)]
    return [tuple(tensor.shape) for tensor in local if tensor.dim()]


def _places(places: Any) -> Any:
    """Return places in a tensor, lists of them as tensors, which torch would lose on `meta`."""
    axes = places if isinstance(places, tuple) else (places,)
    return tuple(torch.tensor(a) if isinstance(a, list | tuple | range) else a for a in axes)


def _here(value: Any) -> Any:
    return value.here if isinstance(value, Remote) else value


def _there(value: Any, known: dict[int, Remote]) -> Any:
    if not isinstance(value, Tensor):
        return value
    return known[id(value)] if id(value) in known else Remote(value)


def _made(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def made(data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
        if device is not None and torch.device(device).type == DEVICE:
            return Remote(make(_here(data), **kwargs))
        return make(data, device=device, **kwargs)

    return made
