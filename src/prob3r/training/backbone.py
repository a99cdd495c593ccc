"""Training of a backbone by a recipe."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.io.files import make_folder
from prob3r.models import DUSt3R, PosedDUSt3R, load, save
from prob3r.models.layers import Tokens
from prob3r.models.sites import Tap
from prob3r.scenes.views import Pair
from prob3r.training.attention import DirectAttention
from prob3r.training.loop import Progress, Task, run
from prob3r.training.objectives import CrossViewCompletion, matching_loss, pointmap_loss, posed_loss
from prob3r.training.optim import optimizers
from prob3r.training.processes import Processes
from prob3r.training.recipe import Recipe
from prob3r.training.stream import Stream
from prob3r.training.validation import Validation

CLIP = 1.0  # largest norm of the gradient


def train_backbone(
    recipe: Recipe,
    folder: Path,
    device: torch.device | str = "cpu",
    seconds: float = math.inf,
    report: Callable[[Progress], None] = lambda progress: None,
    photographs: Path | None = None,
    real: Path | None = None,
) -> Path:
    """Train a backbone by a recipe, or go on with a run that was stopped at any moment.

    Args:
        recipe: What to train and how.
        folder: Holds the run's state and log, and `NAME.safetensors`, the best weights so far by
            view 2's pointmap error on validation at the recipe's last image size; and, where the
            recipe keeps them, `kept/NAME-STAGE-PAIRS.safetensors`.
        device: Where to train; on a GPU the products are in bfloat16.
        seconds: Stop, with the state saved, after this long.
        report: Called after every stretch of steps.
        photographs: A folder of photographs for the surfaces of everyday rooms.
        real: A folder of folders with real pairs whose poses are known, to validate on too.

    Returns:
        The path of the best weights.

    Raises:
        Prob3rError: The folder holds another run's state, or the loss is not finite.
    """
    task = _BackboneTask(recipe, folder, torch.device(device), photographs, real)
    run(task, folder, seconds, report)
    return task.path


class _BackboneTask(Task):
    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        device: torch.device,
        photographs: Path | None = None,
        real: Path | None = None,
    ):
        self.recipe, self.device = recipe, device
        self.photographs, self.real = photographs, real
        self.bf16 = recipe.bf16 or device.type == "cuda"
        self.tap = DirectAttention() if self.bf16 and device.type == "cpu" else Tap()
        self.processes = Processes(device=device)
        self.path = folder / f"{recipe.name}.safetensors"
        self.identity = f"{recipe.name}, seed {recipe.seed}, {recipe.model}"
        self.stages = recipe.stages
        self.validate_every = recipe.validate_every
        self.keep_every = recipe.keep_every
        torch.manual_seed(recipe.seed)
        self.model = _fresh(recipe).to(device)
        if recipe.tied_start:
            _tie(self.model)
        self.module: CrossViewCompletion = CrossViewCompletion(self.model, tap=self.tap).to(device)
        self.optimizers = optimizers(self.module, recipe)
        blocks = (*self.model.enc_blocks, *self.model.dec_blocks, *self.model.dec_blocks2)
        # Each block is compiled for each of its shapes, and they share one limit.
        torch._dynamo.config.recompile_limit = 8 * len(blocks)
        for block in blocks:
            # Shapes are few and fixed; and kernels for changing ones gave NaN here.
            block.compile(dynamic=False)

    def begin(self, number: int) -> None:
        self.number, self.stage = number, self.stages[number]
        seed = self.recipe.seed * len(self.stages) + number
        self.stream = Stream(self.stage, seed, self.device, photographs=self.photographs)
        self.validation: Validation | None = None
        if self.stage.objective == "pointmaps":
            pairs = self.recipe.validation_pairs
            self.validation = Validation(
                self.stage.size,
                pairs,
                self.device,
                photographs=self.photographs,
                everyday=self.stage.everyday > 0,
                real=self.real,
            )

    def losses(self, step: int) -> Iterator[Tensor]:
        pair, parts = self.stream.batch(step), self.stage.parts
        for i in range(parts):
            # In a symmetric stage a part takes the same pairs from both halves.
            part = pair if parts == 1 else pair[self._rows(i, len(pair) // parts)]
            yield self._loss(part, step * parts + i) / parts

    def _rows(self, part: int, count: int) -> list[int]:
        if not self.stage.symmetric:
            return list(range(part * count, (part + 1) * count))
        first, half = part * count // 2, self.stage.batch // 2
        rows = list(range(first, first + count // 2))
        return rows + [half + row for row in rows]

    def _loss(self, pair: Pair, seed: int) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            if self.stage.objective == "completion":
                generator = torch.Generator().manual_seed(self.recipe.seed * 2**26 + seed)
                return self.module(pair, generator)
            model, stage = self.model, self.stage
            encoded1, encoded2 = self._encode(pair)
            loss = torch.zeros((), device=self.device)
            if stage.objective == "pointmaps":
                states1, states2 = model.decode(encoded1, encoded2, self.tap)
                output = model.read(states1, states2, encoded1.grid, encoded2.grid)
                if isinstance(model, PosedDUSt3R):
                    loss = posed_loss(output, model.pose(states2), pair)
                else:
                    loss = pointmap_loss(output, pair)
            weight = 1.0 if stage.objective == "matching" else stage.matching
            if weight:
                patch = model.config.patch
                loss = loss + weight * matching_loss(encoded1.stream, encoded2.stream, pair, patch)
            return loss

    def _encode(self, pair: Pair) -> tuple[Tokens, Tokens]:
        """Return the encoder's output for both views; each picture of a batch is encoded once."""
        one, two = pair.view1.image, pair.view2.image
        if self.stage.symmetric:  # the second half is the first with its views exchanged
            half = len(pair) // 2
            both = self._encoded(torch.cat((one[:half], two[:half])))
            exchanged = torch.cat(both.stream.chunk(2)[::-1])
            return both, Tokens(exchanged, both.grid)
        both = self._encoded(torch.cat((one, two)))
        first, second = both.stream.chunk(2)
        return Tokens(first, both.grid), Tokens(second, both.grid)

    def _encoded(self, images: Tensor) -> Tokens:
        stream, grid = self.model.encoder_stream(images, self.tap)
        return Tokens(self.model.enc_norm(stream), grid)

    def clip(self) -> None:
        nn.utils.clip_grad_norm_(self.module.parameters(), CLIP)

    def measure(self) -> dict[str, float]:
        return self.validation.measure(self.model) if self.validation else {}

    def score(self, metrics: dict[str, float]) -> float:
        # Errors at different image sizes don't compare; the last size is the one that ships.
        final = self.stage.size == self.stages[-1].size
        return metrics["pointmap_error2"] if metrics and final else math.inf

    def save(self, metrics: dict[str, float]) -> None:
        save(self.model, self.path, {"name": self.recipe.name, "validation": metrics})

    def keep(self, number: int, pairs: int) -> None:
        kept = self.path.parent / "kept"
        make_folder(kept)
        name = f"{self.recipe.name}-{number}-{pairs}"
        save(self.model, kept / f"{name}.safetensors", {"name": name})

    def end(self, number: int) -> None:
        if self.stage.objective == "completion":
            # As in DUSt3R, both decoders start from the one that learned to complete.
            self.model.dec_blocks2.load_state_dict(self.model.dec_blocks.state_dict())


def _fresh(recipe: Recipe) -> DUSt3R:
    """Return the model that a recipe starts from.

    Raises:
        Prob3rError: It is to start from a model of another shape.
    """
    model = (PosedDUSt3R if recipe.posed else DUSt3R)(recipe.model)
    if not recipe.start:
        return model
    start = load(recipe.start)
    if not isinstance(start, DUSt3R) or start.config != recipe.model:
        raise Prob3rError(
            f"The recipe {recipe.name} starts from '{recipe.start}', which has another shape; give "
            "both the same [model]."
        )
    if recipe.posed and not isinstance(start, PosedDUSt3R):
        start = PosedDUSt3R.from_twin(start)
    model.load_state_dict(start.state_dict())
    return model


def _tie(model: DUSt3R) -> None:
    """Start cross-attention with keys equal to queries, so that like patches attend to like."""
    for block in (*model.dec_blocks, *model.dec_blocks2):
        block.get_submodule("cross_attn.projk").load_state_dict(
            block.get_submodule("cross_attn.projq").state_dict()
        )
        block.get_submodule("norm_y").load_state_dict(block.get_submodule("norm2").state_dict())
