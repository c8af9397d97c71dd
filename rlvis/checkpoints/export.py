"""The weights of a checkpoint as stock diffusers opens them, on one process, whatever wrote it.

No engine is started: the average lies whole in a file, float32 weights of stage 0 do too, and the shards of
ZeRO are joined by DeepSpeed's own converter. What comes out is what the run itself would have exported.
"""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path
from typing import Any

from torch import Tensor

from rlvis.checkpoints import eval_weights, files, resume, state
from rlvis.models.ema import Ema
from rlvis.models.load import load_policy
from rlvis.runtime import snapshot
from rlvis.runtime.deepspeed_setup import quiet_deepspeed
from rlvis.schema import Config, Dtype

log = logging.getLogger(__name__)


def export(folder: Path, to: Path) -> tuple[int, float]:
    """Write the averaged weights of a whole checkpoint, or else its masters, to the folder `to`; return how
    many tensors, and how far they lie from where they began.

    Raises:
        ValueError: the checkpoint's configuration or weights do not fit.
    """
    config = resume.to_config(resume.saved_settings(folder), folder / files.CONFIG)
    quiet_deepspeed("cpu")
    policy = load_policy(config.model, "cpu", seed=config.seed)
    names = {name for name, _ in policy.trainable()}
    # Buffers lie beside the weights; a weight that is missing is refused by the policy.
    weights = {name: value for name, value in trained_weights(folder, config).items() if name in names}
    distance = policy.export(to, weights)
    eval_weights.note_export(to, int(files.meta(folder)["step"]), distance)
    return len(weights), distance


def trained_weights(folder: Path, config: Config) -> dict[str, Tensor]:
    """Name -> float32 weight of everything that is trained: the average, if there is one, else the masters.

    The average has the steps since its last turn too, as what a run exports at its end.
    """
    if not files.meta(folder)["ema"] or config.model.ema is None:
        return _masters(folder, config)
    average = Ema({}, decay=config.model.ema.decay, every=config.model.ema.every)
    average.steps, average.weights = state.average_of(folder)
    if average.steps % average.every == 0:
        return average.weights
    masters = _masters(folder, config)
    return dict(average.current({name: masters[name] for name in average.weights}))


def _masters(folder: Path, config: Config) -> dict[str, Tensor]:
    """Name -> float32 master weight, and buffers beside them.

    float16 at stage 0 is the exception: its masters lie flat in the optimizer's state, so the rounded working
    copy is taken, and the log says so.
    """
    meta = files.meta(folder)
    if meta["zero_stage"]:
        return _join_shards(folder)
    if config.model.dtype is Dtype.float16:
        log.warning("%s: the weights are those of the forward pass, in float16", folder)
    (path,) = (folder / state.ENGINE).glob("*model_states.pt")
    module: dict[str, Any] = snapshot.read(path)["module"]
    return {name: value.float() for name, value in module.items()}


def _join_shards(folder: Path) -> dict[str, Tensor]:
    """The masters out of the shards of all ranks."""
    from deepspeed.utils import zero_to_fp32

    output = io.StringIO()  # it reports its progress
    quiet = contextlib.redirect_stdout(output), contextlib.redirect_stderr(output)
    with snapshot.only_known(folder / state.ENGINE), quiet[0], quiet[1]:
        weights = zero_to_fp32.get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=state.ENGINE)
    return {name: value.float() for name, value in weights.items()}
