"""The weights that a fresh model takes from a trained one, to be trained further."""

import torch
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.models.dinov2 import IMAGENET_DEVIATION, IMAGENET_MEAN, PatchEmbedding
from prob3r.models.dust3r import DUSt3R
from prob3r.models.layers import (
    DecoderBlock,
    EncoderBlock,
    LayerScale,
    Mlp,
    SelfAttention,
    ViewsBlock,
)
from prob3r.models.posed import PosedDUSt3R
from prob3r.models.protocol import Model, MultiViewModel
from prob3r.models.vggt import VGGT

QUIET = 0.1
"""The factor by which the stream of a copied encoder is scaled."""


@torch.no_grad()
def start_from(start: Model, model: MultiViewModel) -> None:
    """Copy the weights of one model into a fresh one, in place.

    Both have the same architecture and shape, with two exceptions. A `PosedDUSt3R` can start from a
    DUSt3R of its shape; see `PosedDUSt3R.from_twin`. A VGGT can start from a DUSt3R whose blocks
    fit into its own; see `lend`.

    Raises:
        Prob3rError: The start does not fit.
    """
    if isinstance(model, VGGT) and type(start) is DUSt3R:
        lend(start, model)
        return
    if isinstance(model, PosedDUSt3R) and type(start) is DUSt3R:
        start = PosedDUSt3R.from_twin(start)
    if type(start) is not type(model) or start.config != model.config:
        raise Prob3rError("The start has another architecture or another shape.")
    model.load_state_dict(start.state_dict())


@torch.no_grad()
def lend(start: DUSt3R, model: VGGT) -> None:
    """Copy the blocks of a trained DUSt3R into a fresh VGGT, in place.

    The published VGGT starts from DINOv2; a small VGGT has no such encoder. Instead:

    - The first frame blocks take the blocks of the encoder.
    - Each later pair of a frame block and a global block takes a block of view 2's decoder, from
      the first one on. The frame block takes its self-attention. The global block takes its MLP
      and its cross-attention to another view, which becomes attention to all views.
    - The LayerNorm and the linear layer between encoder and decoder become the MLP of the last
      global block beside the encoder. An MLP can do this because `g(z) - g(-z)` is `z` for GELU.
    - A VGGT normalises queries and keys, and a DUSt3R does not. Their scales are set to the size
      that they would have if tokens were independent, the same for all heads.
    - The encoder's stream is large, and no later block can remove it. It is scaled by `QUIET`,
      which does not change the output of its LayerNorms.

    Camera and register tokens, the other global blocks, and all heads stay as they are.

    Raises:
        Prob3rError: The shapes do not fit.
    """
    theirs, ours = start.config, model.config
    widths = {theirs.enc_width, theirs.dec_width, ours.width}
    heads = {theirs.enc_heads, theirs.dec_heads, ours.heads}
    patches = model.aggregator.patch_embed
    later = ours.depth - theirs.enc_depth
    if (
        len(widths) > 1
        or len(heads) > 1
        or theirs.patch != ours.patch
        or not isinstance(patches, PatchEmbedding)
        or not 0 <= later <= theirs.dec_depth
    ):
        raise Prob3rError(
            "A VGGT can start from a DUSt3R of its own width, heads and patch, if it has no "
            "encoder and as many blocks as the encoder and a part of the decoder."
        )
    _lend_patches(start.patch_embed.get_submodule("proj"), patches.proj)
    frames, joints = model.aggregator.frame_blocks, model.aggregator.global_blocks
    for frame, encoder in zip(frames, start.enc_blocks, strict=False):
        assert isinstance(frame, ViewsBlock)
        assert isinstance(encoder, EncoderBlock)
        _lend_attention(encoder.norm1, encoder.attn, frame, QUIET)
        _lend_mlp(encoder.norm2, encoder.mlp, frame, QUIET)
    between = joints[theirs.enc_depth - 1]
    assert isinstance(between, ViewsBlock)
    _lend_linear(start.enc_norm, start.decoder_embed, between)
    rest = slice(theirs.enc_depth, None)
    for frame, joint, decoder in zip(frames[rest], joints[rest], start.dec_blocks2, strict=False):
        assert isinstance(frame, ViewsBlock)
        assert isinstance(joint, ViewsBlock)
        assert isinstance(decoder, DecoderBlock)
        _lend_attention(decoder.norm1, decoder.attn, frame)
        _lend_cross_attention(decoder, joint)
        _lend_mlp(decoder.norm3, decoder.mlp, joint)


