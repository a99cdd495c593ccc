"""The documentation site builds, and none of its links is broken."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert found.returncode == 0, found.stderr[-3000:]
    reference = (tmp_path / "api/prob3r/index.html").read_text(encoding="utf-8")
    assert "Return a model, float32 and in eval mode" in reference
