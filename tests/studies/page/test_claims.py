"""The claims of the findings page and the map of the field tell the same."""

import re
from pathlib import Path

import pytest

from prob3r.studies import STUDIES
from prob3r.studies.page.claims import CLAIMS, Claim

FIELD = (Path(__file__).parents[3] / "docs" / "field.md").read_text(encoding="utf-8")
SECTIONS = re.split(r"^##+ ", FIELD, flags=re.MULTILINE)


@pytest.mark.parametrize(
    "claim", [c for c in CLAIMS if re.fullmatch(r"[CN]\d", c.number)], ids=lambda c: c.number
)
def test_the_map_of_the_field_tells_of_every_claim(claim: Claim) -> None:
    (section,) = [each for each in SECTIONS if each.startswith(f"{claim.number}. ")]
    words = " ".join(section.split())
    for study in claim.studies:
        assert f"`prob3r study {study}" in words
    for figure in re.findall(r"\d+\.\d+", claim.reported):
        assert figure in words
    (row,) = [line for line in FIELD.splitlines() if line.startswith(f"| [{claim.number}](")]
    assert claim.arxiv in FIELD
    assert ("nobody" in row) == (not claim.paper)


def test_every_study_that_a_claim_names_exists() -> None:
    assert {study for claim in CLAIMS for study in claim.studies} <= set(STUDIES)
