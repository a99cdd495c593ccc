"""How official DUSt3R files say what model their weights belong to.

A checkpoint carries the call that builds it as Python source, the model string; a hub folder
carries the arguments of that call as JSON.
"""

import ast
import math
import re
from collections.abc import Mapping
from typing import Any

from prob3r.errors import Prob3rError
from prob3r.models.dust3r import DUSt3RConfig

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
