"""Recipes: everything that decides how a backbone is trained, read from one TOML file."""

import math
import tomllib
from dataclasses import MISSING, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from prob3r.errors import Prob3rError
from prob3r.models.architectures import ARCHITECTURES

T = TypeVar("T")

_LISTS = {
    tuple[int, ...]: (int, "a list of whole numbers"),
    tuple[float, ...]: (float, "a list of numbers"),
    tuple[str, ...]: (str, "a list of names"),
}

_FOLDER = Path(str(files("prob3r.training").joinpath("recipes")))


@dataclass(frozen=True)
class Stage:
    """One stretch of training with one objective at one image size.

    Attributes:
        objective: `completion` (cross-view completion, CroCo), `pointmaps` (DUSt3R's loss) or
            `many-views` (VGGT's losses of cameras, depth and pointmaps).
        size: Side of the square images, in pixels.
        pairs: Length of the stage, in pairs. Two photographs count as a pair, for scenes of any
            number of views.
        batch: Pairs in a step. It is even, because each pair is used in both orders of its views.
        lr: Peak learning rate.
        warmup: Pairs over which the learning rate rises from zero.
        decay: Share of the stage, at its end, over which the learning rate falls to zero.
        pool_start: Share of the candidate pairs, those of least rotation, used at the start.
        pool_open: Share of the stage after which all candidates are used.
        everyday: Share of rooms of the everyday style, with the look of hand-held photographs; the
            others are of the staged style.
        symmetric: Whether both orders of a pair's views are in the same step, which saves half of
            the encoder's work. Otherwise their steps are random.
        parts: Number of parts of a batch, which go through the model one after the other.
        views: Numbers of views of the scenes. The steps use them in turn.
        learns: Patterns of the names of the parameters that learn; the others do not change.
        own_penalty: Two numbers, for the start and the end of the stage. They are subtracted from
            attention scores between patches of one view where all views attend jointly; see
            `OthersFirst`.
    """

    objective: Literal["completion", "pointmaps", "many-views"]
    size: int
    pairs: int
    batch: int
    lr: float
    warmup: int = 4096
    decay: float = 0.0
    pool_start: float = 1.0
    pool_open: float = 0.0
    everyday: float = 0.0
    symmetric: bool = False
    parts: int = 1
    views: tuple[int, ...] = (2,)
    learns: tuple[str, ...] = ("*",)
    own_penalty: tuple[float, ...] = (0.0, 0.0)

    def __post_init__(self) -> None:
        """Raise Prob3rError if the stage cannot be trained."""
        for name in ("size", "pairs", "batch", "lr", "pool_start"):
            if not 0 < getattr(self, name) < math.inf:
                raise Prob3rError(f"{name} is {getattr(self, name)}; it must be positive.")
        for name in ("decay", "pool_start", "pool_open", "everyday"):
            if not 0 <= getattr(self, name) <= 1:
                raise Prob3rError(f"{name} is {getattr(self, name)}; it must be from 0 to 1.")
        if self.parts < 1 or self.batch % (2 * self.parts):
            raise Prob3rError(
                f"batch is {self.batch} in {self.parts} parts; each part must be even, since each "
                "pair is used in both orders of its views."
            )
        many = self.objective == "many-views"
        if self.views != (2,) and not many:
            raise Prob3rError(f"views is {list(self.views)}; {self.objective} takes pairs, [2].")
        if (
            len(self.own_penalty) != 2
            or not 0 <= min(self.own_penalty) <= max(self.own_penalty) < math.inf
        ):
            raise Prob3rError(
                f"own_penalty is {list(self.own_penalty)}; it must be two numbers that are "
                "not negative, for the start and the end of the stage."
            )
        if many and self.symmetric:
            raise Prob3rError("symmetric is true; only stages of pairs can be symmetric.")
        if (
            not self.views
            or min(self.views) < 2
            or 2 * self.batch % (self.parts * math.lcm(*self.views))
        ):
            raise Prob3rError(
                f"views is {list(self.views)}; each must be 2 or more, and divide the "
                f"{2 * self.batch // self.parts} photographs of a part of a step."
            )

    @property
    def steps(self) -> int:
        """Number of optimizer steps of the stage."""
        return -(-self.pairs // self.batch)

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step: a linear rise, a plateau, and a linear fall."""
        seen, left = (step + 1) * self.batch, (self.steps - step) * self.batch
        rise = seen / self.warmup if self.warmup else 1.0
        fall = left / (self.decay * self.pairs) if self.decay else 1.0
        return self.lr * min(1.0, rise, fall)

    def pool_at(self, step: int) -> float:
        """Return the share of candidate pairs, those of least rotation, that a step draws from."""
        if not self.pool_open:
            return 1.0
        opened = min(1.0, step / (self.pool_open * self.steps))
        return self.pool_start + (1.0 - self.pool_start) * opened

    def own_penalty_at(self, step: int) -> float:
        """Return the penalty of a step; it changes linearly from the stage's start to its end."""
        start, end = self.own_penalty
        return start + (end - start) * step / self.steps


@dataclass(frozen=True)
class Recipe:
    """A backbone's shape, and the stages that train it.

    Attributes:
        name: Name of the trained backbone.
        seed: Seed of the weights, the order of the pairs and the augmentation.
        model: The backbone's shape, a configuration of its architecture.
        stages: The stages, in order.
        weight_decay: Weight decay of parameters of two dimensions or more; others have none.
        optimizer: `adamw`, or `muon` for the blocks' matrices with AdamW for the rest.
        start: Name or path of the model whose weights it starts from; random weights by default.
        architecture: Name of the backbone's architecture.
        bf16: Whether matrix products are in bfloat16 on a CPU too, as they are on a GPU. On
            hardware without bfloat16 they are in float32, which is a hundred times faster there.
        validate_every: Pairs between validations.
        validation_pairs: Number of pairs that a validation uses.
        keep_every: Pairs between copies of the weights that are kept, to study the training later.
            The last weights of each stage are kept too. 0 keeps only the best weights.
    """

    name: str
    seed: int
    model: Any
    stages: tuple[Stage, ...]
    weight_decay: float = 0.05
    optimizer: Literal["adamw", "muon"] = "adamw"
    start: str = ""
    architecture: str = "dust3r"
    bf16: bool = False
    validate_every: int = 8192
    validation_pairs: int = 256
    keep_every: int = 0

    @classmethod
    def read(cls, source: str | Path) -> "Recipe":
        """Return the recipe of a TOML file, or the shipped one of that name.

        Raises:
            Prob3rError: There is no such recipe, or it cannot be read.
        """
        path = Path(source)
        if not path.suffix:
            path = _FOLDER / f"{source}.toml"
        if not path.is_file():
            raise Prob3rError(
                f"'{source}' is no recipe: give a TOML file or one of {', '.join(recipes())}."
            )
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
            stages, model = values.pop("stages", None), values.pop("model", None)
            if not isinstance(stages, list) or not all(isinstance(s, dict) for s in stages):
                raise Prob3rError("it needs [[stages]]")
            if not isinstance(model, dict):
                raise Prob3rError("it needs a [model]")
            values["stages"] = tuple(_build(Stage, s) for s in stages)
            if values.pop("posed", False) is True:  # recipes before architectures had names
                values["architecture"] = "posed-dust3r"
            name = values.get("architecture", cls.architecture)
            if name not in ARCHITECTURES:
                known = " or ".join(map(repr, ARCHITECTURES))
                raise Prob3rError(f"architecture is {name!r}; it must be {known}")
            values["model"] = ARCHITECTURES[name].config_type.from_dict(model)
            return _build(cls, values)
        except (OSError, ValueError, RecursionError) as error:
            reason = str(error).rstrip(".")
            raise Prob3rError(f"The recipe {path} cannot be read: {reason}.") from error


def recipes() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def _build(kind: type[T], values: dict[str, Any]) -> T:
    """Return a dataclass of these values, after a check of their names and types."""
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := values.keys() - known.keys():
        raise Prob3rError(f"unknown key '{min(unknown)}'")
    if missing := {n for n, f in known.items() if f.default is MISSING} - values.keys():
        raise Prob3rError(f"'{min(missing)}' is missing")
    return kind(**{n: _typed(n, value, known[n].type) for n, value in values.items()})


def _typed(name: str, value: object, kind: Any) -> object:
    if kind is Any:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if kind in _LISTS:
        inner, wanted = _LISTS[kind]
        if isinstance(value, list | tuple):
            values = [float(v) if inner is float and type(v) is int else v for v in value]
            if all(type(v) is inner for v in values):
                return tuple(values)
        good = False
    elif get_origin(kind) is Literal:
        good, wanted = value in get_args(kind), " or ".join(map(repr, get_args(kind)))
    else:
        good, wanted = isinstance(value, get_origin(kind) or kind), f"of type {kind.__name__}"
    if not good:
        raise Prob3rError(f"{name} is {value!r}; it must be {wanted}")
    return value
