"""Configurations in official files of the CroCo family.

A checkpoint has the *model string*: Python source of the call that builds its model. A hub folder
has the arguments of that call as JSON. The constructors of the family share the arguments for the
sizes.
"""

import ast
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models.architectures import Published, architecture_of, are_tensors
from prob3r.models.two_view import TwoViewConfig

# What the official constructors' keyword is called here, and its default there.
_SIZES = {
    "patch_size": ("patch", 16),
    "enc_embed_dim": ("enc_width", 768),
    "enc_depth": ("enc_depth", 12),
    "enc_num_heads": ("enc_heads", 12),
    "dec_embed_dim": ("dec_width", 512),
    "dec_depth": ("dec_depth", 8),
    "dec_num_heads": ("dec_heads", 16),
}

# Keywords by which a configuration of the family is known.
_OWN = {"pos_embed", "enc_embed_dim", "dec_embed_dim"}

# The official DPT head registers these modules under two names.
_ALIASES = {f".act_{i + 1}_postprocess.": f".act_postprocess.{i}." for i in range(4)} | {
    f".scratch.layer{i + 1}_rn.": f".scratch.layer_rn.{i}." for i in range(4)
}

_STRING = "The model string"


class FamilyFiles(Published):
    """Reads the published files of one architecture of the family.

    Attributes:
        builder: Name of the official constructor.
        config_type: Class of the configurations.
        accepted: Other keywords than the sizes, with their supported values, or None if any value
            is supported. Several values can have the same meaning here, because batches never mix
            portrait and landscape, and no weights are frozen.
        required: Keywords whose official defaults are not supported here.
        unused: Names of weights that are accepted and skipped.
    """

    builder: ClassVar[str]
    config_type: ClassVar[type[TwoViewConfig]]
    accepted: ClassVar[Mapping[str, tuple[Any, ...] | None]]
    required: ClassVar[tuple[str, ...]] = ()
    unused: ClassVar[re.Pattern[str]]

    def __init__(self) -> None:
        _FILES[self.builder] = self

    def claims(self, keywords: Mapping[str, Any], names: Iterable[str]) -> bool:
        """Return whether a hub folder of the family is of this architecture.

        Args:
            keywords: The content of its `config.json`.
            names: Names of its weights; empty if they were not downloaded.
        """
        raise NotImplementedError

    def own(self, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of the configuration that only this architecture has."""
        raise NotImplementedError

    def of_pickle(self, content: Any) -> tuple[Any, dict[str, Tensor]] | None:
        """Return configuration and weights of a file with a model string in `args.model`."""
        arguments = content.get("args") if isinstance(content, dict) else None
        text = getattr(arguments, "model", None)
        weights = content.get("model") if isinstance(content, dict) else None
        if not (isinstance(text, str) and are_tensors(weights)):
            return None
        files, keywords = _call(text)
        return (self.config(keywords, _STRING), weights) if files.builder == self.builder else None

    def of_weights(self, weights: Mapping[str, Tensor]) -> TwoViewConfig | None:
        """Return the configuration of the one published checkpoint that has these weights.

        The number of heads and the size of the images do not follow from weights.
        """
        size = getattr(weights.get("decoder_embed.weight"), "shape", None)
        if size is None or not self.claims({}, weights):
            return None
        found = [
            config
            for config in self.names.values()
            if size == (config.dec_width, config.enc_width) and self._fit(weights, config)
        ]
        return found[0] if len(found) == 1 else None

    def _fit(self, weights: Mapping[str, Tensor], config: TwoViewConfig) -> bool:
        with torch.device("meta"):
            expected = architecture_of(config)(config).state_dict()
        shapes = {name: tensor.shape for name, tensor in self.renamed(weights).items()}
        return shapes == {name: tensor.shape for name, tensor in expected.items()}

    def of_hub(
        self, values: Mapping[str, Any], weights: Mapping[str, Tensor] | None, origin: str
    ) -> TwoViewConfig | None:
        """Return the configuration that the arguments of the official constructor ask for."""
        if not (_OWN & values.keys() and self.claims(values, weights or ())):
            return None
        return self.config(values, origin)

    def renamed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights with aliases merged, without those that are not used."""
        renamed: dict[str, Tensor] = {}
        for name, tensor in weights.items():
            if self.unused.fullmatch(name):
                continue
            ours = name
            for alias, spelling in _ALIASES.items():
                ours = ours.replace(alias, spelling)
            # If both names exist, the official loader uses the last one in the list.
            if ours == name or ours not in weights:
                renamed[ours] = tensor
        return renamed

    def config(self, keywords: Mapping[str, Any], origin: str) -> TwoViewConfig:
        """Return the configuration for the official constructor's keyword arguments.

        Raises:
            Prob3rError: An argument is unknown, or its value is not supported; the message begins
                with `origin`.
        """
        known = {*_SIZES, *self.accepted, "img_size", "pos_embed"}
        if unknown := sorted(keywords.keys() - known):
            raise Prob3rError(f"{origin} has arguments that are not known: {', '.join(unknown)}.")
        for name in self.accepted.keys() & keywords.keys():
            values = self.accepted[name]
            if values is not None and keywords[name] not in values:
                choices = " or ".join(map(repr, values))
                raise Prob3rError(
                    f"{origin} has {name}={_short(keywords[name])}; it must be {choices}."
                )
        if missing := [name for name in self.required if name not in keywords]:
            raise Prob3rError(
                f"{origin} must state {', '.join(missing)}, as published ones of {self.builder} do."
            )
        rope = re.fullmatch(r"RoPE(\d+(?:\.\d+)?)", str(keywords.get("pos_embed", "cosine")))
        if rope is None:
            raise Prob3rError(f"{origin} must have pos_embed='RoPE100', or with another base.")
        side = keywords.get("img_size", 224)
        sizes = {ours: keywords.get(name, default) for name, (ours, default) in _SIZES.items()}
        sizes["image_size"] = side if isinstance(side, tuple) else (side, side)
        try:
            return self.config_type.from_dict(
                sizes | {"rope_base": float(rope[1])} | self.own(keywords)
            )
        except Prob3rError as error:
            raise Prob3rError(f"{origin} asks for an impossible model: {error}") from error


_FILES: dict[str, FamilyFiles] = {}
"""The readers of the family's files, by the name of the official constructor."""


def parse_model_string(text: str) -> TwoViewConfig:
    """Return the configuration in an official model string, which is Python source.

    The string is parsed, never evaluated. It must be one call whose keyword arguments are literals,
    `inf`, or their negatives. Missing arguments take the official defaults.

    Raises:
        Prob3rError: The string has another form, or a value is not supported.
    """
    files, keywords = _call(text)
    return files.config(keywords, _STRING)


def _call(text: str) -> tuple[FamilyFiles, dict[str, Any]]:
    """Return the reader for the constructor that a model string calls, and the arguments."""
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Prob3rError(f"The model string {_short(text)} is not a Python expression.") from error
    known = " or ".join(_FILES)
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
        raise Prob3rError(f"The model string {_short(text)} is not a call of {known}.")
    if call.func.id not in _FILES:
        raise Prob3rError(f"The model string asks for {call.func.id}; it must be {known}.")
    if call.args:
        raise Prob3rError(f"The model string's arguments must all have names: {_short(text)}.")
    keywords: dict[str, Any] = {}
    for argument in call.keywords:
        if argument.arg is None or argument.arg in keywords:
            raise Prob3rError(f"The model string repeats or unpacks arguments: {_short(text)}.")
        keywords[argument.arg] = _literal(argument.value, argument.arg)
    return _FILES[call.func.id], keywords


def _literal(node: ast.expr, name: str) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return value
        case ast.Name(id="inf"):
            return math.inf
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float()) as number):
            return -_literal(number, name)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id="inf")):
            return -math.inf
        case ast.Tuple(elts=elements) | ast.List(elts=elements):
            return tuple(_literal(element, name) for element in elements)
    raise Prob3rError(
        f"The model string's {name} must be made of numbers, strings, inf and tuples of them."
    )


def _short(value: object, most: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= most else text[: most - 1] + "…"
