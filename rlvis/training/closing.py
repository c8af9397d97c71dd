"""The end of a run: its weights exported while the last checkpoint is written, and how far they moved."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from rlvis import writing
from rlvis.checkpoints import eval_weights
from rlvis.checkpoints.state import Saver
from rlvis.models import moved
from rlvis.runs.exit_state import ExitCode
from rlvis.runtime import dist
from rlvis.training.parts import Parts

log = logging.getLogger(__name__)


def has_learned(metrics: Mapping[str, float]) -> bool:
    """Whether a training step had an optimizer step with a gradient that was not 0."""
    return metrics.get("update/optimizer_steps", 0.0) > 0 and metrics.get("update/grad_norm", 0.0) > 0


def finish(parts: Parts, saver: Saver, step: int, ended: ExitCode, *, learned: bool = False) -> int:
    """Export the weights after `step` training steps; exit code 1 where the last checkpoint failed, or where
    the weights lie where they began although steps had a gradient. ended: gets the distance and a message.

    learned: whether any step of this process had (see `has_learned`).
    """
    folder = saver.run_dir / ("model" if parts.config.model.lora is None else "lora")
    distance = _export(parts, folder, step)
    ended.moved = distance
    saved = saver.settle()
    if parts.world.is_main:
        log.info("%s: the exported weights %s", folder, moved.words(distance))
    if distance != 0 or not learned:
        return 0 if saved else 1
    model = parts.config.model
    ended.message = ended.message or (
        "nothing was exported that was learned: optimizer steps had a gradient, and the weights in "
        f"{folder} lie where they began. At optim.lr={parts.config.optim.lr:g} a step is lost in the "
        f"rounding of {model.dtype}; type a larger optim.lr, or model.dtype=float32"
    )
    if parts.world.is_main:
        log.error("%s", ended.message)
    return 1


def _export(parts: Parts, folder: Path, step: int) -> float:
    """Write what stock diffusers opens, from averaged weights if there are some, else from the masters; how
    far they lie from where they began. A collective.
    """
    masters, distance = parts.engine.masters(), 0.0
    weights = dict(masters if parts.ema is None else parts.ema.current(masters))
    if parts.world.is_main:
        with writing.aside(folder) as part:
            distance = parts.policy.export(part, weights)
            eval_weights.note_export(part, step, distance)
    return float(dist.broadcast_object(distance))
