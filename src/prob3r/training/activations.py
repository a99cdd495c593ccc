"""Activations of a model on disk: tokens of residual sites in shards, and batches drawn from them.

    FOLDER/shards.json          what was recorded
    FOLDER/00000.safetensors    the tokens `(n, d)` of some scenes at each site

A shard is written whole or not at all, so that a stopped recording can continue. Tensors are
float16, or float32 if a value is too large for float16.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.io.files import make_folder, writing_to
from prob3r.models import Model, fingerprint, read_tensors, write_tensors
from prob3r.probes.dictionary import sites_of
from prob3r.runs.encoded import reusing_views
from prob3r.runs.trace import trace
from prob3r.scenes.source import Scenes, Subset, batches, describe
from prob3r.scenes.views import Views

SCENES = 128  # of one shard; at most one of them may be corrupt
BATCH = 16
POOL = 2**18  # tokens that are shuffled together, at most


@dataclass(frozen=True)
class Recorded:
    """What is recorded in a folder.

    Attributes:
        model: The fingerprint of the model.
        sites: The patterns of the residual sites. The tokens of all sites of a pattern are stored
            together.
        data: The name of the scenes.
        sample: How they were chosen, in words.
        scenes: Number of scenes.
        views: Number of views of each scene.
        special: Whether special tokens are recorded too.
    """

    model: str
    sites: tuple[str, ...]
    data: str
    sample: str
    scenes: int
    views: int
    special: bool = False

    @property
    def words(self) -> str:
        """What a dictionary was trained on, in words."""
        return f"{self.scenes} scenes of {self.views} views of {self.data}"


def record(
    model: Model,
    scenes: Scenes[Views],
    sites: Sequence[str],
    folder: Path,
    *,
    data: str,
    special: bool = False,
    report: Callable[[float], None] = lambda share: None,
) -> "Shards":
    """Record the tokens of some sites over all given scenes, or continue a stopped recording.

    Args:
        model: The model.
        scenes: Scenes of one number of views.
        sites: Patterns of residual sites, each of one width.
        folder: The folder to write to.
        data: Name of the scenes.
        special: Whether to record special tokens too.
        report: Called with the share of the scenes that is done.

    Raises:
        Prob3rError: A pattern matches no site, or streams of several widths; or the folder holds
            activations of something else.
    """
    views = scenes.batch([0]).count
    matched = {pattern: sites_of(model, pattern, views) for pattern in sites}
    about = Recorded(
        fingerprint(model), tuple(sites), data, describe(scenes), len(scenes), views, special
    )
    make_folder(folder)
    _claim(folder / "shards.json", about)
    wanted = [site for names in matched.values() for site in names]
    device = next(model.parameters()).device
    with reusing_views(scenes, model):
        for number, first in enumerate(range(0, len(scenes), SCENES)):
            path = folder / f"{number:05d}.safetensors"
            part = Subset(scenes, range(first, min(first + SCENES, len(scenes))))
            if not path.exists():
                found: dict[str, list[Tensor]] = {pattern: [] for pattern in sites}
                done = 0
                for batch in batches(part, len(part), BATCH):
                    run = trace(model, batch.to(device), wanted, output=False)
                    for pattern, names in matched.items():
                        # The tokens of one scene stand together, view after view.
                        parts = [run[s] if special else run[s].patches for s in names]
                        tokens = torch.cat([torch.Tensor(t) for t in parts], 1)
                        found[pattern].append(tokens.flatten(0, 1).float().cpu())
                    done += len(batch)
                    report((first + done) / len(scenes))
                write_tensors(path, {p: _small(torch.cat(t)) for p, t in found.items()}, {})
            report((first + len(part)) / len(scenes))
    return Shards(folder)


class Shards:
    """The activations in a folder.

    Args:
        folder: The folder.

    Attributes:
        about: What is recorded there.

    Raises:
        Prob3rError: The folder holds no activations, or not all of them.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.about = _about(folder / "shards.json")
        self.paths = sorted(folder.glob("[0-9]*.safetensors"))
        if len(self.paths) != -(-self.about.scenes // SCENES):
            raise Prob3rError(
                f"{folder} holds {len(self.paths)} of {-(-self.about.scenes // SCENES)} shards; "
                "record the rest with the command that began them."
            )

    def sizes(self, pattern: str) -> list[int]:
        """Return how many tokens of a pattern's sites each shard holds."""
        sizes = []
        for path in self.paths:
            with safe_open(path, "pt") as file:
                sizes.append(file.get_slice(pattern).get_shape()[0])
        return sizes

    def tokens(self, pattern: str, number: int) -> Float[Tensor, "n d"]:
        """Return the tokens of one shard, in single precision."""
        return read_tensors(self.paths[number])[0][pattern].float()

    def moments(self, pattern: str) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
        """Return the mean and the covariance of all tokens of a pattern's sites."""
        count, total, products = 0, torch.zeros(()), torch.zeros(())
        for number in range(len(self.paths)):
            tokens = self.tokens(pattern, number).double()
            count += len(tokens)
            total = total + tokens.sum(0)
            products = products + tokens.T @ tokens
        mean = total / count
        return mean.float(), (products / count - torch.outer(mean, mean)).float()


class TokenStream:
    """Batches of tokens in random order, epoch after epoch.

    A batch depends on the seed and its step alone, so a resumed run sees the same batches as a run
    without a stop. A few shards at a time are shuffled together.

    Args:
        shards: The activations.
        pattern: The pattern of sites whose tokens are drawn.
        batch: Number of tokens of a batch.
        seed: Seed of the order.
        device: Where the batches are.
        pool: The most tokens that are shuffled together; a single shard may hold more.

    Raises:
        Prob3rError: There are fewer tokens than one batch.
    """

    def __init__(
        self,
        shards: Shards,
        pattern: str,
        batch: int,
        seed: int,
        device: torch.device | str = "cpu",
        pool: int = POOL,
    ):
        self.shards, self.pattern, self.size, self.seed = shards, pattern, batch, seed
        self.device, self.pool = device, pool
        self.sizes = shards.sizes(pattern)
        if sum(self.sizes) < batch:
            raise Prob3rError(
                f"There are {sum(self.sizes)} tokens of '{pattern}', fewer than a batch of {batch};"
                " record more scenes."
            )
        self._plan = self._epochs()
        self._groups: list[tuple[int, int, list[int]]] = []  # first step, steps, shards
        self._held: tuple[int, Tensor] | None = None

    def batch(self, step: int) -> Float[Tensor, "n d"]:
        """Return the batch of a step; if steps are in order, each shard is read once an epoch."""
        while not self._groups or step >= self._groups[-1][0] + self._groups[-1][1]:
            first = self._groups[-1][0] + self._groups[-1][1] if self._groups else 0
            self._groups.append((first, *next(self._plan)))
        number = next(i for i, (first, n, _) in enumerate(self._groups) if step < first + n)
        first, _, shards = self._groups[number]
        if self._held is None or self._held[0] != number:
            tokens = torch.cat([self.shards.tokens(self.pattern, shard) for shard in shards])
            order = torch.randperm(len(tokens), generator=self._generator(number, 1))
            self._held = number, tokens[order].to(self.device)
        start = (step - first) * self.size
        return self._held[1][start : start + self.size]

    def _epochs(self) -> Iterator[tuple[int, list[int]]]:
        """Yield the steps and the shards of every group of shards that is shuffled together."""
        epoch = 0
        while True:
            order = torch.randperm(len(self.sizes), generator=self._generator(epoch, 0)).tolist()
            group: list[int] = []
            held = 0
            for place, shard in enumerate(order):
                group.append(shard)
                held += self.sizes[shard]
                after = self.sizes[order[place + 1]] if place + 1 < len(order) else self.pool
                # A group with less than one batch takes the next shard, whatever its size.
                if (held + after > self.pool and held >= self.size) or place + 1 == len(order):
                    if held >= self.size:
                        yield held // self.size, group
                    group, held = [], 0
            epoch += 1

    def _generator(self, number: int, kind: int) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed * 2**32 + 2 * number + kind)


def _small(tokens: Float[Tensor, "n d"]) -> Tensor:
    """Return tokens in half precision if none of them is too large for it."""
    half = tokens.half()
    return half if half.isfinite().all() else tokens


def _claim(path: Path, about: Recorded) -> None:
    """Write what a folder holds, or raise Prob3rError if it holds something else."""
    if path.exists():
        if (found := _about(path)) != about:
            differs = next(k for k, v in asdict(about).items() if getattr(found, k) != v)
            raise Prob3rError(
                f"{path.parent} holds activations that differ in their {differs}; give a new "
                "folder."
            )
        return
    with writing_to(path) as temporary:
        temporary.write_text(json.dumps(asdict(about), indent=1), encoding="utf-8")


def _about(path: Path) -> Recorded:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Recorded(**{**found, "sites": tuple(found["sites"])})
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise Prob3rError(
            f"{path.parent} holds no activations; record them with `prob3r dictionary train`."
        ) from error
