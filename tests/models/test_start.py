"""Tests of the weights that a fresh model takes from a trained one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prob3r.errors import Prob3rError
from prob3r.models import VGGT, DUSt3R, DUSt3RConfig, VGGTConfig, random, save
from prob3r.models.dinov2 import PatchEmbedding, imagenet_normalised
from prob3r.models.start import QUIET, lend
from prob3r.training.backbone import start_of
from prob3r.training.recipe import Recipe, Stage

LENDER = DUSt3RConfig(
    image_size=(32, 32),
    patch=8,
    enc_width=32,
    enc_depth=2,
    enc_heads=2,
    dec_width=32,
    dec_depth=3,
    dec_heads=2,
    head="linear",
)
BORROWER = VGGTConfig(
    image_size=(32, 32),
    patch=8,
    width=32,
    depth=4,
    heads=2,
    registers=2,
    enc_depth=0,
    head_blocks=(0, 1, 2, 3),
    features=16,
    channels=(8, 8, 8, 8),
    cam_depth=1,
    cam_heads=2,
)
STAGE = Stage(objective="many-views", size=32, pairs=4, batch=4, lr=1e-3)


@pytest.fixture(scope="module")
def lender() -> DUSt3R:
    model = random(LENDER, seed=1)
    with torch.no_grad():  # LayerNorms and biases start at ones and zeros, which hide mistakes
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def borrower(lender: DUSt3R) -> VGGT:
    torch.manual_seed(0)
    model = VGGT(BORROWER)
    lend(lender, model)
    return model.eval()


def tokens() -> Tensor:
    return torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_patches_are_embedded_as_they_were_but_quietly(lender: DUSt3R, borrower: VGGT) -> None:
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    theirs = lender.embed(images).stream
    assert isinstance(borrower.aggregator.patch_embed, PatchEmbedding)
    ours = borrower.aggregator.patch_embed(imagenet_normalised(images))
    torch.testing.assert_close(ours, QUIET * theirs, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_layer_between_encoder_and_decoder_is_an_mlp(lender: DUSt3R, borrower: VGGT) -> None:
    between = borrower.aggregator.global_blocks[1]
    x = tokens()
    theirs = lender.decoder_embed(lender.enc_norm(x))
    ours = between.ls2(between.mlp(between.norm2(x)))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("block", [0, 1])
def test_cross_attention_becomes_attention_to_all_views(
    lender: DUSt3R, borrower: VGGT, block: int
) -> None:
    theirs, ours = lender.dec_blocks2[block], borrower.aggregator.global_blocks[2 + block]
    x = tokens()
    seen = ours.attn.qkv(ours.norm1(x))
    cross, queries, others = theirs.cross_attn, theirs.norm2(x), theirs.norm_y(x)
    wanted = torch.cat((cross.projq(queries), cross.projk(others), cross.projv(others)), -1)
    torch.testing.assert_close(seen, wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        ours.mlp(ours.norm2(x)), theirs.mlp(theirs.norm3(x)), atol=1e-4, rtol=1e-4
    )
    assert_same(ours.attn.proj, cross.proj)


@torch.no_grad()
def test_self_attention_reads_what_it_read(lender: DUSt3R, borrower: VGGT) -> None:
    frames = borrower.aggregator.frame_blocks
    theirs = [*lender.enc_blocks, *lender.dec_blocks2[:2]]
    for block, (ours, lent) in enumerate(zip(frames, theirs, strict=True)):
        assert_same(ours.norm1, lent.norm1)
        assert_same(ours.attn.qkv, lent.attn.qkv)
        assert_same(ours.attn.proj, lent.attn.proj)
        assert ours.ls1.gamma.unique().item() == pytest.approx(QUIET if block < 2 else 1.0)


@torch.no_grad()
def test_queries_keep_their_mean_size(lender: DUSt3R, borrower: VGGT) -> None:
    # Independent tokens: what a LayerNorm gives is then as large in every direction.
    x = torch.randn(1, 20000, 32, generator=torch.Generator().manual_seed(3))
    block, lent = borrower.aggregator.frame_blocks[0], lender.enc_blocks[0]
    for ours, theirs in zip(
        block.attn.split(block.norm1(x), None)[:2],
        lent.attn.split(lent.norm1(x), None)[:2],
        strict=True,
    ):
        wanted = theirs.square().mean().sqrt().item()
        assert ours.square().mean().sqrt().item() == pytest.approx(wanted, rel=0.05)


def test_what_is_not_lent_stays_fresh(lender: DUSt3R, borrower: VGGT) -> None:
    torch.manual_seed(0)
    fresh = VGGT(BORROWER)
    for name in ("camera_head", "point_head", "depth_head", "aggregator.global_blocks.0"):
        assert_same(borrower.get_submodule(name), fresh.get_submodule(name))
    assert torch.equal(borrower.aggregator.camera_token, fresh.aggregator.camera_token)


def test_a_recipe_borrows_from_a_file(lender: DUSt3R, borrower: VGGT, tmp_path: Path) -> None:
    save(lender, tmp_path / "lender.safetensors")
    recipe = Recipe("borrower", 0, BORROWER, (STAGE,), architecture="vggt")
    recipe = replace(recipe, start=str(tmp_path / "lender.safetensors"))
    torch.manual_seed(0)
    assert_same(start_of(recipe), borrower)


@pytest.mark.parametrize(
    "change",
    [
        {"width": 64},
        {"heads": 4},
        {"patch": 16},
        {"depth": 6},
        {"enc_depth": 1, "enc_heads": 2},
    ],
)
def test_shapes_that_do_not_fit_are_refused(lender: DUSt3R, change: dict[str, int]) -> None:
    with pytest.raises(Prob3rError, match="of its own width, heads and patch"):
        lend(lender, VGGT(replace(BORROWER, **change)))


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    weights, wanted = ours.state_dict(), theirs.state_dict()
    assert weights
    assert weights.keys() == wanted.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, wanted[name]), name
