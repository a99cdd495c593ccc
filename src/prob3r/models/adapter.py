"""The adapter: a two-view model of other people, with its sites where its submodules have them."""

import difflib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.models.hooks import AttentionHook, Place, hooked
from prob3r.models.protocol import Prediction, Stack, TokenLayout
from prob3r.models.sites import Site, Tap

Run = Callable[[Any, Tensor, Tensor], Prediction]
"""From the module and the images of both views, `(b, 3, h, w)` in [-1, 1], to the output."""

TRIAL_PAIRS = 2
"""How many pairs of random images the checks run over; one would hide which axis is the batch."""


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter was told of its model.

    Attributes:
        architecture: Name of the module's class.
        image_size: Height and width that the model was made for, in pixels.
        patch: Side of a square patch, in pixels.
        extra_tokens: How many tokens a stack such as `dec2` has after its patches, if any.
        sites: The submodule of every site.
    """

    architecture: str
    image_size: tuple[int, int]
    patch: int
    extra_tokens: Mapping[str, int]
    sites: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON can hold it."""
        return asdict(self) | {"image_size": list(self.image_size)}


class Adapter(nn.Module):
    """A `Model` out of any module, by a map from sites to submodules.

    Without a tap the module runs as it is. With one, forward hooks show the tap every site of the
    map, and are gone when the run ends, however it ends. What a tap leaves alone goes on bit for
    bit; attention that it changes is computed again from queries, keys and values.

    The map is tried when the adapter is made, over random images: every site must fire once, its
    tokens and heads must be as many as they should, attention put together again must be what the
    module computes, a stream put back must change nothing, and a changed one must stay changed.

    Args:
        module: The model; it is put in eval mode.
        sites: Where each site is: a `Place` for the residual stream after a sublayer, an
            `AttentionHook` for its attention, or the path of a submodule alone, whose output is
            the stream or which is an `nn.MultiheadAttention`.
        run: Calls the module with two batches of images and returns what it says as an `Output`.
        image_size: Height and width that the model was made for, in pixels.
        patch: Side of a square patch, in pixels.
        extra_tokens: How many tokens a stack such as `dec2` has after its patches, if any.

    Raises:
        Prob3rError: A site does not hold what its name says; the message names it.
    """

    most_views = 2

    def __init__(
        self,
        module: nn.Module,
        sites: Mapping[str, str | Place | AttentionHook],
        run: Run,
        *,
        image_size: tuple[int, int],
        patch: int,
        extra_tokens: Mapping[str, int] | None = None,
    ):
        super().__init__()
        self.module, self.run = module, run
        self.places = {site: _place(module, site, where) for site, where in sites.items()}
        _check_partners(self.places)
        paths = {site: place.path for site, place in self.places.items()}
        self.config = AdapterConfig(
            type(module).__name__, image_size, patch, dict(extra_tokens or {}), paths
        )
        self.eval()
        self._widths, self._heads = self.check()

    def forward(self, *images: Tensor, tap: Tap | None = None) -> Prediction:
        """Return the pointmaps and confidences of a batch of scenes; see `Model`."""
        if tap is None:
            return self.run(self.module, *images)
        with hooked(self.module, self.places, tap):
            return self.run(self.module, *images)

    def sites(self, views: int = 2) -> list[str]:
        """Return the names of all residual sites, in the order of the map."""
        return [site for site, place in self.places.items() if isinstance(place, Place)]

    def attention_sites(self, views: int = 2) -> list[str]:
        """Return the names of all attention sites, in the order of the map."""
        return [site for site, place in self.places.items() if isinstance(place, AttentionHook)]

    @cached_property
    def stacks(self) -> Mapping[str, Stack]:
        """The stacks of blocks by name, as the map has them."""
        names = [Site.parse(site) for site in self.sites()]
        stacks = {}
        for name in dict.fromkeys(site.stack for site in names):
            own = [site for site in names if site.stack == name]
            blocks: dict[int, dict[str, None]] = defaultdict(dict)
            for site in own:
                if site.block is not None:
                    blocks[site.block][site.sublayer] = None
            heads = [self._heads[str(site.probs)] for site in own if str(site.probs) in self._heads]
            count = max(blocks, default=-1) + 1
            stacks[name] = Stack(
                name,
                self._widths[str(own[0])],
                heads[0] if heads else 1,
                tuple(tuple(blocks.get(block, ())) for block in range(count)),
                tuple(self._layout(Site(name, view, None, "embed").stream) for view in (1, 2)),
            )
        return stacks

    def _layout(self, stream: str) -> TokenLayout:
        extra = self.config.extra_tokens.get(stream, 0)
        return TokenLayout(after=tuple(f"extra{i}" for i in range(extra)))

    def tokens(self, stream: str) -> int:
        """Return how many tokens a stream such as `dec2` has at `image_size`."""
        height, width = self.config.image_size
        return height * width // self.config.patch**2 + len(self._layout(stream).special)

    @torch.no_grad()
    def check(self) -> tuple[dict[str, int], dict[str, int]]:
        """Try the map over random images; see the class.

        Returns:
            The width of every residual site and the heads of every attention site.

        Raises:
            Prob3rError: A site does not hold what its name says; the message names it.
        """
        device = next(self.parameters()).device
        generator = torch.Generator().manual_seed(0)
        shape = (2, TRIAL_PAIRS, 3, *self.config.image_size)
        images = (2 * torch.rand(shape, generator=generator) - 1).to(device)
        plain = self(images[0], images[1])
        self._check_output(plain)
        read, output = self._trial(images, Tap())
        for now, once in zip(_tensors(output), _tensors(plain), strict=True):
            if (gap := _gap(now, once)) > _tolerance(once):
                raise Prob3rError(
                    f"Two runs of this {self.config.architecture} over the same images differ by "
                    f"{gap:.1e} of the largest value; it must be deterministic in eval mode."
                )
        for site, (k, e) in read.heads.items():
            if k * e != (width := read.widths[str(Site.parse(site).residual)]):
                raise Prob3rError(
                    f"The {k} heads of '{site}' are {e} wide each; together they must be as wide "
                    f"as its stream, which is {width}."
                )
        rejoined, _ = self._trial(images, Tap(), rejoin=True)
        for site, gap in _gaps(rejoined.streams, read.streams):
            raise Prob3rError(
                f"The heads of '{site}.probs', joined as its place says, change the stream by "
                f"{gap:.1e} of its largest value; `split` or `join` leaves something out."
            )
        back, _ = self._trial(images, _Back())
        for site, gap in _gaps(back.streams, read.streams):
            raise Prob3rError(
                f"The stream of '{site}', put back as it was, changes by {gap:.1e} of its largest "
                "value; its `put` must undo its `get`."
            )
        nudge = _Nudge(generator)
        nudged, _ = self._trial(images, nudge)
        for site, gap in _gaps(nudged.streams, nudge.edited):
            raise Prob3rError(
                f"An edit of '{site}' does not stay: what is read after it differs by {gap:.1e} of "
                "its largest value; its `put` must put the whole stream in."
            )
        return read.widths, {site: k for site, (k, _) in read.heads.items()}

    def _trial(
        self, images: Tensor, tap: Tap, rejoin: bool = False
    ) -> tuple["_Reader", Prediction]:
        """Run with a tap, and read at every site what it left there."""
        reader = _Reader(self)
        # Hooks fire in the order in which they came: the reader's after the tap's.
        with (
            hooked(self.module, self.places, tap, rejoin),
            hooked(self.module, self.places, reader),
        ):
            output = self.run(self.module, images[0], images[1])
        for site in self.places:
            if (times := reader.fired[site]) != 1:
                raise Prob3rError(
                    f"The site '{site}' fires {times} times in a run and must fire once; map it "
                    f"to another submodule than '{self.places[site].path}', or say which `call` "
                    "it is."
                )
        return reader, output

    def _check_output(self, output: object) -> None:
        size = TRIAL_PAIRS, *self.config.image_size
        right = isinstance(output, Prediction) and [t.shape for t in _tensors(output)] == [
            (*size, 3),
            (*size, 3),
            size,
            size,
        ]
        if not right:
            raise Prob3rError(
                f"`run` must return a Prediction with pointmaps of shape {(*size, 3)} and "
                f"confidences of shape {size} for images of this size."
            )


