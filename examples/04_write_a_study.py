"""Write a study: is the model less sure of pairs that overlap less?

Rule, for the rank correlation of confidence and overlap over pairs with a 95 % bootstrap interval:
supported if the interval is above zero, not supported if it is below, else mixed.
"""

import tempfile
from pathlib import Path

import pandas as pd
import torch

import prob3r
from prob3r.rooms import Rooms
from prob3r.scenes import Pair
from prob3r.studies import Finding, ModelUnderTest, Study, conduct
from prob3r.studies.framework.figures import figure


class Confidence(Study):
    name = "confidence"
    title = "Confidence falls with overlap"

    def measure(self, tested: ModelUnderTest, pair: Pair) -> pd.DataFrame:
        output = tested.model(pair.view1.image, pair.view2.image)
        confidence = output.confidence[1].log().mean((1, 2))
        return pd.DataFrame(
            {"pair": range(len(pair)), "confidence": confidence, "overlap": pair.overlap()}
        )

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        def correlation(rows: pd.DataFrame) -> float:
            return float(rows.confidence.rank().corr(rows.overlap.rank()))

        generator = torch.Generator().manual_seed(0)
        draws = torch.randint(len(table), (200, len(table)), generator=generator)
        twins = torch.tensor([correlation(table.iloc[draw]) for draw in draws.tolist()])
        low, high = (float(twins.quantile(q)) for q in (0.025, 0.975))
        verdict = "supported" if low > 0 else "not supported" if high < 0 else "mixed"
        effect = correlation(table), low, high
        statement = "The model is less sure of pairs that overlap less"
        return [Finding("own", statement, verdict, *effect, "rank correlation", "none", len(table))]

    def figures(self, table: pd.DataFrame) -> dict:
        with figure() as (drawn, axes):
            axes[0].scatter(table.overlap, table.confidence, s=6)
            axes[0].set_xlabel("overlap (share of view 2)")
            axes[0].set_ylabel("mean log confidence of view 2")
        return {"confidence": drawn}


tested = ModelUnderTest(prob3r.load("mini"), "mini")
rooms = Rooms("test", tested.model.config.image_size, compile=False)
with tempfile.TemporaryDirectory() as folder:
    result = conduct(Confidence(), tested, rooms, 32, Path(folder), "rooms:test")
    print(*sorted(path.name for path in (Path(folder) / "confidence").iterdir()))
for finding in result.findings:
    effect = f"{finding.effect:.2f} [{finding.low:.2f}, {finding.high:.2f}]"
    print(f"{finding.statement}: {finding.verdict}, {finding.unit} {effect}")
