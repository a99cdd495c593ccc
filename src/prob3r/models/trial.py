"""The test of an adapter's map: it runs over random images and checks every site.

Every site must fire once. It must have as many tokens and heads as the layout of its stack says.
Attention that is put together again must be what the module computes. A stream that is put back
must change nothing, and a changed one must stay changed. A site must change with the image of its
own view, and must not change with the images of another scene.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.models.hooks import AnyHookPoint, hooked
from prob3r.models.protocol import Prediction, Shape
from prob3r.models.sites import Site, Tap

SCENES = 2
"""How many scenes of random images a trial runs over; one would hide which axis is the batch."""


@runtime_checkable
class Mapped(Protocol):
    """The part of an adapter that a trial uses; see `prob3r.models.adapter.Adapter`."""

    @property
    def module(self) -> nn.Module:
        """The model within."""

    @property
    def config(self) -> Shape:
        """The size that the model was made for."""

    @property
    def run(self) -> Callable[..., Prediction]:
        """Calls the module with one batch of images a view."""

    def points(self, views: int) -> Mapping[str, AnyHookPoint]:
        """Return the place of every site, for a number of views."""

    def tokens(self, site: Site) -> int:
        """Return the number of tokens in the stream of a site."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the weights."""

    def __call__(self, *images: Tensor) -> Prediction:
        """Return the prediction without any hook."""


class Trial:
    """Runs of an adapter over random images.

    Args:
        model: The adapter.
        views: How many views it runs over.
    """

    def __init__(self, model: Mapped, views: int):
        self.model, self.views = model, views
        self.generator = torch.Generator().manual_seed(0)
        device = next(model.parameters()).device
        self.images = [self._image().to(device) for _ in range(views)]

    @torch.no_grad()
    def check(self) -> tuple[dict[str, int], dict[str, int]]:
        """Check every site against its name.

        Returns:
            The width of every residual site and the heads of every attention site.

        Raises:
            Prob3rError: The tensor at a site is not what the name of the site says; the message
                names the site.
        """
        plain = self.model(*self.images)
        self._check_prediction(plain)
        read, prediction = self._run(Tap())
        for now, once in zip(_tensors(prediction), _tensors(plain), strict=True):
            if (gap := _gap(now, once)) > _tolerance(once):
                raise Prob3rError(
                    f"Two runs of this {type(self.model.module).__name__} over the same images "
                    f"differ by {gap:.1e} of the largest value; it must be deterministic in eval "
                    "mode."
                )
        for site, (k, e) in read.heads.items():
            if k * e != (width := read.widths[str(Site.parse(site).residual)]):
                raise Prob3rError(
                    f"The {k} heads of '{site}' are {e} wide each; together they must be as wide "
                    f"as its stream, which is {width}."
                )
        self._check_edits(read)
        self._check_images(read)
        return read.widths, {site: k for site, (k, _) in read.heads.items()}

    def _check_edits(self, read: "_Reader") -> None:
        """Check that rejoined and replaced streams change nothing, and that changed ones stay."""
        rejoined, _ = self._run(Tap(), rejoin=True)
        for site, gap in _gaps(rejoined.streams, read.streams):
            raise Prob3rError(
                f"The heads of '{site}.probs', joined as its hook point says, change the stream by "
                f"{gap:.1e} of its largest value; `split` or `join` leaves something out."
            )
        back, _ = self._run(_Back())
        for site, gap in _gaps(back.streams, read.streams):
            raise Prob3rError(
                f"The stream of '{site}', put back as it was, changes by {gap:.1e} of its largest "
                "value; its `put` must undo its `get`."
            )
        nudge = _Nudge(self.generator)
        nudged, _ = self._run(nudge)
        for site, gap in _gaps(nudged.streams, nudge.edited):
            raise Prob3rError(
                f"An edit of '{site}' does not stay: what is read after it differs by {gap:.1e} of "
                "its largest value; its `put` must put the whole stream in."
            )

    def _check_images(self, read: "_Reader") -> None:
        """Check the view and the scene of each site: change one image, in the last scene only."""
        for view, image in enumerate(self.images, 1):
            changed = image.clone()
            changed[-1] = self._image().to(image)[-1]
            images = [*self.images[: view - 1], changed, *self.images[view:]]
            other, _ = self._run(Tap(), images=images)
            for site, stream in other.streams.items():
                scenes = zip(stream, read.streams[site], strict=True)
                moved = [_gap(now, once) > _tolerance(now) for now, once in scenes]
                if any(moved[:-1]):
                    raise Prob3rError(
                        f"The stream of '{site}' in one scene changes with an image of another "
                        "scene; say how its tensor holds the views (`packed`)."
                    )
                if Site.parse(site).view == view and not moved[-1]:
                    raise Prob3rError(
                        f"The stream of '{site}' does not change with the image of view {view}; "
                        "map it to where that view is, or say how its tensor holds the views "
                        "(`packed`, `among`)."
                    )

    def _run(
        self, tap: Tap, rejoin: bool = False, images: Sequence[Tensor] = ()
    ) -> tuple["_Reader", Prediction]:
        """Run with a tap, and read every site after the tap."""
        module, points = self.model.module, self.model.points(self.views)
        reader = _Reader(self.model, self.views)
        # Hooks fire in the order in which they came: the reader's after the tap's.
        with (
            hooked(module, points, tap, self.views, rejoin),
            hooked(module, points, reader, self.views),
        ):
            prediction = self.model.run(module, *(images or self.images))
        for site, point in points.items():
            if (times := reader.fired[site]) != 1:
                raise Prob3rError(
                    f"The site '{site}' fires {times} times in a run and must fire once; map it "
                    f"to another submodule than '{point.path}', or say which `call` it is."
                )
        return reader, prediction

    def _check_prediction(self, prediction: object) -> None:
        size = SCENES, *self.model.config.image_size
        shapes = [(*size, 3)] * self.views + [size] * self.views
        right = isinstance(prediction, Prediction)
        if not right or [tuple(t.shape) for t in _tensors(prediction)] != shapes:  # type: ignore[arg-type]
            raise Prob3rError(
                f"`run` must return a Prediction with {self.views} pointmaps of shape {(*size, 3)} "
                f"and {self.views} confidences of shape {size} for images of this size."
            )

    def _image(self) -> Tensor:
        shape = SCENES, 3, *self.model.config.image_size
        return 2 * torch.rand(shape, generator=self.generator) - 1


