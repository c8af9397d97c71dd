"""Pages in a real browser: no request, no error, tabs and sliders that work, nothing wider than a phone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis.observe import video
from rlvis.report import html
from rlvis.report.compare import page as comparison
from tests.report.making import folder, groups

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
LONG = "a very long word: " + "circle" * 60

pytest.importorskip("playwright")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no installed Chromium was found")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


def opened(browser: Any, path: Path, width: int = 1280) -> tuple[Any, list[str]]:
    """The page at a width, and a list that collects whatever goes wrong in it."""
    view = browser.new_page(viewport={"width": width, "height": 800}, color_scheme="light")
    wrong: list[str] = []
    view.on("console", lambda message: wrong.append(f"console: {message.text}"))
    view.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    here = path.as_uri()
    view.on(
        "request",
        lambda request: request.url.startswith((here, "data:")) or wrong.append(f"request: {request.url}"),
    )
    view.goto(here)
    return view, wrong


def run(path: Path, **config: Any) -> Path:
    """A run with samples over three steps, groups, and a clip among its best samples."""
    made = folder(path, 4, (0, 2, 4), **config)
    kept = groups(made, 2, LONG)
    video.write(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), kept / "clip.mp4", 8)
    index = kept / "index.json"
    index.write_text(
        index.read_text().replace('"best": [{"file": "p001_s00.png"', '"best": [{"file": "clip.mp4"')
    )
    groups(made, 4, LONG)
    return made


def widest(view: Any) -> int:
    """By how many pixels a tab is wider than the window, at most."""
    over = 0
    for tab in view.query_selector_all(".tabs a"):
        tab.click()
        over = max(over, view.evaluate("document.documentElement.scrollWidth - innerWidth"))
    return over


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return html.write(run(tmp_path_factory.mktemp("run")))


def eventually(view: Any, expression: str) -> None:
    """Ask until it is true, at most 10 s. From here, because the page's policy forbids it to evaluate text,
    which `wait_for_function` asks of it from the second time on.
    """
    for _ in range(200):
        if view.evaluate(expression):
            return
        view.wait_for_timeout(50)
    raise AssertionError(f"not true in 10 s: {expression}")


def visible(view: Any) -> list[str]:
    """Names of the tabs that show their contents."""
    names: list[str] = view.eval_on_selector_all(
        ".pane", "all => all.filter(pane => pane.offsetParent).map(pane => pane.id)"
    )
    return names


def pictures(view: Any) -> list[str]:
    """What is shown of the first fixed prompt."""
    shown = "#samples .prompt:first-child .frame:not([hidden]) img"
    sources: list[str] = view.eval_on_selector_all(shown, "all => all.map(img => img.src)")
    return sources


def test_the_page_of_a_run_works(browser: Any, report: Path) -> None:
    view, wrong = opened(browser, report)
    assert visible(view) == ["overview"]
    view.click("#tab-samples")
    assert visible(view) == ["samples"]
    first, last = pictures(view)
    view.focus("#samples input")
    view.keyboard.press("ArrowLeft")
    moved = pictures(view)
    assert moved[0] == first
    assert moved[1] not in (first, last)
    assert view.inner_text("#samples output") == "2"
    view.select_option("#samples select", "1")  # one prompt, all of its steps
    assert view.locator("#samples .prompt:visible").count() == 1
    assert view.locator("#samples .frame:visible").count() == 3
    view.focus("#tab-samples")
    view.keyboard.press("ArrowRight")
    assert visible(view) == ["best-worst"]
    view.select_option("#best-worst select", "2")
    assert view.locator("#best-worst .block:visible").count() == 1
    clip = "document.querySelector('#best-worst video')"
    eventually(view, f"{clip}.readyState > 0 && !{clip}.paused")  # it decodes, and plays while seen
    view.focus("#best-worst video")
    view.keyboard.press("Space")
    assert view.evaluate(f"{clip}.paused")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = view.evaluate(paper)
    view.click(".theme")
    assert view.evaluate(paper) != light
    view.click(".theme")
    assert view.evaluate(paper) == light
    view.evaluate("location.hash = 'trust'")  # as a link to a tab does
    view.wait_for_selector("#trust:visible")
    assert visible(view) == ["trust"]
    view.set_viewport_size({"width": 360, "height": 800})
    assert widest(view) <= 0
    assert wrong == []
    view.close()


def test_a_comparison_works(browser: Any, report: Path, tmp_path: Path, quick_figures: None) -> None:
    runs = [run(tmp_path / name, optim__lr=lr) for name, lr in (("b", 0.2), (LONG[-200:], 0.3))]
    view, wrong = opened(browser, comparison.write([report.parent, *runs], tmp_path / "c.html"), 360)
    assert widest(view) <= 0
    view.click("#tab-overview")
    # On a phone a row is a list of its cells, each with the name of its column: none is out of sight.
    table = "#overview .scroll"
    assert view.eval_on_selector(table, "box => box.scrollWidth - box.clientWidth") <= 0
    assert (
        view.eval_on_selector(f"{table} td", "cell => getComputedStyle(cell, '::before').content")
        == '"verdict"'
    )
    view.click("#tab-samples")
    assert view.locator("#samples img:visible").count() == 6
    assert wrong == []
    view.click("#tab-overview")
    view.click("#overview th a")
    assert view.url == report.as_uri()
    view.close()


def test_without_scripts_everything_is_there(browser: Any, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 360, "height": 800})
    view = context.new_page()
    view.goto(report.as_uri())
    assert view.locator(".pane:visible").count() == view.locator(".pane").count() > 5
    assert view.locator("#samples .frame:visible").count() == 6
    assert view.locator(".controls:visible, .theme:visible").count() == 0
    context.close()
