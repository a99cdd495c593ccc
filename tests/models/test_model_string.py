import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3RConfig, parse_model_string
from tests.models.conformance import Case
from tests.models.conftest import SMALL, SMALL_STRING

PUBLISHED = (
    "AsymmetricCroCo3DStereo(pos_embed='RoPE100', patch_embed_cls='ManyAR_PatchEmbed', "
    "img_size=(512, 512), head_type='dpt', output_mode='pts3d', depth_mode=('exp', -inf, inf), "
    "conf_mode=('exp', 1, inf), enc_embed_dim=1024, enc_depth=24, enc_num_heads=16, "
    "dec_embed_dim=768, dec_depth=12, dec_num_heads=12)"
)


def test_the_published_one() -> None:
    assert parse_model_string(PUBLISHED) == DUSt3RConfig((512, 512), head="dpt")


def test_older_ones_say_less_and_newer_ones_more() -> None:
    assert parse_model_string(SMALL_STRING) == SMALL
    more = SMALL_STRING.removesuffix(")") + ", freeze='encoder', landscape_only=False)"
    assert parse_model_string(more) == SMALL


def test_what_is_left_out_is_as_in_the_official_code() -> None:
    expected = DUSt3RConfig((224, 224), 16, 768, 12, 12, 512, 8, 16, "linear", 10.0)
    assert parse_model_string(" AsymmetricCroCo3DStereo(pos_embed='RoPE10')\n") == expected


def test_every_tiny_case() -> None:
    config = parse_model_string(Case.read("tiny_dpt").model_string)
    assert config == DUSt3RConfig((96, 96), 16, 64, 3, 4, 48, 12, 3, "dpt")


@given(st.integers(0, len(PUBLISHED)), st.integers(0, 3), st.text(max_size=3))
def test_a_damaged_one_is_read_or_refused(at: int, gone: int, text: str) -> None:
    with contextlib.suppress(Prob3rError):
        parse_model_string(PUBLISHED[:at] + text + PUBLISHED[at + gone :])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "not a Python expression"),
        ("AsymmetricCroCo3DStereo(", "not a Python expression"),
        ("a" * 1000, "aaa… is not a call"),
        ("AsymmetricMASt3R(pos_embed='RoPE100')", "AsymmetricMASt3R"),
        ("prob3r.DUSt3R()", "is not a call"),
        ("import os", "not a Python expression"),
        ("AsymmetricCroCo3DStereo('RoPE100')", "must all have names"),
        ("AsymmetricCroCo3DStereo(**{'pos_embed': 'RoPE100'})", "unpacks"),
        ("AsymmetricCroCo3DStereo(enc_depth=1, enc_depth=2)", "repeats"),
        ("AsymmetricCroCo3DStereo()", "pos_embed='RoPE100'"),
        ("AsymmetricCroCo3DStereo(pos_embed='cosine')", "pos_embed='RoPE100'"),
        ("AsymmetricCroCo3DStereo(pos_embed='RoPE0')", "rope_base is 0.0"),
        ("AsymmetricCroCo3DStereo(pos_embed='RoPE100', sneaky=1, also=2)", "also, sneaky"),
    ],
)
def test_strings_that_are_refused(text: str, named: str) -> None:
    with pytest.raises(Prob3rError) as error:
        parse_model_string(text)
    assert named in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    "change",
    [
        "output_mode='pts3d+desc24'",
        "depth_mode=('linear', -inf, inf)",
        "depth_mode=('exp', 0, inf)",
        "conf_mode=('sigmoid', 0, 1)",
        "patch_embed_cls='PatchEmbed'",
        "landscape_only='no'",
        "head_type='catmlp+dpt'",
        "enc_depth=2.5",
        "enc_depth='2'",
        "enc_depth=-1",
        "enc_num_heads=5",
        "img_size=(224, 224, 3)",
        "img_size=(224, '224')",
    ],
)
def test_values_that_are_refused_are_named(change: str) -> None:
    with pytest.raises(Prob3rError) as error:
        parse_model_string(f"AsymmetricCroCo3DStereo(pos_embed='RoPE100', {change})")
    value = change.partition("=")[2]
    assert value.strip("'") in str(error.value)


@pytest.mark.parametrize(
    "code",
    [
        "__import__('os').mkdir('hacked')",
        "[open('hacked', 'w') for _ in 'a'][0]",
        "(lambda: open('hacked', 'w'))()",
        "f\"{open('hacked', 'w')}\"",
        "open('hacked', 'w')",
        "(hacked := 1)",
        "-" * 300 + "1",
        "9 ** 9 ** 9",
        "[1] * 10 ** 10",
        "os.environ",
        "nan",
        "b'bytes'",
        "1j",
        "+1",
        "{'a': 1}",
        "...",
    ],
)
def test_code_is_refused_and_not_run(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Prob3rError, match="enc_depth must be made of numbers"):
        parse_model_string(f"AsymmetricCroCo3DStereo(pos_embed='RoPE100', enc_depth={code})")
    assert not any(tmp_path.iterdir())
