"""A training run: stages one after the other, validated, checkpointed, resumable."""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prob3r.data.pair import Pair
from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R
from prob3r.models.checkpoints import save
from prob3r.training.objectives import CrossViewCompletion, matching_loss, pointmap_loss
from prob3r.training.optim import optimizers
from prob3r.training.recipe import Recipe, Stage
from prob3r.training.stream import Stream
from prob3r.training.validation import Validation

logger = logging.getLogger(__name__)

CLIP = 1.0  # largest norm of the gradient
CHECKPOINT_SECONDS = 120.0


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        stage: Number of the stage, from 0.
        pairs: Pairs seen in this stage.
        of_pairs: The stage's length.
        pairs_per_second: Of the last stretch, without validation.
        loss: Mean training loss of the last stretch.
        metrics: Of the last validation; empty before the first.
    """

    stage: int
    pairs: int
    of_pairs: int
    pairs_per_second: float
    loss: float
    metrics: dict[str, float] = field(default_factory=dict)


def train(
    recipe: Recipe,
    folder: Path,
    device: torch.device | str = "cpu",
    seconds: float = math.inf,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Train a backbone by a recipe, or go on with a run that was stopped at any moment.

    Args:
        recipe: What to train and how.
        folder: Holds `state.pt` (to go on from), `log.jsonl` (a line a validation) and
            `NAME.safetensors`, the best weights so far by view 2's pointmap error on validation.
        device: Where to train; on a GPU blocks run in bfloat16.
        seconds: Stop, with the state saved, after this long.
        report: Called after every stretch of steps.

    Returns:
        The path of the best weights.

    Raises:
        Prob3rError: The folder holds the state of another recipe, or the loss is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(recipe, folder, torch.device(device))
    started = time.monotonic()
    for progress in run.steps():
        report(progress)
        if time.monotonic() - started > seconds:
            run.checkpoint()
            break
    return run.best_path


class _Run:
    """The state of a run, and the loop that moves it on."""

    def __init__(self, recipe: Recipe, folder: Path, device: torch.device):
        self.recipe, self.folder, self.device = recipe, folder, device
        torch.manual_seed(recipe.seed)
        self.model = DUSt3R(recipe.model).to(device)
        if recipe.tied_start:
            _tie(self.model)
        self.completion = CrossViewCompletion(self.model).to(device)
        self.optimizers = optimizers(self.completion, recipe)
        self.stage, self.step, self.best = 0, 0, math.inf
        self.best_path = folder / f"{recipe.name}.safetensors"
        self._restore()
        for block in (*self.model.enc_blocks, *self.model.dec_blocks, *self.model.dec_blocks2):
            block.compile(dynamic=False)

    def steps(self) -> Iterator[Progress]:
        """Run the stages that are left, giving word after every stretch of about 1024 pairs."""
        while self.stage < len(self.recipe.stages):
            yield from self._run_stage(self.recipe.stages[self.stage])
            if self.recipe.stages[self.stage].objective == "completion":
                self.model.dec_blocks2.load_state_dict(self.model.dec_blocks.state_dict())
            self.stage, self.step = self.stage + 1, 0
            self.checkpoint()

    def _run_stage(self, stage: Stage) -> Iterator[Progress]:
        stream = Stream(stage, self.recipe.seed * 4 + self.stage, self.device)
        validation: Validation | None = None
        if stage.objective == "pointmaps":
            validation = Validation(stage.size, self.recipe.validation_pairs, self.device)
        stretch = max(1, 1024 // stage.batch)
        every = max(1, self.recipe.validate_every // stage.batch // stretch) * stretch
        metrics: dict[str, float] = {}
        saved = time.monotonic()
        while self.step < stage.steps:
            started, losses = time.monotonic(), []
            for _ in range(min(stretch, stage.steps - self.step)):
                losses.append(self._update(stage, stream.batch(self.step)))
                self.step += 1
            loss = torch.stack(losses).mean().item()
            if not math.isfinite(loss):
                raise Prob3rError(
                    f"The loss of {self.folder} is not finite at step {self.step} of stage "
                    f"{self.stage}; lower the learning rate and go on from the last state."
                )
            speed = len(losses) * stage.batch / (time.monotonic() - started)
            done = self.step == stage.steps
            if self.step % every == 0 or done:
                metrics = validation.measure(self.model) if validation else {}
                self._log(stage, loss, speed, metrics)
                self._keep_best(metrics)
            if done or time.monotonic() - saved > CHECKPOINT_SECONDS:
                self.checkpoint()
                saved = time.monotonic()
            yield Progress(
                self.stage, self.step * stage.batch, stage.steps * stage.batch, speed, loss, metrics
            )

    def _update(self, stage: Stage, pair: Pair) -> Tensor:
        """Take one optimizer step and return its loss."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = stage.lr_at(self.step)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"
        ):
            loss = self._loss(stage, pair)
        loss.backward()
        nn.utils.clip_grad_norm_(self.completion.parameters(), CLIP)
        for optimizer in self.optimizers:
            optimizer.step()
        return loss.detach()

    def _loss(self, stage: Stage, pair: Pair) -> Tensor:
        if stage.objective == "completion":
            generator = torch.Generator().manual_seed(self.recipe.seed * 2**26 + self.step)
            return self.completion(pair, generator)
        model = self.model
        encoded1, encoded2 = model.encode_pair(pair.view1.image, pair.view2.image)
        states1, states2 = model.decode(encoded1, encoded2)
        loss = pointmap_loss(model.read(states1, states2, encoded1.grid, encoded2.grid), pair)
        if stage.matching:
            loss = loss + stage.matching * matching_loss(
                encoded1.stream, encoded2.stream, pair, model.config.patch
            )
        return loss

    def _log(self, stage: Stage, loss: float, speed: float, metrics: dict[str, float]) -> None:
        line = {"stage": self.stage, "objective": stage.objective, "size": stage.size}
        line |= {"pairs": self.step * stage.batch, "loss": loss, "pairs_per_second": speed}
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line | metrics) + "\n")

    def _keep_best(self, metrics: dict[str, float]) -> None:
        error = metrics.get("pointmap_error2", math.inf)
        last_size = self.recipe.stages[-1].size
        if self.recipe.stages[self.stage].size == last_size and error < self.best:
            self.best = error
            save(self.model, self.best_path, {"name": self.recipe.name, "validation": metrics})

    def checkpoint(self) -> None:
        """Write all that a later process needs to go on exactly from here."""
        state = {
            "recipe": repr(self.recipe),
            "stage": self.stage,
            "step": self.step,
            "best": self.best,
            "model": self.completion.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
        }
        temporary = self.folder / "state.pt.new"
        torch.save(state, temporary)
        os.replace(temporary, self.folder / "state.pt")

    def _restore(self) -> None:
        path = self.folder / "state.pt"
        if not path.exists():
            return
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        if state["recipe"] != repr(self.recipe):
            raise Prob3rError(
                f"{path} was written by another recipe; give a new folder or the recipe it was "
                "begun with."
            )
        self.stage, self.step, self.best = state["stage"], state["step"], state["best"]
        self.completion.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        logger.info("Going on from %s: stage %d, step %d", path, self.stage, self.step)


def _tie(model: DUSt3R) -> None:
    """Start cross-attention with keys equal to queries, so that like patches attend to like."""
    for block in (*model.dec_blocks, *model.dec_blocks2):
        block.cross_attn.projk.load_state_dict(block.cross_attn.projq.state_dict())
        block.norm_y.load_state_dict(block.norm2.state_dict())
