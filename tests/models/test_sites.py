import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prob3r.errors import Prob3rError
from prob3r.models import DUSt3R
from prob3r.models.sites import ATTENTION, SUBLAYERS, Site, Tap, select

NAMES = ["dec1.embed", "dec2.embed"] + [
    f"dec{view}.{block}.{sublayer}"
    for block in range(12)
    for view in (1, 2)
    for sublayer in ("self_attn", "cross_attn", "mlp")
]


@st.composite
def sites(draw: st.DrawFn) -> Site:
    stack, view = draw(st.sampled_from(("enc", "dec", "cam"))), draw(st.integers(1, 20))
    sublayer = draw(st.sampled_from(SUBLAYERS))
    block = None if sublayer == "embed" else draw(st.integers(0, 99))
    readings = ("", "probs", "argmax") if sublayer in ATTENTION else ("",)
    return Site(stack, view, block, sublayer, draw(st.sampled_from(readings)))


@given(sites())
def test_a_site_is_read_back_from_its_name(site: Site) -> None:
    assert Site.parse(str(site)) == site


def test_the_parts_of_a_name() -> None:
    assert Site.parse("dec2.3.cross_attn.probs") == Site("dec", 2, 3, "cross_attn", "probs")
    assert Site.parse("dec1.embed") == Site("dec", 1, None, "embed")


def test_every_site_of_a_model_has_a_well_formed_name(tiny_model: DUSt3R) -> None:
    for name in tiny_model.sites() + tiny_model.attention_sites():
        assert str(Site.parse(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "dec2",
        "dec2.mlp",
        "dec2.x.mlp",
        "dec2.-1.mlp",
        "dec2.1.norm",
        "dec2.1.mlp.probs",
        "dec2.embed.probs",
        "dec2.1.embed",
        "dec2.1.mlp\n",
        "Dec2.1.mlp",
        "dec2.*.mlp",
    ],
)
def test_what_is_not_a_site(name: str) -> None:
    with pytest.raises(Prob3rError, match="is not a site"):
        Site.parse(name)


def test_patterns_select_in_the_order_of_the_names() -> None:
    assert select("dec2.*.cross_attn", NAMES) == [f"dec2.{i}.cross_attn" for i in range(12)]
    assert select(["dec2.1.mlp", "dec?.embed"], NAMES) == ["dec1.embed", "dec2.embed", "dec2.1.mlp"]
    assert select(["dec1.0.*", "dec1.0.mlp"], NAMES) == [
        "dec1.0.self_attn",
        "dec1.0.cross_attn",
        "dec1.0.mlp",
    ]
    assert select([], NAMES) == []


@pytest.mark.parametrize(
    ("pattern", "near"),
    [("dec2.3.cros_attn", "dec2.3.cross_attn"), ("dec2.12.mlp", "dec2.11.mlp")],
)
def test_a_pattern_without_a_match_names_near_ones(pattern: str, near: str) -> None:
    with pytest.raises(Prob3rError) as error:
        select(["dec1.embed", pattern], NAMES)
    assert f"'{pattern}'" in str(error.value)
    assert near in str(error.value)


def test_a_pattern_without_near_matches_says_so() -> None:
    with pytest.raises(Prob3rError, match="no site of such a name"):
        select("!", NAMES)


def test_the_plain_tap_is_ordinary_attention() -> None:
    queries, keys, values = (
        torch.randn(2, 3, 5, 8),
        torch.randn(2, 3, 7, 8),
        torch.randn(2, 3, 7, 8),
    )
    probs = (queries @ keys.transpose(-1, -2) / 8**0.5).softmax(-1)
    torch.testing.assert_close(
        Tap().attend("dec1.0.cross_attn.probs", queries, keys, values), probs @ values
    )
    assert Tap()("dec1.embed", queries) is queries
