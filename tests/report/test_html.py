"""The report: self-contained, escaped, in light and dark, and not broken by what a broken run leaves."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from rlvis.observe import gallery
from rlvis.report import html

VOID = {"meta", "img", "input", "br", "hr", "link"}
EVIL = "<script>alert('x')</script><img src=http://evil.example/a.png>"


class Page(HTMLParser):
    """Tags with their attributes, visible text, and a check that every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        """Attributes of the tags of that name; `cls` is one of the classes."""
        cls = wanted.pop("cls", None)
        found = [attrs for name, attrs in self.tags if name == tag]
        return [a for a in found if cls is None or cls in (a.get("class") or "").split()]


def row(step: int, **more: float) -> dict[str, float]:
    return {
        "step": step,
        "reward/mean": step / 100,
        "reward/std": 0.1,
        "ratio/max_deviation": 1e-4,
        "ratio/max_deviation_first": 0.0,
        "clip/fraction_high": 0.2,
        "clip/fraction_low": 0.1,
        "update/grad_norm": 0.5,
        "reward/invalid_count": 1.0,
        **{f"time/{stage}": 0.1 for stage in ("rollout", "score", "weigh", "build", "update")},
        **more,
    }


def folder(tmp_path: Path, steps: int, sheets: tuple[int, ...] = (), name: str = "shapes run") -> Path:
    (tmp_path / "config.yaml").write_text(f"name: {json.dumps(name)}\nseed: 7\n")
    manifest = {
        "command": ["python", "train.py", "name=a b"],
        "git": {"commit": "abc123", "dirty": True},
        "n": {"x": 1},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps(row(step)) + "\n" for step in range(1, steps + 1))
    )
    for step in sheets:
        picture = torch.full((2, 3, 8, 8), step % 256, dtype=torch.uint8)
        gallery.write_samples(tmp_path, step, picture, ["a red circle", EVIL])
    return tmp_path


def page(run: Path) -> Page:
    path = html.write(run)
    assert path == run / "report.html"
    assert [file.name for file in run.glob("report*")] == ["report.html"]
    return Page(path.read_text(encoding="utf-8"))


def test_a_whole_run(tmp_path: Path) -> None:
    run = folder(tmp_path, 40, (5, 20, 40))
    shown = page(run)
    # first four of 40 steps: .01 .02 .03 .04; last four: .37 .38 .39 .40
    assert "Reward 0.025 -> 0.385 (+0.36; means over the first and last 4 of 40 steps)." in shown.text
    assert "shapes run" in shown.text
    assert "seed: 7" in shown.text
    assert "git checkout abc123\npython train.py 'name=a b'" in shown.text
    assert "The working tree had changes" in shown.text
    assert "n.x" in shown.text
    assert "It was exactly 0 in every step." in shown.text
    assert len(shown.all("svg")) == 5
    assert len(shown.all("img")) == 3
    assert [a["class"] for a in shown.all("figure", cls="sheet")] == [
        "card sheet end",
        "card sheet",
        "card sheet end",
    ]
    assert shown.all("input")[0]["max"] == "2"
    assert "What is missing" not in shown.text
    tiles = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", (run / "report.html").read_text()))
    assert tiles["samples masked as invalid"] == "40"
    assert tiles["max |ratio - 1|"] == "0.0001"


def test_nothing_is_fetched_and_ids_are_unique(tmp_path: Path) -> None:
    shown = page(folder(tmp_path, 30, (1, 30)))
    text = (tmp_path / "report.html").read_text()
    for _, attrs in shown.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert (attrs.get(name) or "#").startswith(("#", "data:image/")), attrs
    assert not re.search(r"@import|url\((?!#)", text)
    assert "http:" not in text.replace("&lt;img src=http:", "")  # the evil caption, as text
    assert "https:" not in text
    policy = shown.all("meta")[3]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert "default-src 'none'" in (policy["content"] or "")
    ids = [attrs["id"] for _, attrs in shown.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) > 50
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    assert used <= set(ids)


