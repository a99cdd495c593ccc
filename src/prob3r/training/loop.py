"""The training loop: stages in order, with validation, and checkpoints that a run resumes from."""

import json
import math
import time
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.io.files import alone_in, make_folder, writing_to
from prob3r.training.processes import Processes
from prob3r.training.recipe import Stage

CHECKPOINT_SECONDS = 120.0
STRETCH = 1024  # pairs between two reports of progress, roughly

_KEYS = {"identity", "stage", "step", "best", "log", "model", "optimizers"}


@dataclass(frozen=True)
class Progress:
    """The progress of a run at one report.

    Attributes:
        stage: Number of the stage, from 0.
        pairs: Pairs seen in this stage.
        of_pairs: Pairs of the whole stage.
        pairs_per_second: Speed since the last report, without validation.
        loss: Mean training loss since the last report.
        metrics: Metrics of the stage's last validation; empty before its first.
    """

    stage: int
    pairs: int
    of_pairs: int
    pairs_per_second: float
    loss: float
    metrics: dict[str, float] = field(default_factory=dict)


class Task(ABC):
    """A training that the loop runs.

    Attributes:
        identity: A state is resumed only by a task of the same identity.
        stages: The stages, in order.
        validate_every: Pairs between validations.
        keep_every: Pairs between copies of the weights that are kept; 0 for none.
        module: Everything that is learned.
        optimizers: The optimizers. The loop sets the learning rate of each group before every step.
        processes: The processes that train together; all of them run the same task.
    """

    identity: str
    stages: tuple[Stage, ...]
    validate_every: int
    keep_every: int = 0
    module: nn.Module
    optimizers: list[torch.optim.Optimizer]
    processes: Processes = Processes()

    @abstractmethod
    def begin(self, number: int) -> None:
        """Prepare a stage."""

    @abstractmethod
    def losses(self, step: int) -> Iterator[Tensor]:
        """Yield the parts of the loss of a step, in the stage that was begun last.

        The sum of the parts of all processes is the loss of the step.
        """

    @abstractmethod
    def clip(self) -> None:
        """Clip the gradients."""

    @abstractmethod
    def measure(self) -> dict[str, float]:
        """Return the metrics of a validation; empty if the stage has no validation."""

    @abstractmethod
    def score(self, metrics: dict[str, float]) -> float:
        """Return the number that is least for the best weights; infinite if these do not count."""

    @abstractmethod
    def save(self, metrics: dict[str, float]) -> None:
        """Write the weights as they are now, which are the best so far."""

    def end(self, number: int) -> None:  # noqa: B027 - most tasks have nothing to do here
        """Finish a stage."""

    def keep(self, number: int, pairs: int) -> None:  # noqa: B027 - for tasks with `keep_every`
        """Write the weights after so many pairs of a stage to a file of their own."""


