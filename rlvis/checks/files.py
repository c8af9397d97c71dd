"""The files that a configuration names, looked at before anything heavy loads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from rlvis.checks import model_folder
from rlvis.checks.model import adapter_errors, family_of, path_errors
from rlvis.findings import Finding, mistake
from rlvis.schema import Config, Dtype, ModelConfig, Stage

ASSETS = Path(__file__).resolve().parents[1] / "assets"
FILES = ("txt", "jsonl", "json", "csv", "parquet", "i2v_pairs")  # values of data.source that read data.path


def files(config: Config) -> list[Finding]:
    """Files and folders that `config` names and that are not there or cannot be read."""
    return [
        *_prompts(config),
        *_model(config.model.path),
        *path_errors(config.model.path),
        *(adapter_errors(config.model) if config.dry_run else ()),  # a run asks the loaded model
        *_folder(config.model),
        *_engine(config.engine.config, config.model.dtype),
        *_records(config),
    ]


def _prompts(config: Config) -> Iterator[Finding]:
    data = config.data
    if data.path is None or data.source not in FILES or data.path.startswith("asset:"):
        return
    path = Path(data.path).expanduser()
    if not path.exists():
        yield mistake(
            f"data.path={data.path}: there is no such file (looked at {path.absolute()})", "data.path=FILE"
        )
    total = count_prompts(config)
    if total is not None and total < data.prompts_per_step:
        yield mistake(
            f"data.prompts_per_step={data.prompts_per_step}, but {data.path} has {total} prompts, and a step "
            "takes different ones",
            f"data.prompts_per_step={total} or fewer",
        )


def _model(path: str) -> Iterator[Finding]:
    if path.startswith(("/", "./", "../", "~")) and not Path(path).expanduser().is_dir():
        yield mistake(
            f"model.path={path}: there is no such folder", "model.path=FOLDER or a hub id such as OWNER/NAME"
        )
    name = path.removeprefix("asset:")
    if name != path and not (ASSETS / name / "model_index.json").is_file():
        known = sorted(f"asset:{index.parent.name}" for index in ASSETS.glob("*/model_index.json"))
        yield mistake(
            f"model.path={path}: rlvis comes with no such model; it has {', '.join(known) or 'none'}"
        )


def _folder(model: ModelConfig) -> Iterator[Finding]:
    """What a checkpoint's folder lacks of what its model_index.json lists, without what nobody reads."""
    folder = Path(model.path).expanduser()
    family = family_of(model) if (folder / model_folder.INDEX).is_file() else None
    faults = model_folder.folder_faults(folder, () if family is None else family.unused)
    if faults:
        yield mistake(
            f"model.path={model.path}: {'; '.join(faults[:3])}"
            + (f"; and {len(faults) - 3} more" if len(faults) > 3 else ""),
            "model.path=FOLDER with a whole pipeline, as pipe.save_pretrained or hf download write it",
        )


def _records(config: Config) -> Iterator[Finding]:
    if config.stage in (Stage.all, Stage.rollout) or config.records is None:
        return
    if not any(Path(config.records).expanduser().glob("step_*")):
        yield mistake(
            f"records={config.records} holds no step_NNNNNN folder, so stage={config.stage} has "
            f"nothing to read; write records with stage=rollout records={config.records}, or with "
            "train.save_records=true"
        )


def count_prompts(config: Config) -> int | None:
    """Non-empty lines of a text or JSON Lines file; None where counting needs a library or the network."""
    data = config.data
    if data.source not in ("txt", "jsonl") or data.path is None:
        return None
    path = Path(data.path).expanduser()
    path = path / f"{data.split}.{data.source}" if path.is_dir() else path
    if not path.is_file():
        return None
    with path.open("rb") as lines:
        return sum(1 for line in lines if line.strip()) or None


def _engine(name: str | None, dtype: Dtype) -> Iterator[Finding]:
    """A file of DeepSpeed's options: readable, JSON, and with a ZeRO stage where the dtype needs one."""
    if name is None:
        return
    try:
        options = json.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        yield mistake(
            f"engine.config={name} cannot be read: {error.strerror or error}", "engine.config=FILE.json"
        )
        return
    except ValueError as error:
        yield mistake(f"engine.config={name} is not JSON: {error}")
        return
    if not isinstance(options, dict):
        yield mistake(
            f"engine.config={name} holds a JSON {type(options).__name__}; wanted an object of DeepSpeed's "
            "keys"
        )
        return
    zero = options.get("zero_optimization") or {}
    if dtype is Dtype.bfloat16 and int(zero.get("stage", 0)) == 0:
        yield mistake(
            f"model.dtype=bfloat16, and {name} names no ZeRO stage above 0: DeepSpeed then lets AdamW take a "
            'hidden first step with zero gradients; write "zero_optimization": {"stage": 1} into it, or type '
            "model.dtype=float32"
        )
