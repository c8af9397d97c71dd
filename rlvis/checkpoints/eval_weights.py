"""Which policy `rlvis eval` evaluates, and with which settings: the configured one, or what a run left.

A run is evaluated with its own configuration, of which the command line may change how it is evaluated and
where that is written, nothing else. Nothing here imports torch.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlvis import schema
from rlvis.checkpoints import files
from rlvis.checkpoints.permission import flat
from rlvis.checkpoints.resume import saved_settings
from rlvis.findings import ConfigError
from rlvis.runs.folder import OUTPUTS
from rlvis.runs.redact import HIDDEN
from rlvis.schema import Config

log = logging.getLogger(__name__)

# What a command line may say about the evaluation of a run, as prefixes of dotted keys.
FREE = ("eval.", "run_dir", "engine.device", "threads", "train.micro_batch", "train.score_retries", "dry_run")
STEP_FILE = "rlvis.json"  # beside exported weights: what they are


@dataclass(frozen=True)
class Weights:
    """What is evaluated: kind base, export (a pipeline or LoRA in `folder`) or checkpoint.

    step: training steps done.
    """

    kind: str
    folder: Path | None
    step: int
    run: Path | None


def find_weights(config: Config) -> Weights:
    """What eval.run names: a run folder stands for its exported weights, or for its newest checkpoint where
    it has none.

    Raises ConfigError when there is nothing to evaluate there.
    """
    named = config.eval.run
    if named is None:
        return Weights("base", None, 0, None)
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"eval.run={named}: there is no such folder; type eval.run=outputs/NAME/DATE_TIME, or one of its "
            "checkpoints/step_NNNNNN"
        )
    if (folder / files.META).is_file() or (folder / files.COMPLETE).is_file():
        if bad := files.damage(folder):
            raise ConfigError(
                f"eval.run={named}: this checkpoint is damaged ({'; '.join(bad)}); type "
                f"eval.run={folder.parents[1]} for the newest whole one of that run"
            )
        return Weights("checkpoint", folder, _step_of(folder), folder.parents[1])
    if not (folder / "config.yaml").is_file():
        raise ConfigError(
            f"eval.run={named} is no run folder: it holds no config.yaml; type "
            "eval.run=outputs/NAME/DATE_TIME, or model.path=FOLDER for a diffusers pipeline"
        )
    for name in ("model", "lora"):
        if (folder / name / STEP_FILE).is_file():
            return Weights("export", folder / name, _exported_step(folder / name), folder)
    newest, damaged = files.search(folder)
    if newest is None:
        listing = "; ".join(f"{other}: {files.shorten(faults)}" for other, faults in damaged.items())
        raise ConfigError(
            f"eval.run={named} has neither exported weights (model/ or lora/ with {STEP_FILE}) nor a whole "
            f"checkpoint: {listing or 'the run stopped before it saved any'}"
        )
    if damaged:
        log.warning("%s: %s is damaged; evaluating %s", folder, ", ".join(damaged), newest.name)
    return Weights("checkpoint", newest, _step_of(newest), folder)


def note_export(folder: Path, step: int, moved: float) -> None:
    """Write beside exported weights how many training steps they had, and how far they lie from the start."""
    content = {"step": step, "moved": moved}
    (folder / STEP_FILE).write_text(json.dumps(content) + "\n", encoding="utf-8")


def evaluation_config(config: Config, touched: Sequence[str]) -> Config:
    """The configuration to evaluate: `config` itself, or that of the run that eval.run names with what the
    command line may change in it.

    touched: dotted keys that the command line named, "eval.*" for a section. Raises ConfigError naming every
    other key that it would change.
    """
    source = find_weights(config)
    if source.run is None:
        return config
    before, now = saved_settings(source.run), flat(schema.plain(config))
    sections = tuple(t.removesuffix("*") for t in touched if t.endswith("*"))
    result = copy.deepcopy(before) | {"run_dir": None, "resume": None, "resume_allow": [], "dry_run": False}
    old, refused = flat(before), []
    for key, value in now.items():
        if not any(key == t or key.startswith(f"{t}.") for t in touched) and not key.startswith(sections):
            continue
        if key.startswith(FREE):
            *parents, last = key.split(".")
            node = result
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = value
        elif old.get(key) != value and old.get(key) != HIDDEN:
            refused.append(f"{key} was {json.dumps(old.get(key))} and is now {json.dumps(value)}")
    if refused:
        raise ConfigError(
            f"eval.run={config.eval.run}: {'; '.join(refused)}. A run is evaluated with its own settings, "
            "apart from eval.*: leave this out"
        )
    try:
        whole = OmegaConf.merge(OmegaConf.structured(Config), result)
        return schema.typed(whole)
    except OmegaConfBaseException as error:
        raise ConfigError(
            f"{source.run / 'config.yaml'} does not fit this version of rlvis ({str(error).splitlines()[0]})"
        ) from error


def output_folder(config: Config) -> Path:
    """The folder of the results: run_dir, RUN/eval of an evaluated run, or outputs/eval/NAME."""
    if config.run_dir is not None:
        return Path(config.run_dir).expanduser()
    source = find_weights(config)
    return OUTPUTS / "eval" / config.name if source.run is None else source.run / "eval"


def with_exported_model(config: Config, source: Weights) -> Config:
    """The configuration whose model section loads exported weights of the whole model; others as they are."""
    if source.kind != "export" or config.model.lora is not None:
        return config
    return replace(config, model=replace(config.model, path=str(source.folder), revision=None))


def _step_of(checkpoint: Path) -> int:
    return int(files.meta(checkpoint)["step"])


def _exported_step(folder: Path) -> int:
    return int(json.loads((folder / STEP_FILE).read_text(encoding="utf-8"))["step"])