def _lend_patches(theirs: nn.Module, ours: nn.Conv2d) -> None:
    """Copy the embedding of patches, for images normalised by ImageNet instead of in [-1, 1]."""
    weight, bias = theirs.get_parameter("weight"), theirs.get_parameter("bias")
    mean, deviation = (weight.new_tensor(t) for t in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    ours.weight.copy_(QUIET * weight * (2 * deviation)[:, None, None])
    assert ours.bias is not None
    ours.bias.copy_(QUIET * (bias + (weight.sum((2, 3)) * (2 * mean - 1)).sum(1)))


def _lend_attention(
    norm: nn.LayerNorm, theirs: SelfAttention, ours: ViewsBlock, scale: float = 1.0
) -> None:
    ours.norm1.load_state_dict(norm.state_dict())
    ours.attn.qkv.load_state_dict(theirs.qkv.state_dict())
    _finish_attention(ours, theirs.proj, scale)


def _lend_cross_attention(theirs: DecoderBlock, ours: ViewsBlock) -> None:
    """Copy cross-attention, in which queries have a LayerNorm, and keys and values another one.

    The weights of both go into the linear layers, so one LayerNorm without weights is enough.
    """
    cross = theirs.cross_attn
    each = (
        (theirs.norm2, cross.projq),
        (theirs.norm_y, cross.projk),
        (theirs.norm_y, cross.projv),
    )
    weights, biases = zip(*(_behind(norm, linear) for norm, linear in each), strict=True)
    ours.norm1.reset_parameters()
    ours.attn.qkv.weight.copy_(torch.cat(weights))
    ours.attn.qkv.bias.copy_(torch.cat(biases))
    _finish_attention(ours, cross.proj)


def _finish_attention(ours: ViewsBlock, proj: nn.Linear, scale: float = 1.0) -> None:
    """Set the projection of the output, the norms of queries and keys, and the layer scale."""
    ours.attn.proj.load_state_dict(proj.state_dict())
    weight, bias = _behind(ours.norm1, ours.attn.qkv)
    sizes = (weight.square().sum(1) + bias.square()).unflatten(0, (3, -1)).mean(1).sqrt()
    for norm, size in zip((ours.attn.q_norm, ours.attn.k_norm), sizes[:2], strict=True):
        assert isinstance(norm, nn.LayerNorm)
        nn.init.constant_(norm.weight, float(size))
    _set_scale(ours.ls1, scale)


def _lend_mlp(norm: nn.LayerNorm, theirs: Mlp, ours: ViewsBlock, scale: float = 1.0) -> None:
    ours.norm2.load_state_dict(norm.state_dict())
    ours.mlp.load_state_dict(theirs.state_dict())
    _set_scale(ours.ls2, scale)


def _lend_linear(norm: nn.LayerNorm, theirs: nn.Linear, ours: ViewsBlock) -> None:
    """Turn a linear layer into an MLP; unused hidden units have output weights of 0."""
    ours.norm2.load_state_dict(norm.state_dict())
    width = theirs.in_features
    first, last = ours.mlp.fc1, ours.mlp.fc2
    first.weight[: 2 * width] = torch.cat((torch.eye(width), -torch.eye(width)))
    nn.init.zeros_(first.bias)
    nn.init.zeros_(last.weight)
    last.weight[:, : 2 * width] = torch.cat((theirs.weight, -theirs.weight), 1)
    last.bias.copy_(theirs.bias)
    _set_scale(ours.ls2, 1.0)


def _set_scale(scale: nn.Module, value: float) -> None:
    assert isinstance(scale, LayerScale)
    nn.init.constant_(scale.gamma, value)


def _behind(norm: nn.LayerNorm, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Return the weight and the bias of a linear layer that includes its LayerNorm's weights."""
    return linear.weight * norm.weight, linear.bias + linear.weight @ norm.bias
