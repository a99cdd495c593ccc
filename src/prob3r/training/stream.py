"""The endless stream of training pairs: rendered as needed, opened from easy to hard, augmented."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from prob3r.geometry import rotation_between
from prob3r.rooms import Rooms
from prob3r.scenes.views import Pair, View, stack
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
    """

    def __init__(self, stage: Stage, seed: int, device: torch.device | str, chunk: int = 512):
        self.stage = stage
        self.seed = seed
        self.rooms = Rooms("train", size=(stage.size, stage.size), device=device)
        self.steps_per_chunk = max(1, chunk // stage.batch)
        self.candidates = int(self.steps_per_chunk * stage.batch / 2 / stage.pool_start) + 1
        self._chunk: tuple[int, Pair] | None = None

    def batch(self, step: int) -> Pair:
        """Return the batch of a step; steps asked for in order cost one rendering a chunk."""
        number, offset = divmod(step, self.steps_per_chunk)
        if self._chunk is None or self._chunk[0] != number:
            self._chunk = number, self._render(number)
        first = offset * self.stage.batch
        return self._chunk[1][first : first + self.stage.batch]

    def _render(self, number: int) -> Pair:
        """Render a chunk: of its share of candidates, the pairs of least rotation, both ways round.

        Each pair comes twice, once with its views exchanged, as in DUSt3R's own training.
        """
        wanted = self.steps_per_chunk * self.stage.batch // 2
        share = self.stage.pool_at(number * self.steps_per_chunk)
        first = (self.seed * _STRIDE + number * self.candidates) % (len(self.rooms) - _STRIDE)
        indices: Sequence[int] = range(first, first + round(wanted / share))
        if share < 1:
            _, poses = self.rooms.cameras(indices)
            order = rotation_between(poses[:, 0], poses[:, 1]).argsort()[:wanted]
            indices = [indices[i] for i in order.tolist()]
        pair = self.rooms.batch(indices)
        generator = torch.Generator().manual_seed(self.seed * _STRIDE + number)
        both = stack([pair, pair.swap()])[torch.randperm(2 * wanted, generator=generator).tolist()]
        return Pair(_jitter(both.view1, generator), _jitter(both.view2, generator), both.names)


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