def test_light_and_dark_and_narrow(tmp_path: Path) -> None:
    page(folder(tmp_path, 3))
    text = (tmp_path / "report.html").read_text()
    assert "@media (prefers-color-scheme: dark)" in text
    assert '<meta name="viewport" content="width=device-width' in text
    light, dark = text.split("@media (prefers-color-scheme: dark)")
    for i in range(1, 7):
        assert f"--c{i}:" in light
        assert f"--c{i}:" in dark.split("</style>")[0]
    svg = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "currentColor" in svg
    assert "var(--c1)" in svg
    assert not re.findall(r"(?:fill|stroke): #", svg)  # no fixed colour that one of the two would swallow


def test_text_is_escaped_everywhere(tmp_path: Path) -> None:
    run = folder(tmp_path, 3, (1, 3), name=EVIL)
    (run / "manifest.json").write_text(json.dumps({"command": EVIL, EVIL: EVIL, "git": EVIL}))
    lines = [
        json.dumps(row(s, **{f"reward/{EVIL.replace('/', '')}/mean": 1.0, "reward/a$b_^/mean": 2.0}))
        for s in (1, 2)
    ]
    (run / "metrics.jsonl").write_text("\n".join(lines))
    shown = page(run)
    text = (run / "report.html").read_text()
    assert "<script>alert" not in text
    assert text.count("<script>") == 1
    assert len(shown.all("img")) == 2
    assert shown.text.count("<script>alert('x')</script>") >= 5  # title, heading, command, manifest, caption
    assert "a$b_^" in shown.text


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_few_steps(tmp_path: Path, steps: int) -> None:
    shown = page(folder(tmp_path, steps))
    assert len(shown.all("svg")) == (5 if steps else 0)
    sentence = {
        0: "No reward was written",
        1: "Reward 0.01 at step 1, the only step.",
        2: "Reward 0.01 -> 0.02 (+0.01",
    }
    assert sentence[steps] in shown.text
    assert ("Only one training step was written" in shown.text) == (steps == 1)
    assert ("No training step was written" in shown.text) == (steps == 0)
    assert "No sample sheets were written" in shown.text


def test_an_empty_folder(tmp_path: Path) -> None:
    shown = page(tmp_path)
    for sentence in (
        "config.yaml is missing.",
        "manifest.json is missing.",
        "metrics.jsonl is missing.",
        "The manifest names no command.",
    ):
        assert sentence in shown.text
    assert tmp_path.name in shown.text


def test_a_run_that_died_while_writing(tmp_path: Path) -> None:
    run = folder(tmp_path, 0, (1, 2, 3))
    lines = [
        json.dumps(row(1)),
        "garbage",
        json.dumps(row(2)),
        json.dumps(row(2, **{"reward/mean": 0.5})),
        "[1]",
    ]
    extra = json.dumps(row(3, **{"update/grad_norm": "NaN"}))
    (run / "metrics.jsonl").write_text("\n".join([*lines, extra, '{"step": 4, "rew']))
    (run / "manifest.json").write_text('{"command": ')
    (run / "config.yaml").write_text("a: [1\n")
    sheet = run / "samples" / "step_000002.png"
    sheet.write_bytes(sheet.read_bytes()[:100])
    (run / "samples" / "other.png").write_bytes(b"")
    shown = page(run)
    assert "last line of metrics.jsonl is cut off" in shown.text
    assert "Line 2 of metrics.jsonl cannot be read" in shown.text
    assert "Line 5 of metrics.jsonl cannot be read" in shown.text
    assert "manifest.json cannot be read" in shown.text
    assert "config.yaml cannot be read" in shown.text
    assert "The sample sheet of step 2 (step_000002.png) cannot be read" in shown.text
    assert "Steps left out because it was not finite: 1." in shown.text
    assert "Reward 0.01 -> 0.03" in shown.text
    assert len(shown.all("img")) == 2


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        html.write(tmp_path / "nowhere")


