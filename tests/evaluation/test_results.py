"""The files of an evaluation and what is told of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch

from rlvis import schema as S
from rlvis.evaluation import results
from rlvis.evaluation.prompts import HeldOut
from rlvis.records import PromptBatch

TEXTS = ("a red circle", "a blue square", "two red rings")
HELD = HeldOut(
    settings=S.EvalConfig(suite="shapes", samples=2),
    batch=PromptBatch(texts=TEXTS, index=torch.tensor([0, 3, 8]), metadata=({},) * 3),
    kinds=("single", "single", "count"),
    terms=[],
    source="shapes/heldout",
)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


COLUMNS = {
    "score": column(0.5, 0.7, 0.9, 0.9, 0.1, 0.3),
    "hard": column(0, 1, 1, 1, 0, 0),
    "degree/count": column(math.nan, math.nan, math.nan, math.nan, 0.2, 0.4),
    "right/count": column(math.nan, math.nan, math.nan, math.nan, 0, 1),
    "term/jpeg": column(1, 2, 3, 4, math.nan, math.nan),
}


@pytest.fixture
def table() -> pd.DataFrame:
    return results.frame(HELD, COLUMNS, 20)


def test_a_row_for_each_sample(table: pd.DataFrame, tmp_path: Path) -> None:
    path = results.write(tmp_path / "eval", table, 20, {"settings": {}})
    assert path == tmp_path / "eval" / "step_000020.parquet"
    rows = pd.read_parquet(path)
    assert list(rows.columns) == ["step", "prompt", "kind", "index", "sample", *COLUMNS]
    assert rows["index"].tolist() == [0, 0, 3, 3, 8, 8]
    assert rows["sample"].tolist() == [0, 1] * 3
    assert rows["prompt"].tolist() == [text for text in TEXTS for _ in range(2)]
    assert rows["hard"].dtype == bool
    assert rows["score"].tolist() == COLUMNS["score"].tolist()
    assert sorted(p.name for p in path.parent.iterdir()) == [".lock", "step_000020.parquet", "summary.json"]


def test_metrics_are_means_over_what_was_asked(table: pd.DataFrame) -> None:
    means = results.metrics(results.estimates(table))
    assert means == {
        "eval/score": pytest.approx(3.4 / 6),
        "eval/accuracy": 0.5,
        "eval/accuracy/single": 0.75,
        "eval/accuracy/count": 0.0,
        "eval/right/count": 0.5,
        "eval/jpeg": 2.5,
        "eval/jpeg/single": 2.5,
    }


def test_every_metric_is_in_the_table_of_keys(table: pd.DataFrame) -> None:
    from rlvis.observe import metric_table

    metric_table.check([*results.metrics(results.estimates(table)), "time/eval"])


def test_the_summary_keeps_steps_and_replaces_one_that_is_done_again(
    table: pd.DataFrame, tmp_path: Path
) -> None:
    for step in (20, 0, 20):
        results.write(tmp_path, table, step, {"settings": {"steps": 28}, "weights": "ab"})
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [entry["step"] for entry in summary["evaluations"]] == [0, 20]
    entry = summary["evaluations"][1]
    assert entry["mean"]["eval/accuracy/single"] == 0.75
    # Means of the two prompts are 1/2 and 1, so the error is sqrt(1/8 / 2).
    assert entry["standard_error"]["eval/accuracy/single"] == pytest.approx(0.25)
    assert entry["standard_error"]["eval/right/count"] is None  # one prompt
    assert (entry["samples"]["eval/jpeg"], entry["prompts"]["eval/jpeg"]) == (4, 2)
    assert (entry["settings"], entry["weights"]) == ({"steps": 28}, "ab")
    assert "sum_p" in summary["standard_error"]


def test_other_settings_of_the_same_step_clash(table: pd.DataFrame, tmp_path: Path) -> None:
    results.write(tmp_path, table, 20, {"settings": {"steps": 28, "kinds": None}})
    assert results.clash(tmp_path, 20, {"steps": 28, "kinds": None}) is None
    assert results.clash(tmp_path, 0, {"steps": 10}) is None
    message = results.clash(tmp_path, 20, {"steps": 10, "kinds": ["single"]})
    assert message == 'kinds was null and is now ["single"]; steps was 28 and is now 10'


def test_the_listing_has_a_line_for_each_kind(table: pd.DataFrame) -> None:
    lines = [line.split() for line in results.listing(table).splitlines()]
    assert lines[1][:4] == ["all", "3", "6", "0.500"]
    assert lines[2][:4] == ["single", "2", "4", "0.750"]
    assert lines[2][4:7] == ["-", "0.750", "-"]  # two prompts bear no interval, ".." of nothing is none
    assert lines[3][:4] == ["count", "1", "2", "0.000"]
    assert ".." not in lines[3]
    assert len({len(line) for line in results.listing(table).splitlines()}) == 1


def test_the_line_for_the_log(table: pd.DataFrame) -> None:
    text = results.line(results.estimates(table), 4.25)
    assert text.startswith("score 0.5667 +- ")
    assert text.endswith("(6 samples of 3 prompts, 4.2 s)")
    assert "accuracy/" not in text
    alone = table[table["index"] == 0]  # one prompt has no error: not +- nan
    assert results.line(results.estimates(alone), 1.0).count("+-") == 0
