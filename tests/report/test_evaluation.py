"""The panels of held-out evaluation: there when there is one, with every kind, attribute and scorer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlvis.observe.history import Series
from rlvis.report import folder, heldout, judge, plots
from rlvis.report.panels import evaluation, verdict
from rlvis.report.panels.base import Context
from tests.report import making


def context(tmp_path: Path, rows: list[dict[str, Any]]) -> Context:
    making.rows(tmp_path, rows)
    run = folder.read(tmp_path)
    return Context(run, judge.judge(run))


def test_held_out_metrics_are_drawn_over_steps(tmp_path: Path) -> None:
    rows = [
        {
            "step": step,
            "eval/score": 0.1 * step,
            "eval/accuracy": 0.2,
            "eval/accuracy/single": 0.5,
            "eval/accuracy/count": 0.5,
            "eval/right/colour": 0.3,
            "eval/right/shape": 0.1,
            "eval/my score": 4.0,
        }
        for step in (0, 2)
    ]
    panel = evaluation.evaluation(context(tmp_path, [rows[0], {"step": 1, "reward/mean": 0.5}, rows[1]]))
    assert panel is not None
    titles = [drawing.title.removeprefix("Held-out ") for drawing in panel.data]
    assert titles == ["accuracy", "accuracy by kind", "attributes", "score", "my score"]
    assert all("<svg" in drawing.svg for drawing in panel.data)
    assert "single" in panel.data[1].svg
    assert "colour" in panel.data[2].svg
    assert "has no interval" in panel.data[0].caption


def test_intervals_are_students_over_prompts(tmp_path: Path) -> None:
    making.evaluation(tmp_path, 3, [0.0, 1.0, 1.0])
    spread = heldout.read(tmp_path).interval("eval/score")
    # Mean 2/3, standard error 1/3, and t(0.975, 2) = 4.303.
    assert spread.middle.step.tolist() == [3]
    assert spread.middle.value[0] == pytest.approx(2 / 3)
    assert spread.high[0] - spread.middle.value[0] == pytest.approx(4.3027 / 3, rel=1e-4)
    drawn = evaluation.evaluation(context(tmp_path, [{"step": 3, "eval/score": 2 / 3}]))
    assert drawn is not None
    assert "95 % interval over prompts" in drawn.data[0].caption


def test_the_gain_is_paired_by_prompt(tmp_path: Path) -> None:
    making.evaluation(tmp_path, 0, [0.1, 0.5, 0.9, 0.2, 0.3, 0.4, 0.6])
    making.evaluation(tmp_path, 9, [0.2, 0.6, 1.0, 0.4, 0.5, 0.6, 0.8])
    panel = evaluation.gain(context(tmp_path, []))
    assert panel is not None
    rows = {row[0]: row[1:] for row in panel.data.rows}
    # Three prompts gained 0.1 and four 0.2: narrow, though prompts differ by much more.
    before, after, difference, interval, prompts, doubt = rows["score"]
    assert (before, after, difference, prompts, doubt) == ("0.4286", "0.5857", "+0.157", "7", "-")
    low, high = map(float, interval.split(" .. "))
    assert 0.09 < low < 0.157 < high < 0.22
    # Two of seven passed 0.5, which counts as right.
    assert rows["accuracy"][3:] == ("-", "7", "only 2 of 7 prompts differ, too few for an interval")


def test_equal_and_few_prompts_have_no_interval_but_a_word(tmp_path: Path) -> None:
    making.evaluation(tmp_path, 0, [0.1, 0.5, 0.9])
    making.evaluation(tmp_path, 9, [0.2, 0.6, 1.0])
    panel = evaluation.gain(context(tmp_path, []))
    assert panel is not None
    rows = {row[0]: row[1:] for row in panel.data.rows}
    assert rows["score"] == ("0.5", "0.6", "+0.10", "-", "3", "3 prompts, too few for an interval")
    making.evaluation(tmp_path, 9, [0.2, 0.6, 1.0], ["others", "than", "before"])
    panel = evaluation.gain(context(tmp_path, []))
    assert panel is not None
    assert panel.data.rows[0][3] == "other prompts"


def test_axes_of_shares_go_from_0_to_1(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn = []

    def render(name: str, draw: Any, size: Any = None) -> str:
        axes = Figure().add_subplot()
        draw(axes)
        drawn.append(axes.get_ylim())
        return "<svg></svg>"

    monkeypatch.setattr(plots, "render", render)
    curve = Series(np.array([0, 2]), np.array([0.58, 0.6]))
    plots.lines("a", {"x": curve}, share=True)
    plots.spreads("b", {"x": plots.Spread(curve, curve.value, curve.value)}, share=True)
    plots.lines("c", {"x": curve})
    assert drawn[:2] == [(-0.04, 1.04), (-0.04, 1.04)]
    assert drawn[2][1] < 0.7


def test_a_table_that_is_cut_off_is_told(tmp_path: Path) -> None:
    making.evaluation(tmp_path, 0, [0.1])
    making.evaluation(tmp_path, 9, [0.2])
    (tmp_path / "eval" / "step_000009.parquet").write_bytes(b"PAR1")
    panel = evaluation.gain(context(tmp_path, []))
    assert panel is not None
    assert panel.note == "The samples of step 0 or 9 cannot be read."


def test_step_0_is_no_training_step(tmp_path: Path) -> None:
    shown = context(tmp_path, [{"step": 0, "eval/score": 0.1}, {"step": 1, "reward/mean": 0.5}])
    assert ("training steps", "1") in verdict.facts(shown.run)


def test_a_run_without_evaluation_has_no_panel(tmp_path: Path) -> None:
    shown = context(tmp_path, [{"step": 1, "reward/mean": 0.5}])
    assert evaluation.evaluation(shown) is None
    assert evaluation.gain(shown) is None


def test_the_outcome_is_a_line(tmp_path: Path) -> None:
    assert heldout.outcome(tmp_path) == ""
    making.evaluation(tmp_path, 0, [0.4, 0.4, 0.9, 0.9])
    assert heldout.outcome(tmp_path) == ""
    making.evaluation(tmp_path, 9, [0.6, 0.6, 0.9, 0.9])
    few = "held-out accuracy 0.5 -> 1 (+0.50; 4 prompts, too few for an interval)"
    assert heldout.outcome(tmp_path) == few
    making.evaluation(tmp_path, 0, [0.4] * 8 + [0.9] * 4)
    making.evaluation(tmp_path, 9, [0.6] * 8 + [0.9] * 4)
    whole = heldout.outcome(tmp_path)
    assert whole.startswith("held-out accuracy 0.333 -> 1 (+0.67, 95 % +0.")
    assert whole.endswith(", 12 prompts)")
    making.evaluation(tmp_path, 9, [0.4] * 8 + [0.9] * 4)
    assert heldout.outcome(tmp_path) == "held-out accuracy 0.333 -> 0.333 (equal on all 12 prompts)"
    making.evaluation(tmp_path, 9, [0.6] * 4, ["others", "than", "those", "before"])
    assert heldout.outcome(tmp_path) == ""


def test_prompts_that_changed_most_are_shown_before_and_after(tmp_path: Path) -> None:
    making.evaluation(tmp_path, 0, [0.1, 0.5, 0.9, 0.3], pictures=3)  # of the first, the third and the last
    making.evaluation(tmp_path, 9, [0.2, 0.0, 0.8, 0.9], pictures=3)
    shown = context(tmp_path, [])
    better, worse = evaluation.better(shown), evaluation.worse(shown)
    assert better is not None
    assert worse is not None
    assert better.title == "2 of 3 became better"
    assert [pair.text for pair in better.data] == ["prompt 3", "prompt 0"]
    assert [when for when, _ in better.data[0].frames] == ["before, 0.30", "after, 0.90"]
    assert [pair.text for pair in worse.data] == ["prompt 2"]


def test_no_pictures_are_no_panels(tmp_path: Path) -> None:
    making.evaluation(tmp_path, 0, [0.1, 0.5], pictures=2)
    making.evaluation(tmp_path, 9, [0.2, 0.0])
    assert evaluation.better(context(tmp_path, [])) is None
    assert evaluation.first_worse(context(tmp_path, [])) is None
