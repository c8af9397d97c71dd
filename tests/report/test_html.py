"""The page of a run: self-contained, escaped, in light and dark, whole whatever a broken run leaves."""

from __future__ import annotations

import itertools
import json
import re
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from rlvis.report import html
from rlvis.report.panels import curves, verdict
from rlvis.report.panels.base import Context, Panel, Tab, Table
from tests.report.making import EVIL, Page, evaluation, folder, groups, row, rows, trust_line

pytestmark = pytest.mark.usefixtures("quick_figures")


def page(run: Path) -> Page:
    path = html.write(run)
    assert path == run / "report.html"
    assert [file.name for file in run.glob("report*")] == ["report.html"]
    return Page(path.read_text(encoding="utf-8"))


def facts(run: Path) -> dict[str, str]:
    return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", (run / "report.html").read_text()))


def test_a_whole_run(tmp_path: Path) -> None:
    run = folder(tmp_path, 40, (5, 20, 40))
    groups(run, 20)
    evaluation(run, 0, [0.0, 1.0])
    evaluation(run, 40, [1.0, 1.0])
    lines = [row(step) for step in range(1, 41)]
    rows(run, [{"step": 0, "eval/accuracy": 0.5}, *lines[:-1], lines[-1] | {"eval/accuracy": 1.0}])
    shown = page(run)
    wanted = [
        "overview",
        "curves",
        "health",
        "held-out",
        "samples",
        "best-worst",
        "trust",
        "maps",
        "time",
        "config",
    ]
    assert shown.tabs == wanted
    # The first four of 40 steps are .01 .02 .03 .04, the last four .37 .38 .39 .40; step 0 is before them.
    assert "Reward 0.025 -> 0.385 (+0.36; means over the first and last 4 of 40 steps)." in shown.text
    for sentence in (
        "shapes run",
        "seed: 7",
        "git checkout abc123\npython train.py 'name=a b'",
        "The working tree had changes",
        "n.x",
        "It was exactly 0 in every step.",
        "Healthy",
        "Finished: 40 of 40 steps.",
    ):
        assert sentence in shown.text
    assert facts(run)["training steps"] == "40"
    assert facts(run)["max |ratio - 1|"] == "0.0001"
    assert "What is missing" not in shown.text
    assert "could not be" not in shown.text


def test_samples_are_cut_from_their_sheets(tmp_path: Path) -> None:
    shown = page(folder(tmp_path, 40, (5, 20, 40)))
    frames = shown.all("div", cls="frame")
    assert [f["data-step"] for f in frames if "data-step" in f] == ["5", "20", "40"] * 2
    assert len(shown.all("img")) == 2 * 3 + 2 * 2  # two prompts through three steps; first and last once more
    assert shown.all("input")[0]["max"] == "2"
    assert [img["class"] for img in shown.all("img")] == ["pixels"] * 10
    assert all((img["width"], img["height"]) == ("128", "128") for img in shown.all("img"))


def test_sheets_that_do_not_say_where_their_pictures_are_stay_whole(tmp_path: Path) -> None:
    run = folder(tmp_path, 3, (1, 3))
    for sheet in (run / "samples").glob("*.png"):
        Image.open(sheet).convert("RGB").save(sheet)  # without the notes inside
    frames = [f for f in page(run).all("div", cls="frame") if "data-step" in f]
    assert [f["data-step"] for f in frames] == ["1", "3"]


