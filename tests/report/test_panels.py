"""What the panels of a page say: changes from the defaults, trusted prompts and why, health row by row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlvis.report import folder as folders
from rlvis.report import html, judge
from tests.report.making import Page, folder, groups, row, rows, trust_line

pytestmark = pytest.mark.usefixtures("quick_figures")


def page(run: Path) -> Page:
    return Page(html.write(run).read_text(encoding="utf-8"))


def test_changes_from_the_defaults(tmp_path: Path) -> None:
    run = folder(tmp_path, 3, optim__lr=0.5, run_dir="somewhere")
    assert "The defaults are not known here" in page(run).text
    html.write(run, defaults={"optim": {"lr": 1e-3, "eps": 1.0}, "seed": 7, "run_dir": None})
    section = (run / "report.html").read_text().split("Changed from the defaults", 1)[1].split("</table>")[0]
    cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", section)
    assert cells[3:6] == ["advantage.preset", "-", "flow_grpo"]
    assert "optim.lr 0.001 0.5" in " ".join(cells)
    assert "optim.eps 1.0 -" in " ".join(cells)
    assert "run_dir" not in cells
    assert "seed" not in cells


def trust_tables(run: Path) -> list[list[list[str]]]:
    """The cells of the tables in the trust tab."""
    html.write(run)
    section = (run / "report.html").read_text().split('<section id="trust"')[1].split("</section>")[0]
    tables = re.findall(r"<tbody>(.*?)</tbody>", section, re.S)
    return [
        [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", r, re.S) for r in re.findall(r"<tr>(.*?)</tr>", t, re.S)]
        for t in tables
    ]


def test_tabs_of_methods_that_were_not_used_are_absent(tmp_path: Path) -> None:
    shown = page(folder(tmp_path, 2))
    assert shown.tabs == ["overview", "curves", "health", "samples", "time", "config"]
    assert "rust.jsonl" not in shown.text


def test_most_and_least_trusted_prompts(tmp_path: Path) -> None:
    run = folder(tmp_path, 2)
    lines = [trust_line(1, p, 0.5 + p / 20) for p in range(20)]
    lines += [trust_line(2, 0, 0.3, mean=0.75), "garbage\n", trust_line(2, 1, float("nan"))]
    lines += [trust_line(2, 50, 1.0, mean=None)]  # not a valid sample: no group to list
    (run / "trust.jsonl").write_text("".join(lines))
    most, least = trust_tables(run)
    assert [r[0].split(" &lt;")[0] for r in most] == [f"prompt {p}" for p in range(19, 11, -1)]
    assert [r[0].split(" &lt;")[0] for r in least] == [f"prompt {p}" for p in range(8)]
    # mean weight of .5 and .3, mean of .25 and .75, std, prior mean, no variance, gap, two groups
    assert least[0][1:] == ["sum", "0.4", "0.5", "0.1", "0.125", "-", "+0.375", "2"]
    assert "left out: 2." in (run / "report.html").read_text()


@pytest.mark.parametrize(("prompts", "sizes"), [(1, [1]), (3, [2, 1]), (16, [8, 8]), (0, [])])
def test_no_prompt_is_listed_twice(tmp_path: Path, prompts: int, sizes: list[int]) -> None:
    run = folder(tmp_path, 2)
    (run / "trust.jsonl").write_text("".join(trust_line(1, p, 1.0) for p in range(prompts)))
    tables = trust_tables(run)
    assert [len(t) for t in tables] == sizes
    assert len({r[0] for t in tables for r in t}) == prompts
    assert ("was scored" in (run / "report.html").read_text()) == (prompts == 0)


def test_why_a_group_was_trusted_is_said_in_words(tmp_path: Path) -> None:
    run = folder(tmp_path, 2)
    groups(run, 2)
    text = page(run).text
    assert "Weight 1.25 for sum, group mean 0.5 +- 0.1, prior 0.25 +- 0.2, 0.25 above it." in text
    assert "Weight 0.5 for sum, group mean 0.5 +- 0.1, no prior to compare with yet." in text


def test_health_is_judged_row_by_row(tmp_path: Path) -> None:
    run = folder(tmp_path, 20)
    rows(
        run,
        [row(step, **{"group/zero_variance_fraction": 0.9 if step == 4 else 0.0}) for step in range(1, 21)],
    )
    judged = judge.judge(folders.read(run))
    assert judged.verdict == "healthy"
    section = page(run).text.split("Curves with limits")[0]
    assert "outside in 1 of 20 steps, first at 4" in section
    assert "at most 0.5" in section
