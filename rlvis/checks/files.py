"""The files that a configuration names, looked at before anything heavy loads."""

from __future__ import annotations

import json
from pathlib import Path

from rlvis.schema import Config, Dtype, Stage

ASSETS = Path(__file__).resolve().parents[1] / "assets"


def files(config: Config) -> list[str]:
    """Files and folders that `config` names and that are not there or cannot be read, one message each."""
    found: list[str] = []
    data = config.data
    if (
        data.path is not None
        and data.source in ("txt", "jsonl", "json", "csv", "parquet", "i2v_pairs")
        and not data.path.startswith("asset:")
    ):
        path = Path(data.path).expanduser()
        if not path.exists():
            found.append(
                f"data.path={data.path}: there is no such file (looked at {path.absolute()}); type "
                "data.path=FILE"
            )
        total = count_prompts(config)
        if total is not None and total < data.prompts_per_step:
            found.append(
                f"data.prompts_per_step={data.prompts_per_step}, but {data.path} has {total} prompts, and a "
                "step takes different ones; "
                f"type data.prompts_per_step={total} or fewer"
            )
    model = config.model.path
    if model.startswith(("/", "./", "../", "~")) and not Path(model).expanduser().is_dir():
        found.append(
            f"model.path={model}: there is no such folder; type model.path=FOLDER or a hub id such as "
            "OWNER/NAME"
        )
    if (
        model.startswith("asset:")
        and not (ASSETS / model.removeprefix("asset:") / "model_index.json").is_file()
    ):
        known = sorted(f"asset:{index.parent.name}" for index in ASSETS.glob("*/model_index.json"))
        found.append(
            f"model.path={model}: rlvis comes with no such model; it has {', '.join(known) or 'none'}"
        )
    if config.engine.config is not None:
        found += _engine_file(config.engine.config, config.model.dtype)
    if config.stage not in (Stage.all, Stage.rollout) and config.records is not None:
        records = Path(config.records).expanduser()
        if not any(records.glob("step_*")):
            found.append(
                f"records={config.records} holds no step_NNNNNN folder, so stage={config.stage.value} has "
                "nothing to read; "
                f"write records with stage=rollout records={config.records}, or with train.save_records=true"
            )
    return found


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


def _engine_file(name: str, dtype: Dtype) -> list[str]:
    try:
        own = json.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        return [
            f"engine.config={name} cannot be read: {error.strerror or error}; type engine.config=FILE.json"
        ]
    except ValueError as error:
        return [f"engine.config={name} is not JSON: {error}"]
    if not isinstance(own, dict):
        return [
            f"engine.config={name} holds a JSON {type(own).__name__}; wanted an object of DeepSpeed's keys"
        ]
    zero = own.get("zero_optimization") or {}
    if dtype is Dtype.bfloat16 and int(zero.get("stage", 0)) == 0:
        return [
            f"model.dtype=bfloat16, and {name} names no ZeRO stage above 0: DeepSpeed then lets AdamW take a "
            "hidden first step with "
            'zero gradients; write "zero_optimization": {"stage": 1} into it, or type model.dtype=float32'
        ]
    return []
