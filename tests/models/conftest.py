"""The smallest model that has every part, and the model string that asks for it."""

import pytest

from prob3r.models import DUSt3R, DUSt3RConfig, random

SMALL = DUSt3RConfig((32, 32), 16, 16, 1, 2, 24, 2, 2)
SMALL_STRING = (
    "AsymmetricCroCo3DStereo(pos_embed='RoPE100', img_size=(32, 32), enc_embed_dim=16, enc_depth=1,"
    " enc_num_heads=2, dec_embed_dim=24, dec_depth=2, dec_num_heads=2)"
)


@pytest.fixture
def model() -> DUSt3R:
    return random(SMALL, seed=1)
