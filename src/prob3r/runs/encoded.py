"""A cache of encoded views: a view that several pairs share is encoded once."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from prob3r.models.layers import Tokens
from prob3r.models.protocol import EncodesViews, Model
from prob3r.scenes.source import Scenes, share_views
from prob3r.scenes.views import Views

MOST_BYTES = 2**30  # some 1,300 views of DUSt3R-Large at 224 pixels


class EncodedViews:
    """A cache in front of an encoder. Views are found again by their pixels.

    On a CPU each view is encoded alone. The result then does not depend on the rest of the batch
    or on the state of the cache, to the bit. On a GPU all new views of a batch are encoded at once.

    Args:
        encode: The encoder. Its weights must not change.
        most_bytes: Cache size in bytes. The least recently used entries are evicted first.

    Attributes:
        encoded: The number of views that went through the encoder.
        reused: The number of views that were found in the cache.
    """

    def __init__(self, encode: Callable[[Tensor], Tokens], most_bytes: int = MOST_BYTES):
        self.encode, self.most_bytes = encode, most_bytes
        self.encoded = self.reused = 0
        self._kept: OrderedDict[Hashable, Tokens] = OrderedDict()

    def __call__(self, images: Float[Tensor, "b 3 h w"]) -> Tokens:
        """Return the patches of a batch of views. Only new views go through the encoder."""
        keys = _keys(images)
        new = {key: row for row, key in enumerate(keys) if key not in self._kept}
        if new:
            self._kept.update(zip(new, self._encoded(images[list(new.values())]), strict=True))
        self.encoded += len(new)
        self.reused += len(keys) - len(new)
        for key in keys:
            self._kept.move_to_end(key)
        views = [self._kept[key] for key in keys]
        self._evict()
        return Tokens(torch.cat([view.stream for view in views]), views[0].grid)

    def _encoded(self, images: Tensor) -> list[Tokens]:
        """Return the patches of views, each as a batch of its own with memory of its own."""
        batches = map(self.encode, images.split(len(images) if images.is_cuda else 1))
        return [Tokens(view.clone(), grid) for stream, grid in batches for view in stream.split(1)]

    def _evict(self) -> None:
        """Evict the least recently used views until the cache fits its size."""
        held = sum(tokens.stream.nbytes for tokens in self._kept.values())
        while held > self.most_bytes:
            held -= self._kept.popitem(last=False)[1].stream.nbytes


@contextmanager
def encoding_once(model: EncodesViews, most_bytes: int = MOST_BYTES) -> Iterator[EncodedViews]:
    """Encode each view once inside this context. The weights must not change meanwhile.

    Outputs differ from those without the cache by rounding errors alone.

    Args:
        model: A model whose encoder sees one view at a time.
        most_bytes: Cache size in bytes.
    """
    before, cache = model.encoder_cache, EncodedViews(model.encoder_stream, most_bytes)
    model.encoder_cache = cache
    try:
        yield cache
    finally:
        model.encoder_cache = before


@contextmanager
def reusing_views(pairs: Scenes[Views], *models: Model) -> Iterator[None]:
    """Encode a view that several pairs share only once inside this context.

    The models' weights must not change meanwhile. Models without an encoder of single views run
    as usual. If no two pairs share a view, all models run as usual.
    """
    with ExitStack() as stack:
        for model in models:
            if isinstance(model, EncodesViews) and share_views(pairs):
                stack.enter_context(encoding_once(model))
        yield


def _keys(images: Float[Tensor, "b 3 h w"]) -> list[Hashable]:
    """Return a key for each view: two hashes of its pixels, its size, and the precision.

    Hashes are sums of 16-bit words, each times a random 64-bit number, modulo 2^64 (Carter and
    Wegman, Universal classes of hash functions, 1979). Words of two different views differ by
    less than 2^16. One hash is then equal with a probability of at most 2^-48, both with 2^-96.
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
