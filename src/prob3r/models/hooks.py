"""Hook points: the places of sites in a third-party module, and the forward hooks for them."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prob3r.errors import Prob3rError
from prob3r.models.sites import Site, Tap

QueriesKeysValues = tuple[Tensor, Tensor, Tensor]


def first(output: Any) -> Tensor:
    """Return a submodule's output or, if that is a tuple, its first entry."""
    return output[0] if isinstance(output, tuple) else output


def put_first(output: Any, stream: Tensor) -> Any:
    """Return a submodule's output with the tensor that `first` returns replaced."""
    return (stream, *output[1:]) if isinstance(output, tuple) else stream


PACKINGS = "view-major", "scene-major", "tokens"
"""How one tensor holds several views of equal size.

`view-major`: along the batch, all scenes of view 1 first. `scene-major`: along the batch, all views
of scene 1 first. `tokens`: along the tokens, `(b, v * n, d)`, all tokens of view 1 first.
"""


@dataclass(frozen=True)
class HookPoint:
    """The place of a residual site in a module.

    Attributes:
        path: Path of the submodule whose output has the stream, such as `decoder.3`.
        get: Takes the output and returns the stream, `(b, n, d)`.
        put: Takes the output and a stream, and returns the output with this stream in it.
        onto: Path of a submodule whose first argument is the stream before the sublayer, most often
            the sublayer's norm. If it is given, the output is what the sublayer adds to the stream.
        call: Number of the submodule's call in a run, counted from 0; None if there is one call.
        packed: One of `PACKINGS`, if the tensor has several views. The name of the site then
            selects the view.
        among: The views in the tensor, in order; all views of the run by default.
    """

    path: str
    get: Callable[[Any], Tensor] = first
    put: Callable[[Any, Tensor], Any] = put_first
    onto: str | None = None
    call: int | None = None
    packed: str | None = None
    among: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if (self.get is first) != (self.put is put_first):
            raise Prob3rError(
                f"The hook point '{self.path}' has only one of `get` and `put`; give both or none."
            )
        _check_packing(self)


def unpack(tensor: Tensor, packed: str | None, views: int) -> list[Tensor]:
    """Return the part of each view of a stream `(b, n, d)` or of heads `(b, k, n, e)`.

    Raises:
        Prob3rError: The parts cannot be equal.
    """
    if packed is None:
        return [tensor]
    axis, what = (-2, "tokens") if packed == "tokens" else (0, "rows of the batch")
    if tensor.shape[axis] % views:
        raise Prob3rError(
            f"it has {tensor.shape[axis]} {what}, which cannot be split evenly over {views} views"
        )
    if packed == "scene-major":
        return list(tensor.unflatten(0, (-1, views)).unbind(1))
    return list(tensor.chunk(views, axis))


def pack(parts: Sequence[Tensor], packed: str | None) -> Tensor:
    """Return the tensor with the parts of all views: the inverse of `unpack`."""
    if packed is None:
        return parts[0]
    if packed == "scene-major":
        return torch.stack(list(parts), 1).flatten(0, 1)
    return torch.cat(list(parts), -2 if packed == "tokens" else 0)


