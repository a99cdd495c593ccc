"""Training of a backbone by a recipe."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.io.files import make_folder
from prob3r.models import DUSt3R, PosedDUSt3R, load, save
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

    Returns:
        The path of the best weights.

    Raises:
        Prob3rError: The folder holds another run's state, or the loss is not finite.
    """
    task = _BackboneTask(recipe, folder, torch.device(device))
    run(task, folder, seconds, report)
    return task.path


class _BackboneTask(Task):
    def __init__(self, recipe: Recipe, folder: Path, device: torch.device):
        self.recipe, self.device = recipe, device
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
        self.module: CrossViewCompletion = CrossViewCompletion(self.model).to(device)
        self.optimizers = optimizers(self.module, recipe)
        blocks = (*self.model.enc_blocks, *self.model.dec_blocks, *self.model.dec_blocks2)
        # Each block is compiled for each of its shapes, and they share one limit.
        torch._dynamo.config.recompile_limit = 8 * len(blocks)
        for block in blocks:
            # Shapes are few and fixed; and kernels for changing ones gave NaN here.
            block.compile(dynamic=False)

    def begin(self, number: int) -> None:
        self.number, self.stage = number, self.stages[number]
        self.stream = Stream(self.stage, self.recipe.seed * len(self.stages) + number, self.device)
        self.validation: Validation | None = None
        if self.stage.objective == "pointmaps":
            pairs = self.recipe.validation_pairs
            self.validation = Validation(self.stage.size, pairs, self.device)

    def losses(self, step: int) -> Iterator[Tensor]:
        yield self._loss(step)

    def _loss(self, step: int) -> Tensor:
        pair = self.stream.batch(step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            if self.stage.objective == "completion":
                generator = torch.Generator().manual_seed(self.recipe.seed * 2**26 + step)
                return self.module(pair, generator)
            model, stage = self.model, self.stage
            encoded1, encoded2 = model.encode_pair(pair.view1.image, pair.view2.image)
            loss = torch.zeros((), device=self.device)
            if stage.objective == "pointmaps":
                states1, states2 = model.decode(encoded1, encoded2)
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
