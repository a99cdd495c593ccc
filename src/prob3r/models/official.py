"""How official DUSt3R files say what model their weights belong to.

A checkpoint carries the call that builds it as Python source, the model string; a hub folder
carries the arguments of that call as JSON.
"""

import ast
import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from prob3r.errors import Prob3rError
from prob3r.models.architectures import Published, are_tensors, register
from prob3r.models.dust3r import DUSt3R, DUSt3RConfig

_BUILDER = "AsymmetricCroCo3DStereo"

# What the official constructor's keyword is called here, and its default there.
_SIZES = {
    "patch_size": ("patch", 16),
    "enc_embed_dim": ("enc_width", 768),
    "enc_depth": ("enc_depth", 12),
    "enc_num_heads": ("enc_heads", 12),
    "dec_embed_dim": ("dec_width", 512),
    "dec_depth": ("dec_depth", 8),
    "dec_num_heads": ("dec_heads", 16),
}

# Further keywords with the values that are known. Where there are several they come to the same
# here, as batches never mix portrait and landscape and nothing is frozen.
_ACCEPTED: dict[str, tuple[Any, ...]] = {
    "output_mode": ("pts3d",),
    "depth_mode": (("exp", -math.inf, math.inf),),
    "conf_mode": (("exp", 1, math.inf),),
    "patch_embed_cls": ("PatchEmbedDust3R", "ManyAR_PatchEmbed"),
    "landscape_only": (False, True),
    "freeze": ("none", "mask", "encoder"),
}

# Keywords by which a configuration of this architecture is known.
_OWN = {"pos_embed", "enc_embed_dim", "dec_embed_dim"}

# Left over from pretraining by completion; no part of a DUSt3R.
_UNUSED = re.compile(r"mask_token|prediction_head\..*")

# The official DPT head registers these modules under two names.
_ALIASES = {f".act_{i + 1}_postprocess.": f".act_postprocess.{i}." for i in range(4)} | {
    f".scratch.layer{i + 1}_rn.": f".scratch.layer_rn.{i}." for i in range(4)
}


class DUSt3RFiles(Published):
    """Reads what the authors of DUSt3R publish."""

    def of_pickle(self, content: Any) -> tuple[Any, dict[str, Tensor]] | None:
        """Return what a file says that has a model string under `args.model`."""
        arguments = content.get("args") if isinstance(content, dict) else None
        text = getattr(arguments, "model", None)
        weights = content.get("model") if isinstance(content, dict) else None
        if not (isinstance(text, str) and are_tensors(weights)):
            return None
        return parse_model_string(text), weights

    def of_hub(
        self, values: Mapping[str, Any], weights: Mapping[str, Tensor] | None, origin: str
    ) -> DUSt3RConfig | None:
        """Return the configuration that the arguments of the official constructor ask for."""
        return config_from_keywords(values, origin) if _OWN & values.keys() else None

    def renamed(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights with aliases merged and decoder 2 filled in."""
        renamed: dict[str, Tensor] = {}
        for name, tensor in weights.items():
            if _UNUSED.fullmatch(name):
                continue
            ours = name
            for alias, spelling in _ALIASES.items():
                ours = ours.replace(alias, spelling)
            # With both spellings there, the official loader copies the list's last, so it stands.
            if ours == name or ours not in weights:
                renamed[ours] = tensor
        if not any(name.startswith("dec_blocks2.") for name in renamed):
            twins = {
                name.replace("dec_blocks.", "dec_blocks2.", 1): tensor.clone()
                for name, tensor in renamed.items()
                if name.startswith("dec_blocks.")
            }
            renamed |= twins
        return renamed


def parse_model_string(text: str) -> DUSt3RConfig:
    """Return the configuration that an official model string, which is Python source, asks for.

    The string is parsed, never evaluated: one call with keyword arguments that are literals, `inf`,
    or their negatives. What it leaves out takes the official defaults.

    Raises:
        Prob3rError: It is anything else, or asks for what prob3r does not compute.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Prob3rError(f"The model string {_short(text)} is not a Python expression.") from error
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
        raise Prob3rError(f"The model string {_short(text)} is not a call of {_BUILDER}.")
    if call.func.id != _BUILDER:
        raise Prob3rError(f"The model string asks for {call.func.id}; only {_BUILDER} is known.")
    if call.args:
        raise Prob3rError(f"The model string's arguments must all have names: {_short(text)}.")
    keywords: dict[str, Any] = {}
    for argument in call.keywords:
        if argument.arg is None or argument.arg in keywords:
            raise Prob3rError(f"The model string repeats or unpacks arguments: {_short(text)}.")
        keywords[argument.arg] = _literal(argument.value, argument.arg)
    return config_from_keywords(keywords, "The model string")


def config_from_keywords(keywords: Mapping[str, Any], origin: str) -> DUSt3RConfig:
    """Return the configuration for the official constructor's keyword arguments.

    Raises:
        Prob3rError: One of them is not known, or asks for what prob3r does not compute; `origin`
            begins the message.
    """
    known = {*_SIZES, *_ACCEPTED, "img_size", "head_type", "pos_embed"}
    if unknown := sorted(keywords.keys() - known):
        raise Prob3rError(f"{origin} has arguments that are not known: {', '.join(unknown)}.")
    for name in _ACCEPTED.keys() & keywords.keys():
        if keywords[name] not in _ACCEPTED[name]:
            choices = " or ".join(map(repr, _ACCEPTED[name]))
            raise Prob3rError(
                f"{origin} has {name}={_short(keywords[name])}; it must be {choices}."
            )
    rope = re.fullmatch(r"RoPE(\d+(?:\.\d+)?)", str(keywords.get("pos_embed", "cosine")))
    if rope is None:
        raise Prob3rError(f"{origin} must have pos_embed='RoPE100', or with another base.")
    side = keywords.get("img_size", 224)
    values = {
        "image_size": side if isinstance(side, tuple) else (side, side),
        "head": keywords.get("head_type", "linear"),
        "rope_base": float(rope[1]),
    }
    sizes = {ours: keywords.get(name, default) for name, (ours, default) in _SIZES.items()}
    try:
        return DUSt3RConfig.from_dict(values | sizes)
    except Prob3rError as error:
        raise Prob3rError(f"{origin} asks for an impossible model: {error}") from error


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


register(DUSt3R, DUSt3RFiles())
