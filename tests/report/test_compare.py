"""Comparisons: which runs are one arm, what arms and runs are called, and what the page says of them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlvis.observe.history import Series
from rlvis.report import folder as folders
from rlvis.report import judge
from rlvis.report.compare import names, outcome, page, results, samples, verdicts
from rlvis.report.compare.arms import Member, arms, base_of, differing, over_runs
from rlvis.report.compare.measured import Several
from tests.report.making import EVIL, Page, evaluation, folder, row, rows

pytestmark = pytest.mark.usefixtures("quick_figures")


def members(*runs: Path) -> list[Member]:
    read = [folders.read(run) for run in runs]
    return [Member(run, judge.judge(run), run.path.name) for run in read]


def several(*runs: Path, base: str | None = None, threshold: float | None = None) -> Several:
    found = arms(members(*runs))
    return Several(found, runs[0].parent / "x.html", base_of(found, base), threshold)


def sweep(tmp_path: Path) -> list[Path]:
    """Two seeds of one arm, two of another, with evaluations."""
    runs = []
    for name, lr, seed in (("a0", 0.1, 0), ("a1", 0.1, 1), ("b0", 0.2, 0), ("b1", 0.2, 1)):
        run = folder(tmp_path / name, 4, (2, 4), optim__lr=lr, seed=seed, run_dir=str(tmp_path / name))
        rows(run, [row(step, **{"reward/mean": step * lr + seed}) for step in range(1, 5)])
        evaluation(run, 4, [0.1 + lr, 0.5 + lr + seed / 10, 0.8 + lr])
        runs.append(run)
    return runs


def study(tmp_path: Path, gains: dict[str, float], seeds: int = 3, pictures: int = 0) -> list[Path]:
    """Runs of arms that were typed as advantage=NAME, evaluated on 12 prompts before and after 4 steps."""
    rng, runs = np.random.default_rng(0), []
    start = rng.uniform(0.1, 0.5, 12)
    for name, gain in gains.items():
        for seed in range(seeds):
            run = folder(tmp_path / f"{name}{seed}", 4, optim__lr=gain + 1, seed=seed)
            typed(run, f"rlvis train advantage={name} seed={seed} eval=shapes")
            rows(
                run,
                [row(step, **{"reward/mean": gain * step / 4, "eval/score": 0.0}) for step in range(1, 5)],
            )
            evaluation(run, 0, list(start), pictures=pictures)
            after = start + gain + rng.normal(scale=0.02, size=12) * (gain != 0)
            evaluation(run, 4, list(after), pictures=pictures)
            runs.append(run)
    return runs


def typed(run: Path, command: str) -> Path:
    (run / "manifest.json").write_text(json.dumps({"command": command}))
    return run


def said(several: Several) -> list[tuple[str, str]]:
    """Kind and text of the sentences."""
    panel = outcome.outcome(several)
    assert panel is not None
    return [(sentence.kind, sentence.text) for sentence in panel.data]


def test_runs_that_differ_only_in_their_seed_are_one_arm(tmp_path: Path) -> None:
    groups = arms(members(*sweep(tmp_path)))
    assert [[m.folder for m in arm.members] for arm in groups] == [["a0", "a1"], ["b0", "b1"]]
    assert [arm.title for arm in groups] == ["lr=0.1 (n=2)", "lr=0.2 (n=2)"]
    assert [m.label for m in groups[1].members] == ["lr=0.2, seed 0", "lr=0.2, seed 1"]


def test_arms_are_called_by_what_was_typed_for_them(tmp_path: Path) -> None:
    def labels(*commands: str) -> list[str]:
        runs = [
            typed(folder(tmp_path / f"{n}", 2, optim__lr=n, seed=n), f"python train.py train.steps=2 {words}")
            for n, words in enumerate(commands, 1)
        ]
        return [arm.label for arm in arms(members(*runs))]

    assert labels("advantage=grpo seed=1", "advantage=bpgo") == ["grpo", "bpgo"]
    assert labels("seed=3", "advantage=vipo", "optim.lr=0.5") == ["defaults", "vipo", "lr=0.5"]
    # What ends alike is called in full, and so is what would be called the same.
    assert labels("a.lr=1 trust=x", "b.lr=1 prior=x") == ["a.lr=1 x", "b.lr=1 x"]
    assert labels("trust=ras", "prior=ras") == ["trust=ras", "prior=ras"]
    # A command line that cannot be read tells nothing, so the keys that differ have to.
    assert labels("advantage=grpo", "advantage=bpgo 'x") == ["lr=1", "lr=2"]


def test_runs_are_called_by_arm_and_seed() -> None:
    assert names.of_runs("bpgo", ["0", "1"], ["d0", "d1"], False) == ["bpgo, seed 0", "bpgo, seed 1"]
    assert names.of_runs("bpgo", ["0", "1"], ["d0", "d1"], True) == ["seed 0", "seed 1"]
    assert names.of_runs("bpgo", ["0", "0", None], ["d0", "d1", "d2"], False) == [
        "bpgo, seed 0 (d0)",
        "bpgo, seed 0 (d1)",
        "d2",
    ]


def test_an_arm_alone_is_called_by_the_run(tmp_path: Path) -> None:
    alone = several(folder(tmp_path / "a", 2, seed=1), folder(tmp_path / "b", 2, seed=2))
    assert [arm.label for arm in alone.arms] == ["shapes run"]
    assert [member.label for member in alone.members] == ["seed 1", "seed 2"]
    assert outcome.outcome(alone) is None  # nothing to win over


def test_the_base_is_grpo_or_what_was_asked_for(tmp_path: Path) -> None:
    runs = study(tmp_path, {"bpgo": 0.3, "grpo": 0.1}, seeds=1)
    assert several(*runs).base.label == "grpo"
    assert several(*runs, base="bpgo").base.label == "bpgo"
    with pytest.raises(ValueError, match="base=vipo is no arm; these are: bpgo, grpo"):
        several(*runs, base="vipo")


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


def test_a_sentence_for_each_arm_says_who_wins(tmp_path: Path) -> None:
    whole = several(*study(tmp_path, {"grpo": 0.1, "bpgo": 0.2, "vipo": 0.101, "worse": -0.1}))
    score = [(kind, text) for kind, text in said(whole) if "score" in text]
    (better, beats), (open_, even), (worse, loses) = score
    assert (better, open_, worse) == ("better", "open", "worse")
    assert beats.startswith("bpgo beats grpo on held-out score by +0.1")
    assert beats.endswith(", 12 prompts x 3 seeds).")
    assert "95 % +0.0" in beats
    assert even.startswith("vipo and grpo cannot be told apart on held-out score: ")
    assert loses.startswith("worse loses to grpo on held-out score by -0.2")
    panel = outcome.outcome(whole)
    assert panel is not None
    assert "Holm's correction for 3 arms" in panel.note
    assert "fewer than 3 seeds" not in panel.note


def test_no_interval_is_made_of_what_cannot_bear_one(tmp_path: Path) -> None:
    """Two arms that do the same, and three prompts: neither gets +0.000 .. +0.000."""
    same = said(several(*study(tmp_path / "s", {"grpo": 0.0, "bpgo": 0.0000001})[:4]))
    assert same[0] == (
        "open",
        "bpgo and grpo are equal on held-out accuracy: the same on all 12 prompts.",
    )
    few = said(several(*sweep(tmp_path / "few")))
    assert few[1] == (
        "open",
        "lr=0.2 and lr=0.1 cannot be told apart on held-out score: +0.10, "
        "3 prompts, too few for an interval.",
    )


def test_two_seeds_say_nothing_of_seeds(tmp_path: Path) -> None:
    two = several(*study(tmp_path, {"grpo": 0.1, "bpgo": 0.3}, seeds=2))
    (text,) = [text for kind, text in said(two) if kind == "better" and "score" in text]
    assert text.startswith("The bpgo runs did better than grpo's on held-out score by +0.2")
    assert text.endswith(", 12 prompts x 2 seeds, over prompts alone).")
    panel = outcome.outcome(two)
    assert panel is not None
    assert "fewer than 3 seeds" in panel.note


def test_rewards_are_compared_where_nothing_was_held_out(tmp_path: Path) -> None:
    terms = {"checker": {"scorer": "checker", "weight": 1.0}}

    def run(name: str, lr: float, seed: int, gain: float, **config: Any) -> Path:
        made = folder(tmp_path / name, 2, optim__lr=lr, seed=seed, **config)
        rows(made, [row(1), row(2, **{"reward/mean": gain + seed + seed**2 / 100})])
        return made

    a = [run(f"a{s}", 0.1, s, 0.5, reward={"terms": terms}) for s in range(3)]
    b = [run(f"b{s}", 0.2, s, 0.8 + s / 100, reward={"terms": terms}) for s in range(3)]
    kind, text = said(several(*a, *b))[0]
    # Differences 0.30, 0.31, 0.32: 0.31 +- 4.3027 * 0.01 / sqrt(3).
    assert kind == "better"
    assert text.startswith(
        "lr=0.2 beats lr=0.1 on the reward trained on by +0.310 (95 % +0.285 .. +0.335, 3 se"
    )
    kind, text = said(several(*a[:2], *b[:2]))[0]
    assert (kind, text.endswith("2 seeds in common, too few for an interval.")) == ("open", True)
    other = run("c", 0.3, 0, 0.9, reward={"terms": {"jpeg": {"scorer": "jpeg", "weight": 1.0}}})
    apart = outcome.outcome(several(*a, other))
    assert apart is not None
    assert apart.data == []
    assert "trained on different rewards" in apart.note


def cells(table: Any, row: int) -> dict[str, str]:
    """A row by its header; the intervals, which share a name, by what stands before them."""
    found: dict[str, str] = {}
    last = ""
    for name, cell in zip(table.header, table.rows[row], strict=True):
        found[f"{last}, 95 %" if name == "95 %" else name] = str(cell)
        last = name
    return found


def test_results_of_arms_are_tables(tmp_path: Path) -> None:
    panel = results.held_out(several(*study(tmp_path, {"grpo": 0.1, "bpgo": 0.2})))
    assert panel is not None
    score = next(part for part in panel.data if part.title == "score")
    base, other = cells(score.data, 0), cells(score.data, 1)
    assert (base["arm"], base["from grpo"], base["better on"], base["prompts"], base["runs"]) == (
        "grpo", "-", "-", "12", "3",
    )  # fmt: skip
    assert base["gain"].startswith("+0.1")
    assert other["better on"] == "100%"
    low, high = map(float, other["from grpo, 95 %"].split(" .. "))
    assert 0.08 < low < float(other["from grpo"]) < high < 0.12
    assert float(other["p, Holm"].removeprefix("< ")) <= 0.01


def test_other_prompts_or_settings_are_not_passed_over(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", 2), folder(tmp_path / "b", 2, optim__lr=0.5)
    evaluation(a, 2, [0.1, 0.2])
    evaluation(b, 2, [0.1, 0.2], ["not", "these"])
    summary = b / "eval" / "summary.json"
    summary.write_text(summary.read_text().replace('"samples": 1,', '"samples": 4,'))
    both = several(a, b)
    panel = results.held_out(both)
    assert panel is not None
    assert cells(panel.data[0].data, 1)["from lr=0.001"] == "other prompts"
    assert "Beware: the evaluations differ in samples." in panel.note
    assert "share no prompt" in said(both)[0][1]
    (a / "eval" / "summary.json").write_text(json.dumps({"evaluations": []}))
    assert results.held_out(several(a)) is None


def test_a_run_that_was_not_evaluated_to_the_end_is_named(tmp_path: Path) -> None:
    runs = study(tmp_path, {"grpo": 0.1, "bpgo": 0.2})
    summary = runs[4] / "eval" / "summary.json"
    entries = json.loads(summary.read_text())
    entries["evaluations"].pop()
    summary.write_text(json.dumps(entries))
    panel = outcome.outcome(several(*runs))
    assert panel is not None
    assert "after 4 steps, and left out: bpgo, seed 1." in panel.note
    assert any("12 prompts x 2 seeds" in sentence.text for sentence in panel.data)


def test_steps_samples_and_minutes_to_what_the_base_ends_at(tmp_path: Path) -> None:
    def run(name: str, curve: Sequence[float], **config: Any) -> Path:
        made = folder(tmp_path / name, 4, data={"prompts_per_step": 8, "samples_per_prompt": 6}, **config)
        evaluated = {2 * i: value for i, value in enumerate(curve)}
        rows(
            made,
            [
                ({"step": 0} if step == 0 else row(step, **{"time/step": 30.0}))
                | ({"eval/accuracy": evaluated[step]} if step in evaluated else {})
                for step in range(5)
            ],
        )
        return made

    a = [run("a0", [0.1, 0.3, 0.5], seed=0), run("a1", [0.1, 0.2, 0.3], seed=1)]
    b = [run("b0", [0.1, 0.45, 0.6], seed=0, optim__lr=0.5)]
    panel = results.threshold(several(*a, *b))
    assert panel is not None
    assert panel.title == "To a held-out accuracy of 0.4"  # the mean of 0.5 and 0.3
    assert panel.data.rows[0][1:] == ("1 of 2", "4", "192", "2")
    assert panel.data.rows[1][1:] == ("1 of 1", "2", "96", "1")
    typed_one = results.threshold(several(*a, *b, threshold=0.3))
    assert typed_one is not None
    assert typed_one.data.rows[0][1:] == ("2 of 2", "3 (2 .. 4)", "144 (96 .. 192)", "1.5 (1 .. 2)")
    none = results.threshold(several(run("c", [0.5, 0.4, 0.5]), b[0]))
    assert none is not None
    assert none.data == ""
    assert "type threshold" in none.note.lower()


def test_what_the_machine_did_stands_apart(tmp_path: Path) -> None:
    slow = folder(tmp_path / "slow", 60, seed=0)
    rows(slow, [row(step, **{"time/step": 0.6 if step < 30 else 6.0}) for step in range(1, 61)])
    off = folder(tmp_path / "off", 2, seed=1)
    off_rows = [row(1), row(2, **{"ratio/max_deviation_first": 0.9})]
    rows(off, off_rows)
    full = folder(tmp_path / "full", 2, seed=2)
    ended = {"code": 1, "error": "OutOfMemoryError", "message": "no memory", "frames": []}
    (full / "exit.json").write_text(json.dumps(ended))
    for run in (slow, off, full):
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(config.replace("steps: 2\n", "steps: 60\n"))
    whole = several(slow, off, full)
    assert [verdicts.verdict(member) for member in whole.members] == ["healthy", "broken", "healthy"]
    (arm,) = verdicts.of_arms(whole).data.rows
    assert "broken" in arm[1]
    assert arm[2] == "1 broken, 2 healthy; 2 unfinished"
    assert "steps-slower" in arm[3]
    assert "failed" in arm[3]
    assert arm[-1].startswith("ratio-first: ")
    assert arm[-1].endswith("(1 of 3 runs)")


def test_pictures_of_the_arms_stand_side_by_side(tmp_path: Path) -> None:
    runs = study(tmp_path, {"grpo": 0.1, "bpgo": 0.2}, pictures=12)
    panel = samples.samples(several(*runs))
    assert panel is not None
    apart, even = panel.data
    assert (apart.title, even.title) == ("Where the arms differ most", "Spread over the others")
    (first, *others) = apart.data[0].rows
    assert [card.value for card in first.cards] == ["before training", "grpo", "bpgo"]
    assert all(card.shown for card in first.cards)
    gaps = [float(r.cards[2].details) - float(r.cards[1].details) for r in (first, *others)]
    assert gaps == sorted(gaps, reverse=True)
    shown = [r.title for part in panel.data for r in part.data[0].rows]
    assert sorted(shown) == sorted(f"prompt {n}" for n in range(12))
    assert samples.held_out(several(*sweep(tmp_path / "without"))) is None


def test_the_page_of_a_folder_of_runs(tmp_path: Path) -> None:
    runs = sweep(tmp_path / "my sweep")
    (runs[0] / "report.html").write_text("its own")
    rows(runs[1], [row(1), row(2, **{"ratio/max_deviation_first": 0.9})])
    path = page.write(runs)
    assert path == tmp_path / "my sweep" / "report.html"
    shown = Page(path.read_text())
    assert shown.tabs == ["overview", "held-out", "samples", "curves", "time", "config"]
    links = [a["href"] for a in shown.all("a") if not (a["href"] or "").startswith("#")]
    assert links == ["a0/report.html"]
    assert "my sweep: 4 runs compared" in shown.text
    assert "4 runs in 2 arms" in shown.text
    assert "2 / 4 (unfinished)" in shown.text
    assert "ratio-first" in shown.text
    assert len(shown.all("img")) == 4 * 2  # two prompts of every run's last sheet
    assert "Without a report of their own yet" in shown.text
    assert "could not be" not in shown.text
    # The sentences are the first thing on it.
    assert shown.text.index("cannot be told apart") < shown.text.index("Verdicts")


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
    assert names.folders([runs[0], tmp_path / "t" / "a0"]) == ["s/a0", "t/a0"]


def test_runs_with_nothing_in_them_are_still_compared(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", 0, name=EVIL)
    b = tmp_path / f"b & {EVIL.replace('/', '')}"
    b.mkdir()
    (b / "metrics.jsonl").write_text('{"step": 1, "reward/mean": "NaN"}\n{"ste')
    shown = Page(page.write([a, b], tmp_path / "c.html").read_text())
    assert "<script>alert" not in (tmp_path / "c.html").read_text()
    assert "could not be" not in shown.text