def run(
    task: Task,
    folder: Path,
    seconds: float = math.inf,
    report: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Train, or continue a run that was stopped at any moment.

    Args:
        task: What to train.
        folder: The folder of `state.pt`, from which a run continues, and of `log.jsonl`, which has
            a line for each validation.
        seconds: Save the state and stop after this time.
        report: Called with the progress, once every few steps.

    Raises:
        Prob3rError: The folder cannot be made or written to, another process trains in it, or it
            holds another task's state or a damaged one; or the loss is not finite.
    """
    make_folder(folder)
    with alone_in(folder) if task.processes.first else nullcontext():
        loop = _Loop(task, folder)
        started = time.monotonic()
        for progress in loop.stretches():
            report(progress)
            if task.processes.any(time.monotonic() - started > seconds):
                loop.checkpoint()
                break
        task.processes.wait()


class _Loop:
    """The state of a run outside its task: its stage and step, its best score and its log."""

    def __init__(self, task: Task, folder: Path):
        self.task, self.folder = task, folder
        self.stage, self.step, self.best = 0, 0, math.inf
        self.log: list[dict[str, Any]] = []
        self._restore()

    def stretches(self) -> Iterator[Progress]:
        """Run the remaining stages, and yield the progress after every stretch of steps."""
        while self.stage < len(self.task.stages):
            self.task.begin(self.stage)
            yield from self._run_stage(self.task.stages[self.stage])
            self.task.end(self.stage)
            self.stage, self.step = self.stage + 1, 0
            self.checkpoint()

    def _run_stage(self, stage: Stage) -> Iterator[Progress]:
        stretch = max(1, STRETCH // stage.batch)
        every = max(stretch, self.task.validate_every // stage.batch)
        keep = max(stretch, self.task.keep_every // stage.batch)
        metrics: dict[str, float] = {}
        saved = time.monotonic()
        while self.step < stage.steps:
            started, before, losses = time.monotonic(), self.step, []
            for _ in range(min(stretch, stage.steps - self.step)):
                losses.append(self._update(stage))
                self.step += 1
            loss = torch.stack(losses).mean().item()
            if not math.isfinite(loss):
                raise Prob3rError(
                    f"The loss of {self.folder} is not finite at step {self.step} of stage "
                    f"{self.stage}; lower the learning rate and continue from the last state."
                )
            speed = len(losses) * stage.batch / (time.monotonic() - started)
            done = self.step == stage.steps
            where = Progress(
                self.stage, self.step * stage.batch, stage.steps * stage.batch, speed, loss, metrics
            )
            if self.step // every > before // every or done:
                metrics = self.task.measure()
                where = Progress(**vars(where) | {"metrics": metrics})
                self._log(where)
                if self.task.score(metrics) < self.best:
                    self.best = self.task.score(metrics)
                    if self.task.processes.first:
                        self.task.save(metrics)
            if self.task.keep_every and (self.step // keep > before // keep or done):
                self.task.keep(self.stage, self.step * stage.batch)
            if done or time.monotonic() - saved > CHECKPOINT_SECONDS:
                self.checkpoint()
                saved = time.monotonic()
            yield where

    def _update(self, stage: Stage) -> Tensor:
        """Take one optimizer step and return its loss."""
        for optimizer in self.task.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = stage.lr_at(self.step)
        total = torch.zeros((), device=self.task.processes.device)
        for loss in self.task.losses(self.step):
            torch.autograd.backward(loss)
            total += loss.detach()
        self._add_up(total)
        self.task.clip()
        for optimizer in self.task.optimizers:
            optimizer.step()
        return total

    def _add_up(self, loss: Tensor) -> None:
        """Add up the loss and the gradients of all processes."""
        processes = self.task.processes
        if processes.count > 1:
            learned = [p for p in self.task.module.parameters() if p.requires_grad]
            for parameter in learned:
                if parameter.grad is None:  # its share of the batch may be empty
                    parameter.grad = torch.zeros_like(parameter)
            processes.add_up([loss, *(p.grad for p in learned if p.grad is not None)])

    def _log(self, progress: Progress) -> None:
        fields = {k: v for k, v in vars(progress).items() if k != "metrics"}
        self.log.append(fields | progress.metrics)
        if self.task.processes.first:
            with writing_to(self.folder / "log.jsonl") as path:
                path.write_text("".join(json.dumps(line) + "\n" for line in self.log))

    def checkpoint(self) -> None:
        """Write the state from which a later process continues exactly here."""
        if not self.task.processes.first:
            return
        state = {
            "identity": self.task.identity,
            "stage": self.stage,
            "step": self.step,
            "best": self.best,
            "log": self.log,
            "model": self.task.module.state_dict(),
            "optimizers": [o.state_dict() for o in self.task.optimizers],
            "parameters": self._parameters(),
        }
        with writing_to(self.folder / "state.pt") as path, path.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # torch hides the system's error, such as a full disk
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from error
                raise

    def _parameters(self) -> list[list[str]]:
        """Return the names of every optimizer's parameters, in its own order.

        An optimizer's state numbers its parameters. The numbers depend on the order in which a
        model creates its parts.
        """
        names = {id(p): name for name, p in self.task.module.named_parameters()}
        return [
            [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
            for optimizer in self.task.optimizers
        ]

    def _restore(self) -> None:
        path = self.folder / "state.pt"
        if not path.exists():
            return
        state = _read(path)
        if state["identity"] != self.task.identity:
            raise Prob3rError(
                f"{path} belongs to '{state['identity']}' and not to '{self.task.identity}'; "
                "give a new folder."
            )
        self.stage, self.step, self.best = state["stage"], state["step"], state["best"]
        self.log = state["log"]
        try:
            self.task.module.load_state_dict(state["model"])
            names = self._parameters()
            before = state.get("parameters", names)  # older states have no names
            each = zip(self.task.optimizers, state["optimizers"], before, names, strict=True)
            for optimizer, saved, old, new in each:
                places = {i: new.index(name) for i, name in enumerate(old)}
                moved = {places[i]: value for i, value in saved["state"].items()}
                optimizer.load_state_dict({**saved, "state": moved})
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise Prob3rError(_damaged(path)) from error


def _read(path: Path) -> dict[str, Any]:
    """Return what `checkpoint` wrote; raise Prob3rError if it is damaged."""
    try:
        with zipfile.ZipFile(path) as file:  # torch does not look at the checksums
            if damaged := file.testzip():
                raise ValueError(f"{damaged} has another checksum")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not (isinstance(state, dict) and state.keys() >= _KEYS):
            raise ValueError("it lacks keys")
    except Exception as error:  # a damaged file can raise any exception
        raise Prob3rError(_damaged(path)) from error
    return state


def _damaged(path: Path) -> str:
    return (
        f"{path} is damaged and the run cannot continue from it; delete it to start again, or give "
        "a new folder."
    )
