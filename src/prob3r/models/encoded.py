"""Encoded views, and a memory of them: a view that several pairs share is encoded once."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

MOST_BYTES = 2**30  # some 1,300 views of DUSt3R-Large at 224 pixels


class Tokens(NamedTuple):
    """One view's patches: the stream `(b, n, d)` and the grid `(rows, columns)` it came from."""

    stream: Float[Tensor, "b n d"]
    grid: tuple[int, int]


class EncodedViews:
    """What an encoder made of the views it saw last, found again by their pixels.

    On a CPU views are encoded one by one, so that what comes out is the same to the bit whatever
    else is in the batch and whatever was seen before; on a GPU, those of a batch at once.

    Args:
        encode: The encoder, whose weights must not change.
        most_bytes: How much is kept; what was not asked for longest goes first.

    Attributes:
        encoded: How many views went through the encoder.
        reused: How many did not have to.
    """

    def __init__(self, encode: Callable[[Tensor], Tokens], most_bytes: int = MOST_BYTES):
        self.encode, self.most_bytes = encode, most_bytes
        self.encoded = self.reused = 0
        self._kept: OrderedDict[Hashable, Tokens] = OrderedDict()

    def __call__(self, images: Float[Tensor, "b 3 h w"]) -> Tokens:
        """Return the patches of a batch of views; the encoder sees those alone that are new."""
        keys = _keys(images)
        new = {key: row for row, key in enumerate(keys) if key not in self._kept}
        if new:
            self._kept.update(zip(new, self._encoded(images[list(new.values())]), strict=True))
        self.encoded += len(new)
        self.reused += len(keys) - len(new)
        for key in keys:
            self._kept.move_to_end(key)
        views = [self._kept[key] for key in keys]
        self._forget()
        return Tokens(torch.cat([view.stream for view in views]), views[0].grid)

    def _encoded(self, images: Tensor) -> list[Tokens]:
        """Return the patches of views, each as a batch of its own with memory of its own."""
        batches = map(self.encode, images.split(len(images) if images.is_cuda else 1))
        return [Tokens(view.clone(), grid) for stream, grid in batches for view in stream.split(1)]

    def _forget(self) -> None:
        """Keep as much as there is room for."""
        held = sum(tokens.stream.nbytes for tokens in self._kept.values())
        while held > self.most_bytes:
            held -= self._kept.popitem(last=False)[1].stream.nbytes


def _keys(images: Float[Tensor, "b 3 h w"]) -> list[Hashable]:
    """Return what tells views apart: two hashes of their pixels, their size and the precision.

    Hashes are sums of 16-bit words, each times a random 64-bit number, modulo 2^64 (Carter and
    Wegman, Universal classes of hash functions, 1979). Of two views that differ, words differ by
    less than 2^16, so one hash is the same with a probability of 2^-48 at most, both with 2^-96.
    """
    words = images.contiguous().view(torch.int16).flatten(1).long()
    hashes = [(words * row).sum(1).tolist() for row in _multipliers(words.shape[1], images.device)]
    kind = images.device.type
    reduced = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    shape = tuple(images.shape[1:])
    return [(*both, shape, images.dtype, reduced) for both in zip(*hashes, strict=True)]


@cache
def _multipliers(words: int, device: torch.device) -> Int64[Tensor, "2 words"]:
    generator = torch.Generator().manual_seed(words)
    drawn = torch.randint(-(2**63), 2**63 - 1, (2, words), generator=generator)
    return drawn.to(device)
