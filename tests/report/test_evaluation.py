"""The panel of held-out evaluation: there when there is one, with every kind, attribute and scorer."""

from __future__ import annotations

import json
from pathlib import Path

from rlvis.report import folder, panels


def run(tmp_path: Path, rows: list[dict[str, float]]) -> folder.RunFolder:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder.read(tmp_path)


def test_held_out_metrics_are_drawn_over_steps(tmp_path: Path) -> None:
    rows = [
        {
            "step": step,
            "eval/score": 0.1 * step,
            "eval/accuracy": 0.2,
            "eval/accuracy/single": 0.5,
            "eval/right/colour": 0.3,
            "eval/right/shape": 0.1,
            "eval/my score": 4.0,
        }
        for step in (0, 2)
    ]
    found = run(tmp_path, [rows[0], {"step": 1, "reward/mean": 0.5}, rows[1]])
    panel = panels.evaluation(found)
    assert panel is not None
    titles = [drawing.title for drawing in panel.data]
    assert titles == ["Held-out accuracy", "Held-out attributes", "Held-out score", "Held-out my score"]
    assert all("<svg" in drawing.svg for drawing in panel.data)
    assert "single" in panel.data[0].svg
    assert "colour" in panel.data[1].svg


def test_step_0_is_no_training_step(tmp_path: Path) -> None:
    found = run(tmp_path, [{"step": 0, "eval/score": 0.1}, {"step": 1, "reward/mean": 0.5}])
    assert ("training steps", "1") in panels.verdict(found).data.tiles


def test_a_run_without_evaluation_has_no_panel(tmp_path: Path) -> None:
    assert panels.evaluation(run(tmp_path, [{"step": 1, "reward/mean": 0.5}])) is None
