"""Do the sentinels see a fooled reward, and how often do they cry in healthy runs?

    python -m benchmarks.sentinels --folder DIR     # runs what DIR lacks (minutes each), writes the tables

The hacking runs raise `redness`, an unbounded reward that a red screen fools. Healthy runs are the default
image and video experiments. What a run saw of its samples is in its metrics, so other thresholds are judged
from the same runs. Writes results/sentinels_cpu.md and .json, and docs/sentinels.png.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks import pages
from rlvis.compose.command import compose
from rlvis.observe import picture_statistics, sentinels
from rlvis.observe.sentinel_table import KINDS, unusual
from rlvis.observe.sentinels import Observation, Watch
from rlvis.observe.step_statistics import PREFIX
from rlvis.schema import SentinelConfig
from rlvis.training import loop

HACK = ["reward=[]", "+reward.terms.redness={scorer: benchmarks.sentinels.redness}", "train.steps=40"]
PLAIN = ["tracker.samples_every=0"]
RUNS: dict[str, list[str]] = {
    "hack lr=6e-4": [*HACK, "optim.lr=6e-4", "tracker.samples_every=2"],
    "hack lr=2e-4": HACK,
    "image seed=0": PLAIN,
    **{f"image seed={seed}": [*PLAIN, "train.steps=30", f"seed={seed}"] for seed in (1, 2)},
    **{f"video seed={seed}": [*PLAIN, "experiment=tiny_video", f"seed={seed}"] for seed in (0, 1)},
}
SETTINGS = [(t, p) for t in (3.0, 4.0, 5.0, 6.0, 8.0) for p in (1, 2, 3, 5)]
SOLID = 0.95  # of the reward's rise
PICTURE = Path(__file__).resolve().parents[1] / "docs" / "sentinels.png"
SHOWN, ROW = (0, 10, 16, 24), 195  # sample sheets in the picture, and pixels of their first row


def redness(images: Tensor, prompts: Any, metadata: Any) -> Tensor:
    """Red minus the mean of green and blue, of full scale: a red screen has the most."""
    mean = images.double().mean((1, 3, 4)) / 255
    return mean[:, 0] - mean[:, 1:].mean(1)


def train(folder: Path, name: str) -> list[dict[str, Any]]:
    """The metrics of a run, from its folder or trained now."""
    run = _place(folder, name)
    config = compose([*RUNS[name], "engine.device=cpu", "threads=1", "doctor=off"]).typed()
    if not (run / "exit.json").is_file():
        config.run_dir = str(run)
        loop.train(config, [])
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["step"] > 0]


def _place(folder: Path, name: str) -> Path:
    return folder / name.replace(" ", "_").replace("=", "")


def alarms(rows: list[dict[str, Any]], config: SentinelConfig) -> dict[str, int]:
    """Statistic -> step of its first alarm, judged anew from a run's metrics."""
    watch, first = Watch(), dict[str, int]()
    for row in rows:
        judged = sentinels.judge(watch, _observation(row), row["step"], config)
        watch = judged.watch
        for alarm in judged.alarms:
            first.setdefault(alarm.name, row["step"])
    return first


def largest(rows: list[dict[str, Any]], config: SentinelConfig) -> dict[str, float]:
    """Statistic -> its largest deviation on a side that counts."""
    watch, most = Watch(), dict[str, float]()
    for row in rows:
        judged = sentinels.judge(watch, _observation(row), row["step"], config)
        watch = judged.watch
        for name, deviation in judged.deviations.items():
            if unusual(name, deviation, 0.0):
                most[name] = max(most.get(name, 0.0), abs(deviation))
    return most


def _observation(row: Mapping[str, Any]) -> Observation:
    return Observation(pictures={n: row[PREFIX + n] for n in KINDS if PREFIX + n in row})