def split_multihead(module: nn.Module, inputs: Mapping[str, Any]) -> QueriesKeysValues:
    """Return the queries, keys and values of an `nn.MultiheadAttention`.

    Raises:
        Prob3rError: It is another module, or it has a mask, `bias_k` or `add_zero_attn`.
    """
    if not isinstance(module, nn.MultiheadAttention):
        raise Prob3rError(
            f"it is a {type(module).__name__} and no nn.MultiheadAttention; give an "
            "AttentionHookPoint with a `split` and a `join` for it."
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
    """Return the output of an `nn.MultiheadAttention` whose heads have the outputs `heads`.

    Attention weights in the output, if any, are not changed.
    """
    assert isinstance(module, nn.MultiheadAttention)  # checked by `split_multihead`
    joined = F.linear(
        heads.transpose(1, 2).flatten(2), module.out_proj.weight, module.out_proj.bias
    )
    return put_first(output, joined if module.batch_first else joined.transpose(0, 1))


@dataclass(frozen=True)
class AttentionHookPoint:
    """The place of an attention site in a module.

    Attributes:
        path: Path of the submodule that computes this attention and nothing else.
        split: Takes the submodule and its arguments by name. Returns the queries `(b, k, n, e)`,
            keys and values `(b, k, m, e)`, after any rotary embedding. Logits are divided by
            sqrt(e).
        join: Takes the submodule, new outputs `(b, k, n, e)` of its heads, and its own output.
            Returns the output that the submodule has with these heads.
        call: As for `HookPoint`.
        packed: As for `HookPoint`. With `tokens`, the attention is joint: the queries of every view
            see the keys of all views, and the sites are of the sublayer `global_attn`.
        among: As for `HookPoint`.
    """

    path: str
    split: Callable[[nn.Module, Mapping[str, Any]], QueriesKeysValues] = split_multihead
    join: Callable[[nn.Module, Tensor, Any], Any] = join_multihead
    call: int | None = None
    packed: str | None = None
    among: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check_packing(self)


AnyHookPoint = HookPoint | AttentionHookPoint


def _check_packing(point: AnyHookPoint) -> None:
    if point.packed not in (None, *PACKINGS):
        raise Prob3rError(
            f"The hook point '{point.path}' has packed '{point.packed}'; it must be one of "
            f"{', '.join(PACKINGS)}, or None."
        )
    if point.among is not None and point.packed is None:
        raise Prob3rError(
            f"The hook point '{point.path}' says `among` which views it is, and not how they are "
            "`packed`; give both or none."
        )


def members(point: AnyHookPoint, site: Site, views: int) -> tuple[int, ...]:
    """Return the views in a site's tensor, in order.

    Raises:
        Prob3rError: The site's own view is not among them.
    """
    if point.packed is None:
        return (site.view,)
    among = tuple(range(1, views + 1)) if point.among is None else point.among
    if site.view not in among:
        raise Prob3rError(
            f"The site '{site}' is of view {site.view}, and its hook point holds the views "
            f"{', '.join(map(str, among))}; put its view among them."
        )
    return among


@contextmanager
def hooked(
    module: nn.Module,
    points: Mapping[str, AnyHookPoint],
    tap: Tap,
    views: int,
    rejoin: bool = False,
) -> Iterator[None]:
    """Call a tap at the sites of every run inside the block; then remove all hooks.

    Args:
        module: The module that runs.
        points: The place of each site.
        tap: The tap; it reads or edits.
        views: Number of views of the run.
        rejoin: Whether attention is computed again from its heads even if the tap changed nothing.
    """
    attention: dict[tuple[AttentionHookPoint, tuple[int, ...]], dict[int, str]] = {}
    for site, point in points.items():
        if isinstance(point, AttentionHookPoint):
            parsed = Site.parse(site)
            among = members(point, parsed, views)
            sites = attention.setdefault((point, among), {})
            sites[among.index(parsed.view)] = site
    handles: list[RemovableHandle] = []
    try:
        # Attention hooks come first, so that a stream is read after its heads are edited.
        for (point, among), sites in attention.items():
            attend = _Attend(tap, sites, point, len(among), rejoin)
            submodule = module.get_submodule(point.path)
            handles.append(submodule.register_forward_hook(attend, with_kwargs=True))
        for site, point in points.items():
            if isinstance(point, HookPoint):
                show = _Show(tap, site, point, members(point, Site.parse(site), views))
                if point.onto is not None:
                    norm = module.get_submodule(point.onto)
                    handles.append(norm.register_forward_pre_hook(show.catch, with_kwargs=True))
                submodule = module.get_submodule(point.path)
                handles.append(submodule.register_forward_hook(show))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Calls:
    """Counts the calls of a submodule, to find the right one."""

    def __init__(self, wanted: int | None):
        self.wanted, self.number = wanted, -1

    def meant(self) -> bool:
        self.number += 1
        return self.wanted in (None, self.number)


class _Show:
    """Calls a tap at one residual site."""

    def __init__(self, tap: Tap, site: str, point: HookPoint, among: tuple[int, ...]):
        self.tap, self.site, self.point = tap, site, point
        self.views, self.number = len(among), among.index(Site.parse(site).view)
        self.calls = _Calls(point.call)
        self.before: Tensor | None = None

    def catch(self, norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep the stream before the sublayer, from the first argument of its norm."""
        self.before = self.point.get(next(iter((*args, *kwargs.values()))))

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not self.calls.meant():
            return output
        if self.point.onto is not None and self.before is None:
            raise Prob3rError(
                f"The site '{self.site}' adds onto the input of '{self.point.onto}', which does "
                f"not run before '{self.point.path}'; name the submodule that takes the stream "
                "before the sublayer."
            )
        added = self.point.get(output)
        stream = self._parts(added if self.before is None else self.before + added)[self.number]
        # The module may change the tensor in place later, so the tap gets a tensor of its own.
        shown = stream.clone()
        edited = self.tap(self.site, shown)
        if edited is shown:
            return output
        parts = self._parts(added)
        # As a difference, so that a stream put in its own place leaves the output as it is.
        new = edited if self.before is None else parts[self.number] + (edited - stream)
        parts[self.number] = new
        return self.point.put(output, pack(parts, self.point.packed))

    def _parts(self, whole: Tensor) -> list[Tensor]:
        try:
            return unpack(whole, self.point.packed, self.views)
        except Prob3rError as error:
            raise Prob3rError(f"'{self.site}' cannot read '{self.point.path}': {error}.") from error


class _Attend:
    """Calls a tap at the attention of one submodule: one site for each view in its tensor.

    Without a change by the tap, the output stays the module's own, bit for bit.
    """

    def __init__(
        self,
        tap: Tap,
        sites: Mapping[int, str],
        point: AttentionHookPoint,
        views: int,
        rejoin: bool,
    ):
        self.tap, self.sites, self.point, self.rejoin = tap, sites, point, rejoin
        self.views = views
        self.calls = _Calls(point.call)

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        if not self.calls.meant():
            return output
        inputs = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        try:
            queries, keys, values = self.point.split(module, inputs)
            asked = unpack(queries, self.point.packed, self.views)
            joint = self.point.packed == "tokens"
            seen = [
                [t] * self.views if joint else unpack(t, self.point.packed, self.views)
                for t in (keys, values)
            ]
        except Prob3rError as error:
            site = next(iter(self.sites.values()))
            reason = str(error).rstrip(".")
            raise Prob3rError(f"'{site}' cannot read '{self.point.path}': {reason}.") from error
        views = sorted(self.sites)
        names = [self.sites[i] for i in views]
        shown = [asked[i] for i in views]
        parts = list(zip(names, shown, *([part[i] for i in views] for part in seen), strict=True))
        plain = Tap()
        # As a tap of joint attention may compute it: one view at a time, or all in one product.
        own = [[plain.attend(*part) for part in parts]]
        if joint:
            own.append(plain.attend_views(names, shown, keys, values))
            edited = self.tap.attend_views(names, shown, keys, values)
        else:
            edited = [self.tap.attend(*part) for part in parts]
        if not self.rejoin and any(all(map(torch.equal, edited, heads)) for heads in own):
            return output
        mapped = dict(zip(views, edited, strict=True))
        every = enumerate(zip(asked, *seen, strict=True))
        heads = [mapped[i] if i in mapped else plain.attend("", *part) for i, part in every]
        return self.point.join(module, pack(heads, self.point.packed), output)
