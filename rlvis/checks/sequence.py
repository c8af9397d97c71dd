"""What must hold for ranks that share the tokens of a sample; heads and tokens are the model's business."""

from __future__ import annotations

from collections.abc import Iterator

from rlvis.findings import Finding, mistake
from rlvis.schema import Config, Stage

WITHOUT_POLICY = (Stage.score, Stage.weigh, Stage.build)


def degree(config: Config) -> int:
    """Ranks that run every forward together; 1 in a stage that runs no policy, where rows alone are shared
    out.
    """
    return 1 if config.stage in WITHOUT_POLICY else config.engine.sequence_parallel


def groups(config: Config, world_size: int) -> int:
    """Groups of processes that share out the rows; `world_size` where the degree does not divide it."""
    shared = degree(config)
    return world_size // shared if shared >= 1 and world_size % shared == 0 else world_size


def sequence_errors(config: Config, world_size: int) -> Iterator[Finding]:
    """What is wrong with engine.sequence_parallel on `world_size` processes."""
    shared = degree(config)
    key = f"engine.sequence_parallel={shared}"
    if shared < 1:
        yield mistake(f"{key}: wanted at least 1 (every rank alone)", "engine.sequence_parallel=1")
    elif config.plan and shared > 1:
        yield mistake(
            f"plan=true with {key}: the plan counts whole sequences on every GPU",
            "engine.sequence_parallel=1, and expect the activations of the denoiser that it tells to be "
            f"about 1/{shared}",
        )
    elif world_size % shared:
        most = max(n for n in range(1, min(shared, world_size) + 1) if world_size % n == 0)
        yield mistake(
            f"{key} must divide the number of processes, which is {world_size}: so many ranks share the "
            f"tokens of a sample; start {-(-world_size // shared) * shared} processes (torchrun "
            f"--nproc-per-node), or type engine.sequence_parallel={most}"
        )