def test_long_runs_with_large_sheets_stay_small(tmp_path: Path) -> None:
    run = folder(tmp_path, 3000)
    (run / "samples").mkdir()
    noise = torch.randint(
        0, 256, (900, 1200, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    Image.fromarray(noise.numpy()).save(run / "samples" / "step_000000.png", compress_level=0)
    for step in range(1, 60):
        (run / "samples" / f"step_{step:06d}.png").write_bytes(
            (run / "samples" / "step_000000.png").read_bytes()
        )
    shown = page(run)
    assert (run / "report.html").stat().st_size < html.LIMIT
    assert len(shown.all("img")) == 24
    assert "24 of 60 sheets are shown" in shown.text
    assert "Step 0" in shown.text
    assert "Step 59" in shown.text


def test_panels_are_the_callers_choice(tmp_path: Path) -> None:
    from rlvis.report import panels

    def mine(run: panels.RunFolder) -> panels.Panel:
        return panels.Panel("Mine", "table", panels.Table(("k", "v"), [("name", run.name)]))

    html.write(folder(tmp_path, 2), [mine])
    shown = Page((tmp_path / "report.html").read_text())
    assert "Mine" in shown.text
    assert not shown.all("svg")


def trust_line(step: int, prompt: int, weight: float, **more: object) -> str:
    line = {"step": step, "prompt": prompt, "text": f"prompt {prompt} {EVIL}", "objective": "sum", "count": 4}
    return (
        json.dumps({**line, "mean": 0.25, "std": 0.1, "prior_mean": 0.125, "weight": weight, **more}) + "\n"
    )


def trust_tables(run: Path) -> list[list[list[str]]]:
    """The cells of the tables in the trust section."""
    html.write(run)
    section = (run / "report.html").read_text().split('<section class="parts">')[1].split("</section>")[0]
    tables = re.findall(r"<tbody>(.*?)</tbody>", section, re.S)
    return [
        [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", r, re.S) for r in re.findall(r"<tr>(.*?)</tr>", t, re.S)]
        for t in tables
    ]


def test_trust_is_absent_without_its_file(tmp_path: Path) -> None:
    shown = page(folder(tmp_path, 2))
    assert not shown.all("section", cls="parts")
    assert "rust.jsonl" not in shown.text


def test_most_and_least_trusted_prompts(tmp_path: Path) -> None:
    run = folder(tmp_path, 0)
    more = {"trust/weight_mean": 1.0, "trust/weight_min": 0.5, "trust/weight_max": 1.5}
    rows = [row(step, **more, **{"trust/effective_groups": 11.0}) for step in (1, 2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    lines = [trust_line(1, p, 0.5 + p / 12) for p in range(12)]
    lines += [trust_line(2, 0, 0.3, mean=0.75), "garbage\n"]
    lines += [trust_line(2, 50, 1.0, mean=None)]  # not a valid sample: no group to list
    (run / "trust.jsonl").write_text("".join(lines))
    shown = page(run)
    most, least = trust_tables(run)
    assert [r[0].split(" &lt;")[0] for r in most] == [f"prompt {p}" for p in (11, 10, 9, 8, 7)]
    assert [r[0].split(" &lt;")[0] for r in least] == [f"prompt {p}" for p in (0, 1, 2, 3, 4)]
    assert least[0][1:] == [
        "sum",
        "0.4",
        "0.5",
        "0.125",
        "2",
    ]  # mean weight of .5 and .3, mean of .25 and .75
    assert len(shown.all("svg")) == 7
    assert "left out: 1." in shown.text
    assert not [a for a in shown.all("script") if a]


@pytest.mark.parametrize(("prompts", "sizes"), [(1, [1]), (3, [2, 1]), (10, [5, 5]), (0, [])])
def test_no_prompt_is_listed_twice(tmp_path: Path, prompts: int, sizes: list[int]) -> None:
    run = folder(tmp_path, 2)
    (run / "trust.jsonl").write_text("".join(trust_line(1, p, 1.0) for p in range(prompts)))
    tables = trust_tables(run)
    assert [len(t) for t in tables] == sizes
    assert len({r[0] for t in tables for r in t}) == prompts
    assert ("was scored" in page(run).text) == (prompts == 0)
