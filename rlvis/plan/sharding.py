"""What of DeepSpeed's configuration decides how memory is shared out: stage, buckets, offloading."""

from __future__ import annotations

from dataclasses import dataclass

from rlvis.runtime.deepspeed_setup import deepspeed_config
from rlvis.schema import Config


@dataclass(frozen=True)
class Sharding:
    """What of DeepSpeed's configuration moves memory. bucket, gathered: in weights, not bytes; bucket is None
    where the engine chooses it.
    """

    stage: int
    gpus: int
    bucket: int | None = None
    double_bucket: bool = False
    gathered: int = 1_050_000_000  # stage 3: live and prefetched parameters at most
    offload_optimizer: bool = False
    offload_weights: bool = False

    @property
    def parts(self) -> int:
        """Pieces that optimizer state is cut into."""
        return self.gpus if self.stage >= 1 else 1


def sharding(config: Config, gpus: int) -> Sharding:
    """The sharding of `config` on `gpus` GPUs, from its stage or its JSON file."""
    zero = deepspeed_config(config.engine, config.optim, config.model.dtype)["zero_optimization"]

    def key(name: str, usual: float) -> int:
        return int(zero.get(name, zero.get(f"stage3_{name}", usual)))

    def offloads(name: str) -> bool:
        return (zero.get(name) or {}).get("device", "none") not in ("none", None)

    contiguous = bool(zero.get("contiguous_gradients", True))
    return Sharding(
        stage=int(zero.get("stage", 0)),
        gpus=gpus,
        bucket=(key("reduce_bucket_size", 0) or None) if contiguous else 0,
        double_bucket=bool(zero.get("overlap_comm")) and int(zero.get("stage", 0)) < 3,
        gathered=key("max_live_parameters", 1e9) + key("prefetch_bucket_size", 5e7),
        offload_optimizer=offloads("offload_optimizer"),
        offload_weights=offloads("offload_param"),
    )
