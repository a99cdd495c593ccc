"""Places: where in a foreign module the sites are, and how hooks reach them."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prob3r.errors import Prob3rError
from prob3r.models.sites import Tap

QueriesKeysValues = tuple[Tensor, Tensor, Tensor]


def first(output: Any) -> Tensor:
    """Return a submodule's output or, where that is a tuple, its first entry."""
    return output[0] if isinstance(output, tuple) else output


def put_first(output: Any, stream: Tensor) -> Any:
    """Return a submodule's output with `first` of it replaced."""
    return (stream, *output[1:]) if isinstance(output, tuple) else stream


@dataclass(frozen=True)
class Place:
    """Where the residual stream of a site is to be had.

    Attributes:
        path: The submodule whose output it is, such as `decoder.3`.
        get: From the output to the stream, `(b, n, d)`, any extra tokens after the patches.
        put: From the output and a stream to the output with that stream in it.
        onto: A submodule that is given the stream before, most often the sublayer's norm. The
            output is then what the sublayer adds, and `get` also reads the stream before off that
            submodule's first argument.
        call: Which call of the submodule in a run, counted from 0; None if there is but one.
        share: `(1, 2)` is the second of two equal parts of the batch, for views that run as one.
    """

    path: str
    get: Callable[[Any], Tensor] = first
    put: Callable[[Any, Tensor], Any] = put_first
    onto: str | None = None
    call: int | None = None
    share: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        if (self.get is first) != (self.put is put_first):
            raise Prob3rError(
                f"The place '{self.path}' has one of `get` and `put` alone; give both or none."
            )

    def read(self, output: Any, before: Tensor | None) -> Tensor:
        """Return the stream, given what was before if the output is added to it."""
        whole = self.get(output) if before is None else before + self.get(output)
        number, of = self.share
        return whole.chunk(of)[number]

    def write(self, output: Any, stream: Tensor, edited: Tensor) -> Any:
        """Return the output that makes of a stream that was read the edited one."""
        number, of = self.share
        parts = list(self.get(output).chunk(of))
        # As a difference, so that a stream put in its own place leaves the output as it is.
        parts[number] = edited if self.onto is None else parts[number] + (edited - stream)
        return self.put(output, torch.cat(parts))


def split_multihead(module: nn.Module, inputs: Mapping[str, Any]) -> QueriesKeysValues:
    """Return the queries, keys and values of an `nn.MultiheadAttention`.

    Raises:
        Prob3rError: It is another module, or its heads see more or less than keys and values.
    """
    if not isinstance(module, nn.MultiheadAttention):
        raise Prob3rError(
            f"it is a {type(module).__name__} and no nn.MultiheadAttention; give an "
            "AttentionHook with a `split` and a `join` for it."
        )
    masked = inputs.get("attn_mask") is not None or inputs.get("key_padding_mask") is not None
    if masked or module.bias_k is not None or module.add_zero_attn:
        raise Prob3rError(
            "it has a mask, `bias_k` or `add_zero_attn`, which taps are not shown; leave this "
            "attention site out."
        )
    weights: Any = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    if module.in_proj_weight is not None:
        weights = module.in_proj_weight.chunk(3)
    biases: Any = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    tokens = (inputs["query"], inputs["key"], inputs["value"])
    queries, keys, values = (
        F.linear(x if module.batch_first else x.transpose(0, 1), weight, bias)
        .unflatten(-1, (module.num_heads, -1))
        .transpose(1, 2)
        for x, weight, bias in zip(tokens, weights, biases, strict=True)
    )
    return queries, keys, values


def join_multihead(module: nn.Module, heads: Tensor, output: Any) -> Any:
    """Return what an `nn.MultiheadAttention` would give, had its heads given `heads`.

    The weights that it may give besides stay as they were.
    """
    assert isinstance(module, nn.MultiheadAttention)  # `split_multihead` has made sure
    joined = F.linear(
        heads.transpose(1, 2).flatten(2), module.out_proj.weight, module.out_proj.bias
    )
    return put_first(output, joined if module.batch_first else joined.transpose(0, 1))