class _Reader(Tap):
    """Records the streams of a run, and checks their shapes against the adapter's description."""

    def __init__(self, model: Mapped, views: int):
        self.model, self.views = model, views
        self.fired: Counter[str] = Counter()
        self.streams: dict[str, Tensor] = {}
        self.widths: dict[str, int] = {}
        self.heads: dict[str, tuple[int, int]] = {}

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        self.fired[site] += 1
        shape = tuple(tensor.shape)
        parsed = Site.parse(site)
        tokens = self.model.tokens(parsed)
        same = (w for s, w in self.widths.items() if Site.parse(s).stack == parsed.stack)
        width = next(same, shape[-1])
        if shape != (SCENES, tokens, width):
            raise Prob3rError(
                f"The stream of '{site}' has shape {shape}; it must be {SCENES} scenes, "
                f"{tokens} tokens and the width of its stack, here {width}."
            )
        self.streams[site], self.widths[site] = tensor, width
        return tensor

    def attend(self, site: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        self.fired[site] += 1
        parsed = Site.parse(site)
        n = self.model.tokens(parsed)
        m = sum(self.model.tokens(parsed.of(view)) for view in parsed.key_views(self.views))
        _, k, _, e = queries.shape
        expected = [(SCENES, k, tokens, e) for tokens in (n, m, m)]
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
    """Replaces every stream by an equal one."""

    def __call__(self, site: str, tensor: Tensor) -> Tensor:
        return tensor.clone()


class _Nudge(Tap):
    """Changes every stream and every head, and records the changed streams."""

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


def _tensors(prediction: Prediction) -> tuple[Tensor, ...]:
    return (*prediction.points, *prediction.confidence)


def _gaps(now: Mapping[str, Tensor], once: Mapping[str, Tensor]) -> Iterator[tuple[str, float]]:
    """Yield the sites whose streams differ, in the order of firing, and the differences."""
    for site, stream in now.items():
        if (gap := _gap(stream, once[site])) > _tolerance(stream):
            yield site, gap


def _gap(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two tensors, by the largest value; infinite if unknown."""
    gap = ((one - other).abs().max() / other.abs().max().clamp(min=1e-12)).item()
    return gap if math.isfinite(gap) else math.inf


def _tolerance(tensor: Tensor) -> float:
    """Return the largest allowed difference of two ways to compute one tensor: 3e-4 in float32."""
    return math.sqrt(torch.finfo(tensor.dtype).eps)
