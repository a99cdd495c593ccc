"""The stream of training scenes: rendered when needed, from easy to hard, and augmented."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import rotation_between
from prob3r.rooms import Rooms
from prob3r.rooms.dataset import SPAN
from prob3r.scenes.readers.items import Seen
from prob3r.scenes.view import View
from prob3r.scenes.views import Pair, Views, stack
from prob3r.training.photometry import photographed
from prob3r.training.recipe import Stage

_STRIDE = 2**26  # scenes between the first candidates of two seeds; more than a stage draws


class Stream:
    """The batches of pairs of one stage.

    A batch depends on the seed and its step alone, so a resumed run sees the same batches as a run
    without a stop. Pairs are rendered in chunks of several steps.

    Args:
        stage: States the size, the batch and the curriculum.
        seed: Different seeds give different pairs.
        device: Where to render, and where the batches are.
        chunk: Number of pairs that are rendered at once.
        photographs: A folder of photographs for the surfaces of everyday rooms.
    """

    def __init__(
        self,
        stage: Stage,
        seed: int,
        device: torch.device | str,
        chunk: int = 512,
        photographs: Path | None = None,
    ):
        self.stage = stage
        self.seed = seed
        self.steps_per_chunk = max(1, chunk // stage.batch)
        images = self.steps_per_chunk * stage.batch
        self.source = _Source(stage, device, photographs, images)
        self.candidates = int(self.steps_per_chunk * stage.batch / 2 / stage.pool_start) + 1
        self._chunk: tuple[int, Pair] | None = None

    def batch(self, step: int) -> Pair:
        """Return the batch of a step; if steps are in order, each chunk is rendered once."""
        number, offset = divmod(step, self.steps_per_chunk)
        if self._chunk is None or self._chunk[0] != number:
            self._chunk = number, self._render(number)
        if self.stage.symmetric:
            scenes = self.stage.batch // 2
            pair = self._chunk[1][offset * scenes : (offset + 1) * scenes]
            return stack([pair, pair.swap()])
        first = offset * self.stage.batch
        return self._chunk[1][first : first + self.stage.batch]

    def _render(self, number: int) -> Pair:
        """Render a chunk: the pairs of least rotation among its candidates.

        Each pair comes twice, once with its views exchanged, as in DUSt3R's own training. In a
        symmetric stage it comes once here, and `batch` adds the exchanged views.
        """
        wanted = self.steps_per_chunk * self.stage.batch // 2
        share = self.stage.pool_at(number * self.steps_per_chunk)
        first = _first(self.seed, number * self.candidates)
        generator = torch.Generator().manual_seed(self.seed * _STRIDE + number)
        found = self.source.draw(2, first, wanted, share, generator, not self.stage.symmetric)
        assert isinstance(found, Pair)
        return found


class ViewsStream:
    """The batches of one stage of scenes with several numbers of views, in turn.

    All batches have the same number of photographs. A batch depends on the seed and its step alone,
    as in `Stream`. The arguments are the same.
    """

    def __init__(
        self,
        stage: Stage,
        seed: int,
        device: torch.device | str,
        chunk: int = 256,
        photographs: Path | None = None,
    ):
        self.stage = stage
        self.seed = seed
        self.rounds = max(1, chunk // stage.batch // len(stage.views))
        self.source = _Source(stage, device, photographs, self.rounds * 2 * stage.batch)
        counts = [self._wanted(views) for views in stage.views]
        self.candidates = sum(int(count / stage.pool_start) + 1 for count in counts)
        self._chunk: tuple[int, list[Views]] | None = None

    def batch(self, step: int) -> Views:
        """Return the batch of a step; if steps are in order, each chunk is rendered once."""
        turn, place = divmod(step, len(self.stage.views))
        number, offset = divmod(turn, self.rounds)
        if self._chunk is None or self._chunk[0] != number:
            self._chunk = number, self._render(number)
        scenes = self._chunk[1][place]
        count = len(scenes) // self.rounds
        return scenes[offset * count : (offset + 1) * count]

    def _wanted(self, views: int) -> int:
        """Return how many scenes with this number of views a chunk has."""
        return self.rounds * 2 * self.stage.batch // views

    def _render(self, number: int) -> list[Views]:
        """Render a chunk: scenes for each number of views, those of least rotation."""
        share = self.stage.pool_at(number * self.rounds * len(self.stage.views))
        first = _first(self.seed, number * self.candidates)
        generator = torch.Generator().manual_seed(self.seed * _STRIDE + number)
        chunk = []
        for views in self.stage.views:
            wanted = self._wanted(views)
            chunk.append(self.source.draw(views, first, wanted, share, generator))
            first += int(wanted / self.stage.pool_start) + 1
        return chunk


class _Source:
    """Draws and renders scenes of both styles, at most so many images at once."""

    def __init__(
        self, stage: Stage, device: torch.device | str, photographs: Path | None, images: int
    ):
        self.share, size = stage.everyday, (stage.size, stage.size)
        rooms = Rooms("train", size, device=device)
        self.staged = _by_views(rooms, stage.views, images)
        self.everyday: dict[int, Rooms[Any]] = {}
        if stage.everyday:
            rooms = Rooms("train", size, photographs=photographs, device=device, style="everyday")
            self.everyday = _by_views(rooms, stage.views, images)

    def draw(
        self,
        views: int,
        first: int,
        wanted: int,
        share: float,
        generator: torch.Generator,
        both_ways: bool = False,
    ) -> Views:
        """Render the scenes of least rotation among some candidates, in random order.

        Args:
            views: Number of views of each scene.
            first: Number of the first candidate.
            wanted: How many scenes to render.
            share: The wanted scenes as a share of the candidates.
            generator: Generator of the order and the augmentation.
            both_ways: Whether each pair comes a second time, with its views exchanged.
        """
        everyday = round(wanted * self.share)
        middle, last = (first + round(n / share) for n in (everyday, wanted))
        parts: list[Views] = []
        if everyday:
            scenes = _easiest(self.everyday[views], range(first, middle), everyday)
            parts.append(photographed(_ways(scenes, both_ways, generator), generator))
        if everyday < wanted:
            scenes = _easiest(self.staged[views], range(middle, last), wanted - everyday)
            jittered = _ways(scenes, both_ways, generator).with_each(
                lambda view: _jitter(view, generator)
            )
            parts.append(jittered)
        return parts[0] if len(parts) == 1 else _shuffled(stack(parts), generator)


def _first(seed: int, candidates: int) -> int:
    """Return the number of a chunk's first candidate, given the number of candidates before it."""
    return (seed * _STRIDE + candidates) % (SPAN - _STRIDE)


