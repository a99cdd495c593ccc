"""Training of a backbone by a recipe."""

import math
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.io.files import make_folder
from prob3r.models import MultiViewModel, load, save
from prob3r.models.architectures import ARCHITECTURES
from prob3r.models.completion import with_completion
from prob3r.models.layers import DecoderBlock, EncoderBlock, ViewsBlock
from prob3r.models.sites import Tap
from prob3r.models.start import start_from
from prob3r.runs.precision import has_bfloat16
from prob3r.training.attention import DirectAttention, OthersFirst
from prob3r.training.loop import Progress, Task, run
from prob3r.training.many_views import ManyViews
from prob3r.training.objectives import Objective
from prob3r.training.optim import optimizers
from prob3r.training.pairs import Completion, Pointmaps
from prob3r.training.processes import Processes
from prob3r.training.recipe import Recipe, Stage
from prob3r.training.stream import Stream, ViewsStream
from prob3r.training.validation import Validation
from prob3r.training.views_validation import ViewsValidation

CLIP = 1.0  # largest norm of the gradient

OBJECTIVES: dict[str, type[Objective]] = {
    "completion": Completion,
    "pointmaps": Pointmaps,
    "many-views": ManyViews,
}
"""The objectives of stages, by their names in recipes."""


def train_backbone(
    recipe: Recipe,
    folder: Path,
    device: torch.device | str = "cpu",
    seconds: float = math.inf,
    report: Callable[[Progress], None] = lambda progress: None,
    photographs: Path | None = None,
    real: Path | None = None,
    processes: Processes | None = None,
) -> Path:
    """Train a backbone by a recipe, or continue a run that was stopped at any moment.

    Several processes share each batch. They end with the same weights as one process, except for
    rounding.

    Args:
        recipe: What to train, and how.
        folder: The folder of the run's state and log, and of `NAME.safetensors`: the weights with
            the lowest pointmap error of view 2 on validation at the recipe's last image size.
            Weights that the recipe keeps are in `kept/NAME-STAGE-PAIRS.safetensors`.
        device: Where to train. On a GPU that supports bfloat16, matrix products are in bfloat16.
        seconds: Save the state and stop after this time.
        report: Called with the progress, once every few steps.
        photographs: A folder of photographs for the surfaces of everyday rooms.
        real: A folder of folders with real pairs whose poses are known, for validation too.
        processes: The processes that train together, each on its own device. The default is this
            process alone.

    Returns:
        The path of the best weights.

    Raises:
        Prob3rError: The recipe does not fit its architecture, its start or the processes; the
            folder holds another run's state; or the loss is not finite.
    """
    processes = processes or Processes(device=torch.device(device))
    task = _BackboneTask(recipe, folder, processes, photographs, real)
    run(task, folder, seconds, report)
    return task.path