def test_nothing_is_fetched_and_ids_are_unique(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # real figures, with their ids
    run = folder(tmp_path, 30, (1, 30))
    groups(run, 30, EVIL)
    shown = page(run)
    text = (tmp_path / "report.html").read_text()
    for _, attrs in shown.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert (attrs.get(name) or "#").startswith(("#", "data:image/")), attrs
    assert not re.search(r"@import|url\((?!#)", text)
    assert "http:" not in text.replace("&lt;img src=http:", "")  # the evil caption, as text
    assert "https:" not in text
    policy = shown.all("meta")[3]
    assert policy["http-equiv"] == "Content-Security-Policy"
    for part in ("default-src 'none'", "img-src data:", "media-src data:"):
        assert part in (policy["content"] or "")
    svg = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "currentColor" in svg
    assert "var(--c1)" in svg
    assert not re.findall(r"(?:fill|stroke): #", svg)  # no fixed colour that light or dark would swallow
    ids = [attrs["id"] for _, attrs in shown.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) > 50
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    assert used <= set(ids)


def test_headings_descend_without_gaps_and_media_have_texts(tmp_path: Path) -> None:
    run = folder(tmp_path, 5, (1, 5))
    groups(run, 5)
    shown = page(run)
    levels = [int(tag[1]) for tag, _ in shown.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(now <= before + 1 for before, now in itertools.pairwise(levels))
    assert all(img["alt"] for img in shown.all("img"))
    assert all(svg.get("aria-label") for svg in shown.all("svg"))
    assert len(shown.all("label")) == len(shown.all("input")) + len(shown.all("select"))


def test_light_and_dark_and_narrow(tmp_path: Path) -> None:
    page(folder(tmp_path, 3))
    text = (tmp_path / "report.html").read_text()
    assert '<meta name="viewport" content="width=device-width' in text
    light, system, pressed = re.findall(r"\n\s*:root[^{]*\{(.*?)\n\s*\}", text, re.DOTALL)
    assert [part.strip() for part in system.split(";")] == [part.strip() for part in pressed.split(";")]
    for name in [f"--c{i}" for i in range(1, 7)] + [
        "--ink",
        "--soft",
        "--good",
        "--warn",
        "--bad",
        "--accent",
    ]:
        for theme in (light, system):
            assert contrast(theme, name) >= 4.5, name


def contrast(theme: str, name: str) -> float:
    """Of a colour on the paper, by the formula of WCAG 2."""

    def light(name: str) -> float:
        code = re.search(rf"{name}: #(\w+);", theme)[1]
        parts = [int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    high, low = sorted((light(name), light("--paper")), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_is_escaped_everywhere(tmp_path: Path) -> None:
    run = folder(tmp_path, 3, (1, 3), name=EVIL)
    (run / "manifest.json").write_text(
        json.dumps({"command": EVIL, EVIL: EVIL, "git": EVIL, "hardware": [EVIL]})
    )
    groups(run, 3, EVIL + "\u202eright to left\u202c " + "x" * 3000)
    finding = {"check": EVIL, "level": EVIL, "what": EVIL, "numbers": {EVIL: EVIL}, "why": EVIL, "type": EVIL}
    (run / "doctor.json").write_text(json.dumps({"mode": EVIL, "findings": [finding]}))
    (run / "trust.jsonl").write_text(trust_line(1, 1, 1.0))
    rows(
        run,
        [row(s, **{f"reward/{EVIL.replace('/', '')}/mean": 1.0, "reward/a$b_^/mean": 2.0}) for s in (1, 2)],
    )
    shown = page(run)
    text = (run / "report.html").read_text()
    assert "<script>alert" not in text
    assert text.count("<script>") == 1
    assert not [img for img in shown.all("img") if not (img["src"] or "").startswith("data:")]
    assert shown.text.count("<script>alert('x')</script>") >= 8  # title, heading, command, doctor, captions
    assert "a$b_^" in shown.text
    assert "x" * 2001 not in text


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_few_steps(tmp_path: Path, steps: int) -> None:
    shown = page(folder(tmp_path, steps))
    sentence = {
        0: "No reward was written",
        1: "Reward 0.01 at step 1, the only step.",
        2: "Reward 0.01 -> 0.02 (+0.01",
    }
    assert sentence[steps] in shown.text
    assert bool(shown.all("svg")) == bool(steps)
    assert ("Only one training step was written" in shown.text) == (steps == 1)
    assert ("No training step was written" in shown.text) == (steps == 0)
    assert "No sample sheets were written" in shown.text
    assert ("Unknown" in shown.text) == (steps == 0)
    assert "could not be" not in shown.text


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
    run = folder(tmp_path, 9, (1, 2, 3))
    lines = [
        json.dumps(row(1)),
        "garbage",
        json.dumps(row(2)),
        json.dumps(row(2, **{"reward/mean": 0.5})),
        "[1]",
    ]
    extra = json.dumps(row(3, **{"update/grad_norm": "NaN", "kl/approx": "Infinity"}))
    (run / "metrics.jsonl").write_text("\n".join([*lines, extra, '{"step": 1e999}', '{"step": 4, "rew']))
    (run / "manifest.json").write_text('{"command": ')
    for name in ("trust.jsonl", "details.jsonl", "doctor.json", "exit.json"):
        (run / name).write_text('{"step": 1, "prom')
    groups(run, 1).joinpath("index.json").write_text('{"step":')
    sheet = run / "samples" / "step_000002.png"
    sheet.write_bytes(sheet.read_bytes()[:100])
    (run / "samples" / "other.png").write_bytes(b"")
    (run / "eval").mkdir()
    (run / "eval" / "summary.json").write_text('{"evaluations": [{"step": 1}, 7')
    shown = page(run)
    for sentence in (
        "last line of metrics.jsonl is cut off",
        "Lines 2, 5, 7 of metrics.jsonl cannot be read",
        "manifest.json cannot be read",
        "doctor.json cannot be read",
        "groups/step_000001/index.json cannot be read",
        "The sample sheet of step 2 (step_000002.png) cannot be read",
        "eval/summary.json cannot be read",
        "Steps left out because a value was not finite: 1.",
        "Unfinished: 3 of 9 steps.",
        "Reward 0.01 -> 0.03",
    ):
        assert sentence in shown.text
    assert "could not be" not in shown.text


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    run = folder(tmp_path, 3)
    kept = groups(run, 3)
    (kept / "p001_s01.png").write_bytes(b"no picture")
    (kept / "p001_s00_map.png").unlink()
    index = json.loads((kept / "index.json").read_text())
    index["best"].append(index["best"][0] | {"file": "../../config.yaml"})  # leads out of the folder
    (kept / "index.json").write_text(json.dumps(index))
    shown = page(run)
    assert "p001_s01.png cannot be read" in shown.text
    assert "p001_s00_map.png cannot be read" in shown.text
    assert "config.yaml cannot" not in shown.text


def test_a_panel_that_fails_is_named_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(context: Context) -> Panel:
        raise ZeroDivisionError(f"by {EVIL}")

    def figure(*args: object, **more: object) -> str:
        raise OverflowError

    monkeypatch.setattr(curves.plots, "band", figure)
    panels = (("Mine", broken), ("Reward", curves.curves), ("Verdict", verdict.verdict))
    html.write(folder(tmp_path, 2), [Tab("mine", "Mine", panels)])
    shown = Page((tmp_path / "report.html").read_text())
    assert "This panel could not be made. ZeroDivisionError: by <script>" in shown.text
    assert "This figure could not be drawn: OverflowError." in shown.text
    assert "Reward 0.01 -> 0.02" in shown.text
    assert "the panel 'Mine' of the report failed" in caplog.text


def test_panels_are_the_callers_choice(tmp_path: Path) -> None:
    def mine(context: Context) -> Panel:
        return Panel("Mine", "table", Table(("k", "v"), [("name", context.run.name)]))

    def nothing(context: Context) -> None:
        return None

    tabs = [Tab("a", "A", (("Mine", mine),)), Tab("b", "B", (("Nothing", nothing),))]
    html.write(folder(tmp_path, 2), tabs)
    assert Page((tmp_path / "report.html").read_text()).tabs == ["a"]


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        html.write(tmp_path / "nowhere")


def test_long_runs_with_many_terms_and_large_sheets_stay_small_and_quick(tmp_path: Path) -> None:
    run = folder(tmp_path, 1)
    terms = [f"reward/term {n}/mean" for n in range(64)]
    rows(run, [row(step, **dict.fromkeys(terms, step / 7)) for step in range(1, 5001)])
    (run / "trust.jsonl").write_text("".join(trust_line(s, s % 50, 1.0) for s in range(5000)))
    (run / "samples").mkdir()
    noise = torch.randint(
        0, 256, (300, 400, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    Image.fromarray(noise.numpy()).save(run / "samples" / "step_000000.png", compress_level=0)
    for step in range(1, 60):
        (run / "samples" / f"step_{step:06d}.png").symlink_to(run / "samples" / "step_000000.png")
    start = time.process_time()
    shown = page(run)
    assert time.process_time() - start < 30  # 5 s alone; a loop over steps and keys would take minutes
    assert (run / "report.html").stat().st_size < html.LIMIT
    frames = [f["data-step"] for f in shown.all("div", cls="frame") if "data-step" in f]
    assert (len(frames), frames[0], frames[-1]) == (24, "0", "59")
    assert "24 of 60 steps are shown" in shown.text
    assert "Of 64 terms, the 8 that moved the most" in shown.text


def test_a_page_too_large_is_made_again_with_fewer_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folder(tmp_path, 2)
    groups(run, 2)
    html.write(run)
    size = (run / "report.html").stat().st_size
    monkeypatch.setattr(html, "LIMIT", size - 100)
    shown = page(run)
    assert (run / "report.html").stat().st_size <= size - 100
    assert "is left out, the page has no room for it" in shown.text