def _by_views(rooms: Rooms[Any], views: Sequence[int], images: int) -> dict[int, Rooms[Any]]:
    """Return the rooms for each number of views; they share one size of compiled chunks."""
    rooms.chunk = min(images, rooms.most_at_once)
    return {count: rooms.with_views(count) for count in views}


def _easiest(rooms: Rooms[Any], candidates: range, wanted: int) -> Views:
    """Render the wanted number of candidates, those of least rotation.

    The rotation of a scene is the mean over the rotations from view 1 to each other view.
    """
    indices: Sequence[int] = candidates
    if wanted < len(candidates):
        _, poses = rooms.cameras(candidates)
        first, *others = poses.unbind(1)
        rotation = torch.stack([rotation_between(first, other) for other in others]).mean(0)
        indices = [candidates[i] for i in rotation.argsort()[:wanted].tolist()]
    found: Views = rooms.batch(indices)
    return found


def _ways(scenes: Views, both_ways: bool, generator: torch.Generator) -> Views:
    """Return scenes in random order; `both_ways` adds each pair with its views exchanged."""
    if both_ways:
        assert isinstance(scenes, Pair)
        scenes = stack([scenes, scenes.swap()])
    return _shuffled(scenes, generator)


def _shuffled(scenes: Seen, generator: torch.Generator) -> Seen:
    return scenes[torch.randperm(len(scenes), generator=generator).tolist()]


def _jitter(view: View, generator: torch.Generator) -> View:
    """Vary brightness, white balance and contrast as between exposures, and add noise."""

    def spread(channels: int, size: float) -> Float[Tensor, "b c 1 1"]:
        draw = torch.randn(len(view.image), channels, 1, 1, generator=generator)
        return (size * draw).exp().to(view.image)

    light = (view.image + 1) / 2 * spread(1, 0.1) * spread(3, 0.05)
    light = light.clamp(min=0) ** spread(1, 0.1)
    noise = torch.randn(view.image.shape, generator=generator).to(view.image)
    return replace(view, image=(2 * light - 1 + 0.02 * noise).clamp(-1, 1))
