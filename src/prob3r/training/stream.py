"""The endless stream of training pairs: rendered as needed, opened from easy to hard, augmented."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import rotation_between
from prob3r.rooms import Rooms
from prob3r.scenes.views import Pair, View, stack
from prob3r.training.photometry import photographed
from prob3r.training.recipe import Stage

_STRIDE = 2**26  # pairs between the first candidates of two seeds; more than a stage draws


class Stream:
    """The batches of one stage.

    A batch is a function of the seed and its step alone, so that a resumed run sees what an
    unbroken one would have seen. Pairs are rendered a chunk of steps at a time.

    Args:
        stage: Size, batch and curriculum.
        seed: Different seeds see different pairs.
        device: Where to render, and where the batches are.
        chunk: Pairs prepared at once.
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
        size = (stage.size, stage.size)
        self.rooms = Rooms("train", size, device=device)
        self.everyday: Rooms | None = None
        if stage.everyday:
            self.everyday = Rooms(
                "train", size, photographs=photographs, device=device, style="everyday"
            )
        self.steps_per_chunk = max(1, chunk // stage.batch)
        self.candidates = int(self.steps_per_chunk * stage.batch / 2 / stage.pool_start) + 1
        self._chunk: tuple[int, Pair] | None = None

    def batch(self, step: int) -> Pair:
        """Return the batch of a step; steps asked for in order cost one rendering a chunk."""
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
        """Render a chunk: of its share of candidates, the pairs of least rotation.

        Each pair comes twice, once with its views exchanged, as in DUSt3R's own training; in a
        symmetric stage it comes once here, and `batch` exchanges the views.
        """
        wanted = self.steps_per_chunk * self.stage.batch // 2
        share = self.stage.pool_at(number * self.steps_per_chunk)
        first = (self.seed * _STRIDE + number * self.candidates) % (len(self.rooms) - _STRIDE)
        everyday = round(wanted * self.stage.everyday)
        middle, last = (first + round(n / share) for n in (everyday, wanted))
        generator = torch.Generator().manual_seed(self.seed * _STRIDE + number)
        parts = []
        if self.everyday and everyday:
            pair = self._easiest(self.everyday, range(first, middle), everyday)
            parts.append(photographed(self._ways(pair, generator), generator))
        if everyday < wanted:
            pair = self._ways(
                self._easiest(self.rooms, range(middle, last), wanted - everyday), generator
            )
            parts.append(
                Pair(_jitter(pair.view1, generator), _jitter(pair.view2, generator), pair.names)
            )
        return parts[0] if len(parts) == 1 else _shuffled(stack(parts), generator)

    def _easiest(self, rooms: Rooms, candidates: range, wanted: int) -> Pair:
        """Render as many of the candidates as are wanted, those of least rotation."""
        indices: Sequence[int] = candidates
        if wanted < len(candidates):
            _, poses = rooms.cameras(candidates)
            order = rotation_between(poses[:, 0], poses[:, 1]).argsort()[:wanted]
            indices = [candidates[i] for i in order.tolist()]
        return rooms.batch(indices)

    def _ways(self, pair: Pair, generator: torch.Generator) -> Pair:
        """Return pairs in random order, both ways round unless the stage is symmetric."""
        return _shuffled(pair if self.stage.symmetric else stack([pair, pair.swap()]), generator)


def _shuffled(pair: Pair, generator: torch.Generator) -> Pair:
    return pair[torch.randperm(len(pair), generator=generator).tolist()]


def _jitter(view: View, generator: torch.Generator) -> View:
    """Vary brightness, white balance and contrast as exposures of one scene do, and add noise."""

    def spread(channels: int, size: float) -> Float[Tensor, "b c 1 1"]:
        draw = torch.randn(len(view.image), channels, 1, 1, generator=generator)
        return (size * draw).exp().to(view.image)

    light = (view.image + 1) / 2 * spread(1, 0.1) * spread(3, 0.05)
    light = light.clamp(min=0) ** spread(1, 0.1)
    noise = torch.randn(view.image.shape, generator=generator).to(view.image)
    image = (2 * light - 1 + 0.02 * noise).clamp(-1, 1)
    return View(image, view.intrinsics, view.cam_to_world, view.depth, view.valid, view.labels)
