"""The trained module under DeepSpeed: forward, backward, one optimizer step, masters, snapshot and load.

ZeRO stages 0 to 3 or a JSON file of one's own. What is unusual: AdamW is ours (DeepSpeed's own optimizers by
name compile for minutes), clipping is always written out (its default is 1.0, not off), and the accumulation
boundary is set by hand, because a step has as many backward passes as the records say.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlvis.runtime import blocks
from rlvis.runtime.deepspeed_setup import deepspeed_config, quiet_deepspeed
from rlvis.runtime.dist import World
from rlvis.runtime.snapshot import Snapshots
from rlvis.schema import Dtype, EngineConfig, OptimConfig

log = logging.getLogger(__name__)

SNAPSHOT = "snapshot"  # the folder that DeepSpeed believes it saves to


class NonFiniteGradientError(RuntimeError):
    """The gradient's norm was NaN or infinite; the optimizer has not stepped.

    layers: the blocks whose gradient that was, where they are known.
    """

    def __init__(self, message: str, layers: list[str]) -> None:
        super().__init__(message)
        self.layers = layers


class Engine:
    """A module, its optimizer and its shards. Calling the engine runs the module's forward."""

    def __init__(
        self, module: nn.Module, engine: EngineConfig, optim: OptimConfig, dtype: Dtype, world: World
    ) -> None:
        deepspeed = quiet_deepspeed(world.device.type)
        deepspeed.init_distributed(dist_backend=None, verbose=False)
        trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
        config = deepspeed_config(engine, optim, dtype, trained)
        self.stage = int(config["zero_optimization"].get("stage", 0))
        self.world = world
        self.clip = optim.grad_norm
        self.norms: list[tuple[str, Tensor]] = []  # of each parameter's gradient at the last step
        self.named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        if not self.named:
            raise ValueError("the policy has no trainable parameter; set model.lora or train the full module")
        self.partly_used = bool(getattr(module, "partly_used", False))
        if self.partly_used and "offload_optimizer" in config["zero_optimization"]:
            raise ValueError(
                f"{engine.config} sets offload_optimizer, and of a policy with two experts DeepSpeed would "
                "then step with the gradients of the last backward alone; remove it from the file"
            )
        betas = (optim.betas[0], optim.betas[1])
        adamw = torch.optim.AdamW(
            [p for _, p in self.named],
            lr=optim.lr,
            betas=betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
        )
        self.inner, self.optimizer, _, _ = deepspeed.initialize(
            model=module, model_parameters=[p for _, p in self.named], optimizer=adamw, config=config
        )
        self.module: nn.Module = self.inner.module
        self.settings = {
            "lr": optim.lr,
            "betas": betas,
            "eps": optim.eps,
            "weight_decay": optim.weight_decay,
        }
        self.snapshots = Snapshots()
        self.inner.checkpoint_engine = self.snapshots
        # It would copy two scripts beside every checkpoint, on the training path; `rlvis checkpoint export`
        # does what they do.
        self.inner._copy_recovery_script = lambda folder: None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward, through DeepSpeed's hooks."""
        return self.inner(*args, **kwargs)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Accumulate gradients; `last` marks the final backward pass before `step`.

        DeepSpeed averages over ranks, so the loss must be this rank's sum divided by the global count, times
        the world size.
        """
        self.inner.set_gradient_accumulation_boundary(last)
        self.inner.backward(loss, scale_wrt_gas=False)

    def step(self) -> float:
        """Clip, step the optimizer, clear gradients; return the gradient's norm before clipping.

        With float16, an overflow is not an error: DeepSpeed skips the step and lowers its loss scale; the
        norm is then inf.

        Raises:
            NonFiniteGradientError: on all ranks; the weights are untouched.
        """
        scaled = self.inner.fp16_enabled()
        norm: Tensor | None = None
        if self.stage == 0 and not scaled:
            self.norms = self._norms()
            norm = torch.linalg.vector_norm(torch.stack([each for _, each in self.norms]))
            # DeepSpeed would write NaN into the weights; the other stages skip such a step by themselves.
            _require_finite(float(norm), self.layers)
        self.inner.step()
        self._forget()
        total = float(self.inner.get_global_grad_norm() if norm is None else norm)
        if not scaled:
            _require_finite(total, self.layers)
        return total

    def _forget(self) -> None:
        """Clear the gradients that ZeRO-3 keeps from step to step.

        It overwrites them where a parameter has a new one, and would apply the old ones again to an expert
        that no row of the next step meets.
        """
        if self.partly_used and self.stage == 3:
            self.optimizer.grad_partitions_flat_buffer.zero_()

    def _norms(self) -> list[tuple[str, Tensor]]:
        return [(name, torch.linalg.vector_norm(p.grad)) for name, p in self.named if p.grad is not None]

    def layers(self, *, pending: bool = False) -> dict[str, float]:
        """Gradient norm of each block of the module before clipping, at the last step; pending: of what has
        been accumulated since.

        Empty where ZeRO shards gradients or float16 scales them.
        """
        if self.stage or self.inner.fp16_enabled():
            return {}
        return blocks.norms((name, float(norm)) for name, norm in (self._norms() if pending else self.norms))

    def masters(self) -> Iterator[tuple[str, Tensor]]:
        """(name, full float32 master weights) of every trained parameter; a collective, call it on all ranks.

        At stage 0 these are the live weights, elsewhere copies: clone what must not change.
        """
        from deepspeed.utils import safe_get_full_fp32_param

        for name, parameter in self.named:
            full = (
                None
                if self.stage == 0 and parameter.dtype == torch.float32
                else safe_get_full_fp32_param(parameter)
            )
            yield name, (parameter.data if full is None else full).detach().float()

    def set_masters(self, value_of: Callable[[str], Tensor]) -> None:
        """Overwrite every trained parameter, masters and working copy, by value_of(name); a collective."""
        from deepspeed.utils import safe_set_full_fp32_param

        for name, parameter in self.named:
            value = value_of(name)
            if self.stage == 0 and parameter.dtype == torch.float32:
                parameter.data.copy_(value)
                continue
            value = value.to(self.world.device)
            if self.stage == 3:
                self._set_shard(parameter, value)
                continue
            safe_set_full_fp32_param(parameter, value)  # the masters only
            parameter.data.copy_(value)

    def _set_shard(self, parameter: Any, value: Tensor) -> None:
        """Overwrite this rank's shard of a ZeRO-3 parameter: master, working copy, and the whole if it is
        kept.

        The last shard is padded, which DeepSpeed's setter of full values does not expect.
        """
        from deepspeed.utils import safe_set_local_fp32_param

        size = parameter.ds_tensor.numel()
        padded = value.new_zeros(size * self.world.size)
        padded[: value.numel()] = value.flatten()
        shard = padded[self.world.rank * size : (self.world.rank + 1) * size]
        safe_set_local_fp32_param(parameter, shard)
        parameter.ds_tensor.data.copy_(shard)
        if parameter.data.shape == value.shape:  # small ones stay whole between steps
            parameter.data.copy_(value)

    def snapshot(self, tag: str) -> dict[str, Any]:
        """Parameters and optimizer state that this rank has to write, copied to CPU memory; a collective.

        Path ("tag/name.pt") -> state, for `snapshot.write`; nothing is written here.
        """
        self.inner.save_checkpoint(SNAPSHOT, tag=tag, save_latest=False, exclude_frozen_parameters=True)
        taken, self.snapshots.taken = self.snapshots.taken, {}
        return {str(Path(path).relative_to(SNAPSHOT)): state for path, state in taken.items()}

    def load(self, folder: Path, tag: str) -> None:
        """Read a written snapshot of the same number of processes and the same stage.

        The optimizer's settings stay those of this engine: a learning rate that was changed on the way wins
        over the one that was saved.

        Raises:
            FileNotFoundError: the checkpoint has no such part.
            ValueError: its weights have other shapes than the module's.
        """
        path = None
        if (folder / tag).is_dir():  # DeepSpeed asserts without a word
            try:
                path, _ = self.inner.load_checkpoint(str(folder), tag=tag, load_module_strict=False)
            except RuntimeError as error:
                if "size mismatch" not in str(error):
                    raise
                raise ValueError(
                    f"the weights in {folder / tag} do not fit this model: {' '.join(str(error).split())}; "
                    "resume with the model it was trained with"
                ) from error
        if path is None:
            raise FileNotFoundError(f"no DeepSpeed state under {folder / tag}; is the checkpoint complete?")
        for group in self.inner.optimizer.param_groups:
            group.update(self.settings)
        if hasattr(self.inner.optimizer, "clip_grad"):  # ZeRO keeps it in its state, stage 0 does not
            self.inner.optimizer.clip_grad = self.clip

    def set_learning_rate(self, lr: float) -> None:
        """Step with this learning rate from here on, also after `load`."""
        self.settings["lr"] = lr
        for group in self.inner.optimizer.param_groups:
            group["lr"] = lr

    def close(self) -> None:
        """Release DeepSpeed's hooks and buffers, so that another run can start in this process."""
        self.inner.destroy()


def _require_finite(norm: float, layers: Callable[[], dict[str, float]]) -> None:
    if not math.isfinite(norm):
        bad = [name for name, each in layers().items() if not math.isfinite(each)]
        where = f" (in {', '.join(bad[:4])}{' ...' if len(bad) > 4 else ''})" if bad else ""
        raise NonFiniteGradientError(f"the gradient's norm is {norm}{where}; the weights are untouched", bad)