class _Reader(Tap):
    """Keeps the streams of a run, and holds shapes against what an adapter was told."""

    def __init__(self, model: Adapter):
        self.model = model
        self.fired: Counter[str] = Counter()
        self.streams: dict[str, Tensor] = {}
        self.widths: dict[str, int] = {}
        self.heads: dict[str, tuple[int, int]] = {}

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        self.fired[site] += 1
        shape = tuple(tensor.shape)
        stream = Site.parse(site).stream
        tokens = self.model.tokens(stream)
        same = (w for s, w in self.widths.items() if Site.parse(s).stream == stream)
        width = next(same, shape[-1])
        if shape != (TRIAL_PAIRS, tokens, width):
            raise Prob3rError(
                f"The stream of '{site}' has shape {shape}; it must be {TRIAL_PAIRS} pairs, "
                f"{tokens} tokens and the width of its stack, here {width}."
            )
        self.streams[site], self.widths[site] = tensor, width
        return tensor

    def attend(self, site: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        self.fired[site] += 1
        parsed = Site.parse(site)
        n = self.model.tokens(parsed.stream)
        m = sum(self.model.tokens(parsed.of(view).stream) for view in parsed.key_views(2))
        _, k, _, e = queries.shape
        expected = [(TRIAL_PAIRS, k, tokens, e) for tokens in (n, m, m)]
        shapes = [tuple(tensor.shape) for tensor in (queries, keys, values)]
        if shapes != expected:
            raise Prob3rError(
                f"The queries, keys and values of '{site}' have shapes {shapes}; they must be "
                f"{expected}."
            )
        rows = (queries @ keys.mT / math.sqrt(e)).softmax(-1).sum(-1)
        if not torch.allclose(rows, torch.ones_like(rows), atol=_tolerance(rows)):
            raise Prob3rError(f"The attention rows of '{site}' don't sum to one.")
        self.heads[site] = k, e
        return super().attend(site, queries, keys, values)


class _Back(Tap):
    """Puts every stream in its own place."""

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        return tensor.clone()


class _Nudge(Tap):
    """Changes every stream and every head, and keeps what it made of the streams."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator
        self.edited: dict[str, Tensor] = {}

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        self.edited[site] = self._noisy(tensor)
        return self.edited[site]

    def attend(self, site: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return self._noisy(super().attend(site, queries, keys, values))

    def _noisy(self, tensor: Tensor) -> Tensor:
        noise = torch.randn(tensor.shape, generator=self.generator)
        return tensor + tensor.std() * noise.to(tensor)


def _place(
    module: nn.Module, site: str, where: str | Place | AttentionHook
) -> Place | AttentionHook:
    """Return where a site is; raise Prob3rError if it cannot be there."""
    kind = AttentionHook if Site.parse(site).reading else Place
    place = kind(where) if isinstance(where, str) else where
    if not isinstance(place, kind):
        raise Prob3rError(
            f"The site '{site}' has a {type(place).__name__}; give a {kind.__name__}."
        )
    known = [name for name, _ in module.named_modules() if name]
    for path in (place.path, getattr(place, "onto", None)):
        if path is not None and path not in known:
            near = difflib.get_close_matches(path, known, n=3, cutoff=0.4) or known[:3]
            raise Prob3rError(
                f"The site '{site}' is mapped to '{path}', and this {type(module).__name__} has "
                f"no such submodule; it has {', '.join(near)}, ...."
            )
    return place


def _check_partners(places: Mapping[str, Place | AttentionHook]) -> None:
    """Raise Prob3rError if a sublayer's attention has a place and its stream has none."""
    for site in places:
        sublayer = str(Site.parse(site).residual)
        if sublayer not in places:
            raise Prob3rError(
                f"The map has '{site}' without '{sublayer}'; edits of attention need the stream "
                "after it too."
            )


def _tensors(output: Prediction) -> Iterable[Tensor]:
    return (*output.points, *output.confidence)


def _gaps(now: Mapping[str, Tensor], once: Mapping[str, Tensor]) -> Iterator[tuple[str, float]]:
    """Yield the sites whose streams differ, in the order in which they fired, and by how much."""
    for site, stream in now.items():
        if (gap := _gap(stream, once[site])) > _tolerance(stream):
            yield site, gap


def _gap(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two tensors, by the largest value; infinite if unknown."""
    gap = ((one - other).abs().max() / other.abs().max().clamp(min=1e-12)).item()
    return gap if math.isfinite(gap) else math.inf


def _tolerance(tensor: Tensor) -> float:
    """Return how far two ways to compute one tensor may lie apart: 3e-4 in float32."""
    return math.sqrt(torch.finfo(tensor.dtype).eps)
