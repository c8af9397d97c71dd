"""Run folders as a training leaves them, made without one, and a parser for the pages made of them."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from rlvis.observe import gallery

VOID = {"meta", "img", "input", "br", "hr", "link"}
EVIL = "<script>alert('x')</script><img src=http://evil.example/a.png>"
CONFIG = {
    "advantage": {"preset": "flow_grpo", "sign": 1.0},
    "optim": {"lr": 1e-3},
    "train": {"steps": 3, "updates_per_step": 2},
    "seed": 7,
}


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
        matches = [attrs for name, attrs in self.tags if name == tag]
        return [a for a in matches if cls is None or cls in (a.get("class") or "").split()]

    @property
    def tabs(self) -> list[str]:
        """Names of the tabs."""
        return [str(pane["id"]) for pane in self.all("section", cls="pane")]


def row(step: int, **more: float) -> dict[str, Any]:
    """A line of metrics.jsonl of a healthy run."""
    return {
        "step": step,
        "reward/mean": step / 100,
        "reward/std": 0.1,
        "ratio/max_deviation": 1e-4,
        "ratio/max_deviation_first": 0.0,
        "clip/fraction_high": 0.2,
        "clip/fraction_low": 0.1,
        "update/grad_norm": 0.5,
        "group/zero_variance_fraction": 0.0,
        "reward/invalid_count": 0.0,
        **{f"time/{stage}": 0.1 for stage in ("rollout", "score", "weigh", "build", "update")},
        "time/step": 0.6,
        **more,
    }


def folder(
    path: Path, steps: int, sheets: tuple[int, ...] = (), name: str = "shapes run", **config: Any
) -> Path:
    """A run folder with sample sheets of two prompts; config changes single keys, as in train__steps=2."""
    path.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = json.loads(json.dumps(CONFIG)) | {"name": name}
    values["train"]["steps"] = steps
    for key, value in config.items():
        section, _, key = key.rpartition("__")
        (values[section] if section else values)[key] = value
    (path / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    manifest = {
        "command": ["python", "train.py", "name=a b"],
        "git": {"commit": "abc123", "dirty": True},
        "n": {"x": 1},
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
    rows(path, [row(step) for step in range(1, steps + 1)])
    for step in sheets:
        gallery.write_samples(path, step, colours(step), ["a red circle", EVIL])
    return path


def rows(path: Path, lines: list[dict[str, Any]]) -> None:
    """metrics.jsonl of these lines."""
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def colours(step: int) -> torch.Tensor:
    """Two pictures of 8 pixels that differ from step to step."""
    return torch.stack([torch.full((3, 8, 8), (step * 7 + 90 * n) % 256) for n in (0, 1)]).to(torch.uint8)


def groups(path: Path, step: int, text: str = "a red circle") -> Path:
    """RUN/groups of a step: two samples, one trusted group, one map."""
    step_folder = path / "groups" / f"step_{step:06d}"
    step_folder.mkdir(parents=True)
    for name in ("p001_s00.png", "p001_s01.png", "p001_s00_map.png"):
        Image.new("RGB", (16, 16), (step, 99, 200)).save(step_folder / name)
    samples = [
        {
            "file": f"p001_s0{k}.png",
            "prompt": 1,
            "sample": k,
            "text": text,
            "reward": 0.9 - k / 2,
            "terms": {},
        }
        for k in (0, 1)
    ]
    group = {"prompt": 1, "text": text, "weight": 1.25, "objective": "sum", "mean": 0.5, "std": 0.1,
             "prior_mean": 0.25, "prior_var": 0.04, "samples": samples}  # fmt: skip
    index = {
        "step": step,
        "best": samples[:1],
        "worst": samples[1:],
        "most_trusted": [group],
        "least_trusted": [{**group, "weight": 0.5, "prior_mean": None, "prior_var": None}],
        "maps": [{**samples[0], "map": "p001_s00_map.png"}],
    }
    (step_folder / "index.json").write_text(json.dumps(index))
    return step_folder


def evaluation(
    path: Path, step: int, right: list[float], prompts: list[str] | None = None, *, pictures: int = 0
) -> None:
    """RUN/eval of a step: one sample of each prompt and pictures of some of them, by rlvis' own writers."""
    import pandas as pd

    from rlvis.evaluation import results
    from rlvis.evaluation.pictures import keeper

    texts = prompts or [f"prompt {n}" for n in range(len(right))]
    table = pd.DataFrame(
        {
            "step": step,
            "prompt": texts,
            "kind": "single",
            "index": range(len(texts)),
            "sample": 0,
            "score": right,
            "hard": [value > 0.5 for value in right],
        }
    )
    results.write(path / "eval", table, step, {"settings": {"samples": 1, "seed": 0}})
    keep = keeper(path / "eval", step, torch.arange(len(texts)), pictures, fps=8.0)
    for n in range(len(texts)):
        keep(n, torch.full((1, 3, 16, 16), 10 * n, dtype=torch.uint8))


def trust_line(step: int, prompt: int, weight: float, **more: object) -> str:
    """A line of trust.jsonl."""
    line = {"step": step, "prompt": prompt, "text": f"prompt {prompt} {EVIL}", "objective": "sum", "count": 4}
    return (
        json.dumps({**line, "mean": 0.25, "std": 0.1, "prior_mean": 0.125, "weight": weight, **more}) + "\n"
    )
