"""What the tests of commands share: matches by SIFT, since LightGlue takes half of their time."""

from collections.abc import Iterator

import pytest

from prob3r.reliability.matchers import SIFT


@pytest.fixture(scope="package", autouse=True)
def _sift() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prob3r.reliability.matchers.best_matcher", lambda: SIFT)
        yield
