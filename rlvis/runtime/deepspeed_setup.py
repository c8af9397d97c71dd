"""DeepSpeed as a run wants it: its configuration, and a quiet import of it."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlvis.schema import Dtype, EngineConfig, OptimConfig

BUCKET = 500_000_000  # weights that DeepSpeed reduces at once by default
OURS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "bf16",
)


def deepspeed_config(
    engine: EngineConfig, optim: OptimConfig, dtype: Dtype, trained: int | None = None
) -> dict[str, Any]:
    """The DeepSpeed configuration: the user's JSON or a bare ZeRO stage, with batch, clipping and precision
    keys ours.

    trained: number of trained weights. The buffer that gradients are reduced in is no larger; DeepSpeed's own
    size would be a gigabyte or two beside a LoRA of a few megabytes.
    Raises ValueError when the JSON cannot be read or sets a key that belongs to optim.* or train.*, and for
    bfloat16 at stage 0, where DeepSpeed lets AdamW take a hidden first step with zero gradients.
    """
    config: dict[str, Any] = {"zero_optimization": {"stage": engine.stage}}
    if engine.config is not None:
        try:
            config = json.loads(Path(engine.config).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(f"engine.config={engine.config} cannot be read as JSON: {error}") from error
        if not isinstance(config, dict):
            raise ValueError(
                f"engine.config={engine.config} holds a {type(config).__name__}, wanted a JSON object"
            )
        taken = sorted(set(config) & set(OURS))
        if taken:
            raise ValueError(
                f"{engine.config} sets {', '.join(taken)}: remove them; optim.*, model.dtype and "
                "train.micro_batch set these"
            )
        if config.get("fp16", {}).get("enabled") and dtype is not Dtype.float16:
            raise ValueError(
                f"{engine.config} enables fp16 but model.dtype={dtype}; type model.dtype=float16"
            )
    stage = int(config.setdefault("zero_optimization", {}).get("stage", 0))
    if (config["zero_optimization"].get("offload_optimizer") or {}).get("device") == "nvme":
        raise ValueError(
            f"{engine.config} keeps the optimizer's state on an NVMe disk, which checkpoints do not hold: "
            'set offload_optimizer to {"device": "cpu"}'
        )
    if dtype is Dtype.bfloat16 and stage == 0:
        raise ValueError(
            "model.dtype=bfloat16 at ZeRO stage 0 makes AdamW take a hidden first step with zero gradients; "
            "type engine=zero1 (or 2, 3), or model.dtype=float32"
        )
    if trained is not None:
        config["zero_optimization"].setdefault("reduce_bucket_size", min(BUCKET, max(trained, 1)))
    if dtype is Dtype.bfloat16:
        config["bf16"] = {"enabled": True}
    elif dtype is Dtype.float16:
        config["fp16"] = {"initial_scale_power": 16} | config.get("fp16", {}) | {"enabled": True}
    return config | {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optim.grad_norm,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def quiet_deepspeed(device: str) -> Any:
    """Import DeepSpeed without what it says on the way, and on a CPU without what it would compile.

    To be called before other libraries import it in passing (transformers does). Its import asks a compiler
    about libaio, whose complaint goes straight to the terminal; it is shown only if the import fails. On a
    CPU it would also compile a shared-memory collective for a minute; plain gloo serves.
    """
    if device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    with _quiet_stderr():
        import deepspeed
        import deepspeed.ops
    table = getattr(deepspeed.ops, "__compatible_ops__", None)
    if device == "cpu" and isinstance(table, dict):
        table["deepspeed_shm_comm"] = False
    return deepspeed


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hold back what child processes write to stderr; show it if the block fails."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