@dataclass(frozen=True)
class AttentionHook:
    """Where the attention of a site is computed.

    Attributes:
        path: The submodule that computes it and nothing else.
        split: From the submodule and its arguments by name to the queries `(b, k, n, e)`, keys and
            values `(b, k, m, e)`, after any rotary embedding; logits are divided by sqrt(e).
        join: From the submodule, the outputs `(b, k, n, e)` of its heads, and its own output to
            the output that it would have had with them.
        call: As for `Place`.
        share: As for `Place`.
    """

    path: str
    split: Callable[[nn.Module, Mapping[str, Any]], QueriesKeysValues] = split_multihead
    join: Callable[[nn.Module, Tensor, Any], Any] = join_multihead
    call: int | None = None
    share: tuple[int, int] = (0, 1)


@contextmanager
def hooked(
    module: nn.Module,
    places: Mapping[str, Place | AttentionHook],
    tap: Tap,
    rejoin: bool = False,
) -> Iterator[None]:
    """Show a tap the sites of every run within; afterwards no hook is left.

    Args:
        module: What runs.
        places: Where its sites are.
        tap: Reads and edits.
        rejoin: Whether attention is put together from its heads even where none was changed.
    """
    attention: dict[AttentionHook, dict[int, str]] = {}
    for site, place in places.items():
        if isinstance(place, AttentionHook):
            number, of = place.share
            attention.setdefault(replace(place, share=(0, of)), {})[number] = site
    handles: list[RemovableHandle] = []
    try:
        # Attention first: a stream is read after its heads were edited.
        for key, sites in attention.items():
            attend = _Attend(tap, sites, key, rejoin)
            submodule = module.get_submodule(key.path)
            handles.append(submodule.register_forward_hook(attend, with_kwargs=True))
        for site, place in places.items():
            if isinstance(place, Place):
                show = _Show(tap, site, place)
                if place.onto is not None:
                    norm = module.get_submodule(place.onto)
                    handles.append(norm.register_forward_pre_hook(show.catch, with_kwargs=True))
                submodule = module.get_submodule(place.path)
                handles.append(submodule.register_forward_hook(show))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Calls:
    """Counts the calls of a submodule, to find the one that is meant."""

    def __init__(self, wanted: int | None):
        self.wanted, self.number = wanted, -1

    def meant(self) -> bool:
        self.number += 1
        return self.wanted in (None, self.number)


class _Show:
    """Shows a tap one residual site."""

    def __init__(self, tap: Tap, site: str, place: Place):
        self.tap, self.site, self.place = tap, site, place
        self.calls = _Calls(place.call)
        self.before: Tensor | None = None

    def catch(self, norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep the stream before the sublayer, from the first argument of its norm."""
        self.before = self.place.get(next(iter((*args, *kwargs.values()))))

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not self.calls.meant():
            return output
        if self.place.onto is not None and self.before is None:
            raise Prob3rError(
                f"The site '{self.site}' adds onto the input of '{self.place.onto}', which does "
                f"not run before '{self.place.path}'; name the submodule that is given the stream "
                "before."
            )
        stream = self.place.read(output, self.before)
        # The module may go on in place; what the tap keeps shall not change with it.
        shown = stream.clone()
        edited = self.tap(self.site, shown)
        return output if edited is shown else self.place.write(output, stream, edited)


class _Attend:
    """Shows a tap the attention of one submodule, which is one site for each share of the batch.

    What the tap left alone is the module's own output, bit for bit.
    """

    def __init__(self, tap: Tap, sites: Mapping[int, str], place: AttentionHook, rejoin: bool):
        self.tap, self.sites, self.place, self.rejoin = tap, sites, place, rejoin
        self.calls = _Calls(place.call)

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        if not self.calls.meant():
            return output
        inputs = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        try:
            split = self.place.split(module, inputs)
        except Prob3rError as error:
            site = next(iter(self.sites.values()))
            raise Prob3rError(f"'{site}' cannot read '{self.place.path}': {error}") from error
        plain, own, heads = Tap(), [], []
        shares = zip(*(tensor.chunk(self.place.share[1]) for tensor in split), strict=True)
        for number, (queries, keys, values) in enumerate(shares):
            site = self.sites.get(number, "")
            heads.append((self.tap if site else plain).attend(site, queries, keys, values))
            own.append(plain.attend(site, queries, keys, values))
        if not self.rejoin and all(map(torch.equal, own, heads)):
            return output
        return self.place.join(module, torch.cat(heads), output)
