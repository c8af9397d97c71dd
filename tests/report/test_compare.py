"""Comparisons: which runs are one arm, what an arm's band is, and differences that are paired."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from rlvis.observe.history import Series
from rlvis.report import folder as folders
from rlvis.report import judge
from rlvis.report.compare import page, results
from rlvis.report.compare.arms import Arm, Member, arms, differing, over_runs
from rlvis.report.compare.panels import Several, labels
from tests.report.making import EVIL, Page, evaluation, folder, row, rows

pytestmark = pytest.mark.usefixtures("quick_figures")


def members(*runs: Path) -> list[Member]:
    read = [folders.read(run) for run in runs]
    return [Member(run, judge.judge(run), run.path.name) for run in read]


def sweep(tmp_path: Path) -> list[Path]:
    """Two seeds of one arm, two of another, with evaluations."""
    runs = []
    for name, lr, seed in (("a0", 0.1, 0), ("a1", 0.1, 1), ("b0", 0.2, 0), ("b1", 0.2, 1)):
        run = folder(tmp_path / name, 4, (2, 4), optim__lr=lr, seed=seed, run_dir=str(tmp_path / name))
        rows(run, [row(step, **{"reward/mean": step * lr + seed}) for step in range(1, 5)])
        evaluation(run, 4, [0.1 + lr, 0.5 + lr + seed / 10, 0.8 + lr])
        runs.append(run)
    return runs


def typed(run: Path, command: str) -> Path:
    (run / "manifest.json").write_text(json.dumps({"command": command}))
    return run


def test_runs_that_differ_only_in_their_seed_are_one_arm(tmp_path: Path) -> None:
    groups = arms(members(*sweep(tmp_path)))
    assert [[m.label for m in arm.members] for arm in groups] == [["a0", "a1"], ["b0", "b1"]]
    assert [arm.title for arm in groups] == ["optim.lr=0.1 (n=2)", "optim.lr=0.2 (n=2)"]


def test_arms_are_called_by_what_was_typed_for_them(tmp_path: Path) -> None:
    a = typed(folder(tmp_path / "a", 2), "python train.py train.steps=2 seed=1")
    b = typed(
        folder(tmp_path / "b", 2, advantage__sign=-1.0), "python train.py train.steps=2 advantage.sign=-1"
    )
    c = typed(
        folder(tmp_path / "c", 2, optim__lr=0.5, seed=3), "python train.py train.steps=2 optim.lr=0.5 'x"
    )
    assert [arm.label for arm in arms(members(a, b))] == ["defaults", "advantage.sign=-1"]
    # A command line that cannot be read tells nothing, so the keys that differ have to.
    assert [arm.label for arm in arms(members(a, c))] == ["optim.lr=0.001", "optim.lr=0.5"]


def test_only_keys_that_differ_are_columns(tmp_path: Path) -> None:
    runs = members(*sweep(tmp_path))
    assert differing(runs) == ["optim.lr", "seed"]
    assert differing(runs[:2]) == ["seed"]
    assert differing(runs[:1]) == []


def test_the_band_of_an_arm() -> None:
    curves = [Series(np.arange(1, 4), np.array([0.0, 1.0, 2.0]) + offset) for offset in (0.0, 1.0, 2.0)]
    two = over_runs([curves[0], Series(np.array([2, 3, 4]), np.array([3.0, 4.0, 5.0]))])
    assert two.middle.step.tolist() == [2, 3]  # the steps that both have
    assert (two.low.tolist(), two.high.tolist()) == ([1.0, 2.0], [3.0, 4.0])
    three = over_runs(curves)
    assert three.middle.value.tolist() == [1.0, 2.0, 3.0]
    # Standard deviation 1 over three runs, t(0.975, 2) = 4.3027.
    assert three.high - three.middle.value == pytest.approx([4.3027 / 3**0.5] * 3, rel=1e-4)


def test_held_out_differences_are_paired_by_prompt_and_by_seed(tmp_path: Path) -> None:
    runs = members(*sweep(tmp_path))
    panel = results.held_out(Several(runs, arms(runs), tmp_path / "x.html"))
    assert panel is not None
    score = next(part for part in panel.data if part.title == "score")
    base, other = score.data.rows
    assert base[2:5] == ("-", "-", "-")
    # Every prompt of every seed differs by 0.1: no interval has a width, though prompts and seeds differ.
    assert other[2:] == ("+0.1000", "+0.100 .. +0.100", "+0.100 .. +0.100", "3", "2")


def test_other_prompts_or_settings_are_not_passed_over(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", 2), folder(tmp_path / "b", 2, optim__lr=0.5)
    evaluation(a, 2, [0.1, 0.2])
    evaluation(b, 2, [0.1, 0.2], ["not", "these"])
    summary = b / "eval" / "summary.json"
    summary.write_text(summary.read_text().replace('"samples": 1,', '"samples": 4,'))
    runs = members(a, b)
    panel = results.held_out(Several(runs, arms(runs), tmp_path / "x.html"))
    assert panel is not None
    assert panel.data[0].data.rows[1][2] == "other prompts"
    assert "Beware: the evaluations differ in samples." in panel.note
    evaluation(a, 1, [0.1, 0.2])
    (a / "eval" / "summary.json").write_text(json.dumps({"evaluations": []}))
    alone = members(a)
    assert results.held_out(Several(alone, arms(alone), tmp_path / "x.html")) is None


def test_the_page_of_a_folder_of_runs(tmp_path: Path) -> None:
    runs = sweep(tmp_path / "my sweep")
    (runs[0] / "report.html").write_text("its own")
    rows(runs[1], [row(1), row(2, **{"ratio/max_deviation_first": 0.9})])
    path = page.write(runs)
    assert path == tmp_path / "my sweep" / "report.html"
    shown = Page(path.read_text())
    assert shown.tabs == ["overview", "curves", "held-out", "samples", "time", "config"]
    links = [a["href"] for a in shown.all("a") if not (a["href"] or "").startswith("#")]
    assert links == ["a0/report.html"]
    assert "my sweep: 4 runs compared" in shown.text
    assert "4 runs in 2 arms" in shown.text
    assert "2 / 4 (unfinished)" in shown.text
    assert "ratio-first" in shown.text
    assert len(shown.all("img")) == 4 * 2  # two prompts of every run's last sheet
    assert "Without a report of their own yet" in shown.text
    assert "could not be" not in shown.text


def test_where_a_comparison_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = sweep(tmp_path / "s")
    monkeypatch.chdir(tmp_path)
    assert page.target([Path("s/a0"), Path("s/a1"), Path("s/b0"), Path("s/b1")]) == Path("s/report.html")
    assert page.target(runs[:2]) == Path("comparison.html")  # the folder holds others, too
    elsewhere = folder(tmp_path / "t" / "c0", 2)
    assert page.target([runs[0], elsewhere]) == Path("comparison.html")
    written = page.write([runs[0], elsewhere], Path("x.html"))
    assert written == Path("x.html")
    with pytest.raises(ValueError, match="two different runs"):
        page.write([runs[0], Path(os.path.relpath(runs[0]))])
    with pytest.raises(ValueError, match=r"type to=FILE\.html"):
        page.write(runs, tmp_path / "nowhere" / "x.html")
    assert labels([runs[0], tmp_path / "t" / "a0"]) == ["s/a0", "t/a0"]


def test_runs_with_nothing_in_them_are_still_compared(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", 0, name=EVIL)
    b = tmp_path / f"b & {EVIL.replace('/', '')}"
    b.mkdir()
    (b / "metrics.jsonl").write_text('{"step": 1, "reward/mean": "NaN"}\n{"ste')
    shown = Page(page.write([a, b], tmp_path / "c.html").read_text())
    assert "<script>alert" not in (tmp_path / "c.html").read_text()
    assert "could not be" not in shown.text


def test_an_arm_alone_is_called_by_the_run(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", 2, seed=1)
    b = folder(tmp_path / "b", 2, seed=2)
    groups = arms(members(a, b))
    assert [arm.label for arm in groups] == ["shapes run"]
    assert isinstance(groups[0], Arm)