class _BackboneTask(Task):
    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        processes: Processes,
        photographs: Path | None = None,
        real: Path | None = None,
    ):
        device = processes.device
        self.recipe, self.device, self.processes = recipe, device, processes
        self.photographs, self.real = photographs, real
        wanted = recipe.bf16 or device.type == "cuda"
        self.bf16 = wanted and has_bfloat16(device)
        self.tap = DirectAttention() if self.bf16 and device.type == "cpu" else Tap()
        self.path = folder / f"{recipe.name}.safetensors"
        self.identity = f"{recipe.name}, seed {recipe.seed}, {recipe.model}"
        self.stages = recipe.stages
        self.validate_every = recipe.validate_every
        self.keep_every = recipe.keep_every
        torch.manual_seed(recipe.seed)
        self.model = start_of(recipe).to(device)
        self.module = with_completion(self.model, self.tap).to(device)
        for pattern in {pattern for stage in self.stages for pattern in stage.learns}:
            if not any(fnmatchcase(name, pattern) for name, _ in self.module.named_parameters()):
                raise Prob3rError(
                    f"The recipe {recipe.name} has a stage that learns '{pattern}', which matches "
                    f"no parameter of the architecture {recipe.architecture}."
                )
        joint = any("global_attn" in block for block in self.model.stacks["dec"].sublayers)
        if any(any(stage.own_penalty) for stage in self.stages) and not joint:
            raise Prob3rError(
                f"The recipe {recipe.name} has an own_penalty; it is for architectures whose views "
                f"attend jointly, and those of {recipe.architecture} do not."
            )
        for stage in self.stages:
            self._check_sharing(stage)
        for name in {stage.objective for stage in self.stages}:
            if not OBJECTIVES[name].trains(self.module):
                raise Prob3rError(
                    f"The recipe {recipe.name} has the objective {name}, which the architecture "
                    f"{recipe.architecture} cannot be trained for."
                )
        self.optimizers = optimizers(self.module, recipe, self.bf16)
        blocks = [
            module
            for module in self.model.modules()
            if isinstance(module, EncoderBlock | DecoderBlock | ViewsBlock)
        ]
        # Each block is compiled for each of its shapes, and they share one limit.
        torch._dynamo.config.recompile_limit = 8 * len(blocks)
        for block in blocks:
            # Shapes are few and fixed, and kernels for dynamic shapes gave NaN here.
            block.compile(dynamic=False)

    def begin(self, number: int) -> None:
        self.number, self.stage = number, self.stages[number]
        seed = self.recipe.seed * len(self.stages) + number
        kind = OBJECTIVES[self.stage.objective]
        stream = ViewsStream if kind.many_views else Stream
        self.stream = stream(self.stage, seed, self.device, photographs=self.photographs)
        for name, parameter in self.module.named_parameters():
            learns = any(fnmatchcase(name, pattern) for pattern in self.stage.learns)
            parameter.requires_grad_(learns)
        tap = self.tap
        if any(self.stage.own_penalty):
            tap = OthersFirst(self.model.stacks["dec"].layout(1))
        self.objective = kind(self.module, self.stage, self.recipe.seed, tap)
        self.validation: Validation | ViewsValidation | None = None
        size, count = self.stage.size, self.recipe.validation_pairs
        if kind.validated and kind.many_views:
            self.validation = ViewsValidation(
                size,
                count // 2,
                self.device,
                photographs=self.photographs,
                everyday=self.stage.everyday > 0,
            )
        elif kind.validated:
            self.validation = Validation(
                size,
                count,
                self.device,
                photographs=self.photographs,
                everyday=self.stage.everyday > 0,
                real=self.real,
            )

    def _check_sharing(self, stage: Stage) -> None:
        """Raise Prob3rError if the processes cannot share a step of the stage in equal parts."""
        count, parts = self.processes.count, stage.parts * self.processes.count
        whole = all(2 * stage.batch // views % parts == 0 for views in stage.views)
        if not whole or (stage.symmetric and stage.batch // parts % 2):
            raise Prob3rError(
                f"A step of {stage.batch} pairs cannot be shared by {count} processes in "
                f"{stage.parts} parts each; change the recipe's batch or parts."
            )

    def losses(self, step: int) -> Iterator[Tensor]:
        scenes, parts = self.stream.batch(step), self.stage.parts * self.processes.count
        if isinstance(self.objective.tap, OthersFirst):
            self.objective.tap.penalty = self.stage.own_penalty_at(step)
        for i in range(self.processes.rank, parts, self.processes.count):
            # In a symmetric stage a part takes the same pairs from both halves.
            part = scenes if parts == 1 else scenes[self._rows(i, len(scenes) // parts)]
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                loss = self.objective.loss(part, step * parts + i)
            yield loss / parts

    def _rows(self, part: int, count: int) -> list[int]:
        if not self.stage.symmetric:
            return list(range(part * count, (part + 1) * count))
        first, half = part * count // 2, self.stage.batch // 2
        rows = list(range(first, first + count // 2))
        return rows + [half + row for row in rows]

    def clip(self) -> None:
        nn.utils.clip_grad_norm_(self.module.parameters(), CLIP)

    def measure(self) -> dict[str, float]:
        return self.validation.measure(self.model) if self.validation else {}

    def score(self, metrics: dict[str, float]) -> float:
        # Errors at different image sizes cannot be compared, so only those at the last size count.
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
        self.objective.end()


def start_of(recipe: Recipe) -> MultiViewModel:
    """Return the model that a recipe starts from, with random weights or those of `recipe.start`.

    Raises:
        Prob3rError: The model of `recipe.start` does not fit; see `prob3r.models.start`.
    """
    model = ARCHITECTURES[recipe.architecture](recipe.model)
    if recipe.start:
        start = load(recipe.start)
        try:
            start_from(start, model)
        except Prob3rError as error:
            raise Prob3rError(
                f"The recipe {recipe.name} cannot start from '{recipe.start}'. {error}"
            ) from error
    return model
