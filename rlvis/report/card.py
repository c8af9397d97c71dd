"""The card of exported weights, made whole after a run: its command, curves, pictures, licence and papers.

`models.export` writes the lines that open the weights; here follow the hub's front matter before them and
everything else behind. Nothing is claimed that the run folder does not hold; a licence that cannot be read
is said to be unknown.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from rlvis.models import source
from rlvis.observe.history import RunHistory
from rlvis.report import folder
from rlvis.report.folder import RunFolder, section

FRONT = "---\n"
MARK = "\n## What training did\n"
WIDTH = 1600  # pixels of the pictures before and after, at most
# What a configuration uses -> the paper behind it.
PAPERS: tuple[tuple[Callable[[RunHistory], bool], str], ...] = (
    (lambda s: s.setting("advantage.preset") == "dance", "DanceGRPO, arXiv:2505.07818"),
    (lambda s: s.setting("advantage.preset") in ("flow_grpo", "gdpo"), "Flow-GRPO, arXiv:2505.05470"),
    (lambda s: s.setting("advantage.preset") == "ddpo", "DDPO, arXiv:2305.13301"),
    (lambda s: s.setting("sampler.window.kind") == "progressive", "MixGRPO, arXiv:2507.21802"),
    (lambda s: s.setting("advantage.guard") is not None, "GRPO-Guard, arXiv:2510.22319"),
    (
        lambda s: s.setting("trust.kind", "none") != "none" or s.setting("trust.crt.form", "none") != "none",
        "BPGO, arXiv:2511.18919",
    ),
    (lambda s: s.setting("advantage.map.source", "none") != "none", "ViPO, arXiv:2511.18719"),
)


def complete(run_dir: Path) -> Path | None:
    """Complete the card of what a run exported, with the pictures it shows; None where nothing was exported.

    Writing it again gives the same card.
    """
    run = folder.read(Path(run_dir))
    cards = [run.path / name / "README.md" for name in ("lora", "model")]
    card = next((path for path in cards if path.is_file()), None)
    if card is None:
        return None
    licence = base_licence(run)
    opening = _opening(card.read_text(encoding="utf-8"))
    parts = [FRONT + yaml.safe_dump(_front(run, licence), sort_keys=False) + FRONT, opening.rstrip(), MARK]
    parts += [_curves(run, card.parent), _pictures(run, card.parent), _commands(run), _terms(run, licence)]
    card.write_text("\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return card


def base_licence(run: RunFolder) -> str | None:
    """The licence that the base checkpoint's own card names, in its folder or the hub's cache; None if it is
    not to be read there.
    """
    path = str(run.setting("model.path", ""))
    if path.startswith(source.ASSET):
        return "apache-2.0"  # it came with rlvis
    card: Path | None = Path(path).expanduser() / "README.md"
    if card is not None and not card.is_file():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(path, "README.md", revision=run.setting("model.revision"))
        except HFValidationError:
            cached = None
        card = Path(cached) if isinstance(cached, str) else None
    return None if card is None else _licence_of(card.read_text(encoding="utf-8", errors="replace"))


def _licence_of(text: str) -> str | None:
    if not text.startswith(FRONT) or FRONT not in text[len(FRONT) :]:
        return None
    try:
        front = yaml.safe_load(text[len(FRONT) :].split(FRONT, 1)[0])
    except yaml.YAMLError:
        return None
    if not isinstance(front, Mapping):
        return None
    named = front.get("license_name") if front.get("license") == "other" else front.get("license")
    return None if named is None else str(named)


def _opening(text: str) -> str:
    """What the export wrote, without what was added to it before."""
    if text.startswith(FRONT):
        text = text[len(FRONT) :].split(FRONT, 1)[1].lstrip()
    return text.split(MARK, 1)[0]


def _front(run: RunFolder, licence: str | None) -> dict[str, Any]:
    path, clips = str(run.setting("model.path", "")), int(run.setting("model.frames", 1)) > 1
    first = run.setting("model.condition", "none") == "first_frame"
    front: dict[str, Any] = {
        "library_name": "diffusers",
        "pipeline_tag": "image-to-video" if first else "text-to-video" if clips else "text-to-image",
        "tags": ["rlvis", "reinforcement-learning", *(["lora"] if run.setting("model.lora") else [])],
    }
    if path.count("/") == 1 and not path.startswith((".", "~", "/")):
        front["base_model"] = path
    if licence is not None:
        front["license"] = licence
    return front


def _curves(run: RunFolder, to: Path) -> str:
    """Reward and held-out results as a picture, and their first and last values as a table."""
    keys = ["reward/mean", *(k for k in ("eval/score", "eval/accuracy") if k in run.keys)]
    series = {key: curve for key in keys if len(curve := run.series(key).finite)}
    if not series:
        return "No metrics were written."
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(4.5 * len(series), 3), layout="constrained")
        for axes, (key, curve) in zip(
            figure.subplots(1, len(series), squeeze=False)[0], series.items(), strict=True
        ):
            axes.plot(curve.step, curve.value, marker="o" if len(curve) < 20 else "")
            axes.set(title=key, xlabel="training step")
            axes.grid(alpha=0.3)
        figure.savefig(to / "curves.png", dpi=120)
    rows = [f"| `{key}` | {c.value[0]:.4g} | {c.value[-1]:.4g} |" for key, c in series.items()]
    table = "\n".join(["| | first | last |", "|---|---|---|", *rows])
    return f"![curves](curves.png)\n\n{table}\n"


def _pictures(run: RunFolder, to: Path) -> str:
    """The first and the last sheet of fixed prompts, one above the other."""
    if len(run.samples) < 2:
        return ""
    from PIL import Image

    sheets = []
    for _, path in (run.samples[0], run.samples[-1]):
        with Image.open(path) as sheet:
            sheets.append(sheet.convert("RGB"))
    scale = min(1.0, WIDTH / max(sheet.width for sheet in sheets))
    sheets = [s.resize((round(s.width * scale), round(s.height * scale))) for s in sheets]
    page = Image.new("RGB", (max(s.width for s in sheets), sum(s.height for s in sheets)), "white")
    page.paste(sheets[0], (0, 0))
    page.paste(sheets[1], (0, sheets[0].height))
    page.save(to / "before_after.png")
    steps = f"{run.samples[0][0]} and {run.samples[-1][0]}"
    caption = f"The same prompts and noise before (above) and after (below), steps {steps}:"
    return f"{caption}\n\n![before and after](before_after.png)\n"


def _commands(run: RunFolder) -> str:
    """The commands of the run, one for each time that it was resumed, and the commits they ran at."""
    earlier = run.manifest.get("earlier")
    starts = [
        m for m in (*(earlier if isinstance(earlier, list) else []), run.manifest) if isinstance(m, Mapping)
    ]
    lines, dirty, at = [], False, None
    for start in starts:
        git = section(start, "git")
        commit, command = git.get("commit"), start.get("command")
        if commit and commit != at:
            lines.append(f"git checkout {shlex.quote(str(commit))}")
        at, dirty = commit, dirty or bool(git.get("dirty"))
        if command:
            lines.append(command if isinstance(command, str) else shlex.join(str(part) for part in command))
    if not lines:
        return ""
    changed = " (with changes that are in no commit)" if dirty else ""
    return f"## How it was made{changed}\n\n```bash\n" + "\n".join(lines) + "\n```\n"


def _terms(run: RunFolder, licence: str | None) -> str:
    path = run.setting("model.path", "the base model")
    terms = (
        f"the base model's, {licence}"
        if licence
        else f"that of the base model ({path}), which its card tells; it could not be read here"
    )
    papers = [name for uses, name in PAPERS if uses(run)]
    cite = "\n".join(f"- {name}" for name in ["rlvis (its CITATION.cff)", *papers])
    derived = f"These weights are derived from a model and carry its terms: {terms}."
    return f"## Licence\n\n{derived}\n\n## To cite\n\n{cite}"