def solid(rows: list[dict[str, Any]]) -> int | None:
    """The step at which the reward has gone SOLID of the way to a red screen, None where it never stays flat:
    the last fifth must lie within a twentieth of the rise.
    """
    values = [row["reward/mean"] for row in rows]
    rise = max(values) - values[0]
    if min(values[-len(values) // 5 :]) < max(values) - rise / 20:
        return None
    return next(int(row["step"]) for row in rows if row["reward/mean"] >= values[0] + SOLID * rise)


def cost(side: int, rows: int = 8) -> float:
    """Milliseconds a picture on one thread."""
    torch.set_num_threads(1)
    media = torch.randint(0, 256, (rows, 1, 3, side, side)).to(torch.uint8)
    times = []
    for _ in range(3):
        start = time.process_time()
        picture_statistics.statistics(media)
        picture_statistics.thumbnails(media)
        times.append((time.process_time() - start) / rows * 1000)
    return min(times)


def measure(folder: Path) -> dict[str, Any]:
    """Everything that the page tells."""
    runs = {name: train(folder, name) for name in RUNS}
    usual = SentinelConfig()
    hacks = {
        name: {"solid": solid(rows), "steps": len(rows), "alarms": alarms(rows, usual)}
        for name, rows in runs.items()
        if name.startswith("hack")
    }
    healthy = {name: rows for name, rows in runs.items() if name not in hacks}
    table = []
    for threshold, patience in SETTINGS:
        config = replace(usual, threshold=threshold, patience=patience)
        cried = {name: alarms(rows, config) for name, rows in healthy.items()}
        noticed = {name: min(alarms(runs[name], config).values(), default=None) for name in hacks}
        table.append({"threshold": threshold, "patience": patience, "false": cried, "seen": noticed})
    return {
        "defaults": {key: getattr(usual, key) for key in ("baseline", "threshold", "patience")},
        "hacks": hacks,
        "largest": {name: largest(rows, usual) for name, rows in runs.items()},
        "steps": {name: len(rows) for name, rows in runs.items()},
        "settings": table,
        "cost": {side: cost(side) for side in (64, 256, 512, 1024)},
        "share": {name: _share(rows) for name, rows in runs.items()},
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _share(rows: list[dict[str, Any]]) -> float:
    return float(sum(row["time/sentinels"] for row in rows) / sum(row["time/step"] for row in rows))


def page(result: dict[str, Any]) -> str:
    """The result as markdown."""
    usual = result["defaults"]
    lines = [
        "# Sentinels on a CPU",
        "",
        "Made by `python -m benchmarks.sentinels --folder DIR`; do not edit. What is measured: "
        "docs/sentinels.md.",
        "",
        f"Defaults: baseline {usual['baseline']} steps, threshold {usual['threshold']:g} deviations, "
        f"patience {usual['patience']} steps. torch {result['torch']}, Python {result['python']}.",
        "",
        "## A reward that a red screen fools",
        "",
        "| run | steps | solid from step | first alarm | all alarms (first step of each) |",
        "|---|---|---|---|---|",
    ]
    for name, hack in result["hacks"].items():
        order = sorted(hack["alarms"].items(), key=lambda pair: pair[1])
        first = f"step {order[0][1]}, {order[0][0]}" if order else "none"
        every = ", ".join(f"{statistic} {step}" for statistic, step in order) or "none"
        end = hack["solid"] or "not within the run"
        lines.append(f"| {name} | {hack['steps']} | {end} | {first} | {every} |")
    names = list(dict.fromkeys(n for deviations in result["largest"].values() for n in deviations))
    lines += [
        "",
        "## Largest deviation of a run, on the sides that count",
        "",
        f"| run | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    for name, deviations in result["largest"].items():
        cells = (f"{deviations[n]:.1f}" if n in deviations else "-" for n in names)
        lines.append(pages.row(name, *cells))
    count = len(result["settings"][0]["false"])
    lines += [
        "",
        f"## Healthy runs with a false alarm, of {count}, and the alarm of the hacking runs",
        "",
        f"| threshold | patience | false | {' | '.join(result['hacks'])} |",
        f"|---|---|---|{'---|' * len(result['hacks'])}",
    ]
    for row in result["settings"]:
        cried = sum(map(bool, row["false"].values()))
        steps = " | ".join(f"step {s}" if s else "none" for s in row["seen"].values())
        lines.append(f"| {row['threshold']:g} | {row['patience']} | {cried} | {steps} |")
    share = max(result["share"].values())
    cost_of = ", ".join(f"{ms:.1f} ms at {side} x {side}" for side, ms in result["cost"].items())
    lines += [
        "",
        "## Cost",
        "",
        f"A picture on one thread: {cost_of}. Of a training step of the tiny policies: at most {share:.1%}.",
    ]
    return "\n".join(lines) + "\n"


def strip(run: Path, path: Path) -> None:
    """The first row of some sample sheets of a run, one below the other."""
    rows = []
    for step in SHOWN:
        with Image.open(run / "samples" / f"step_{step:06d}.png") as sheet:
            rows.append(sheet.convert("RGB").crop((0, 0, sheet.width, ROW)))
    whole = Image.new("RGB", (rows[0].width, ROW * len(rows)))
    for i, row in enumerate(rows):
        whole.paste(row, (0, ROW * i))
    whole.quantize(128).save(path, optimize=True)


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where the runs are, or will be")
    folder = parser.parse_args().folder
    result = measure(folder)
    strip(_place(folder, "hack lr=6e-4"), PICTURE)
    pages.write(pages.RESULTS, "sentinels_cpu", result, page(result))


if __name__ == "__main__":
    main()
