from math import inf, nan

from prob3r.measures.numbers import percent


def test_a_share_that_is_not_known_is_a_dash() -> None:
    assert [percent(share) for share in (0.126, 1.0, nan, inf)] == ["13 %", "100 %", "–", "–"]
