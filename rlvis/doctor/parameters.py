"""The policy's parameters: finite, and the same on every rank, by checksums of their bits.

Ranks whose weights differ train several policies at once, each on its share of the gradient, without a word.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from rlvis.doctor.diagnosis import failure, ok
from rlvis.findings import Finding, Number
from rlvis.runtime import dist
from rlvis.training.parts import Parts

CHUNK = 1 << 24  # values whose bits are taken at a time
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksum(values: Tensor) -> Tensor:
    """int64 [2] on the CPU: sum of the bit patterns, and their sum weighted by position, modulo 2^64."""
    total = torch.zeros(2, dtype=torch.int64, device=values.device)
    flat = values.detach().reshape(-1)
    for start in range(0, flat.numel(), CHUNK):
        bits = flat[start : start + CHUNK].view(BITS[flat.element_size()]).to(torch.int64)
        place = torch.arange(start, start + bits.numel(), device=bits.device) % 65521 + 1
        total += torch.stack([bits.sum(), (bits * place).sum()])
    return total.cpu()


def parameters(parts: Parts) -> list[Finding]:
    """Checksums of trained and frozen parameters over ranks, and whether all of them are finite; a
    collective.
    """
    named: list[tuple[str, Any]] = list(parts.policy.module.named_parameters())
    if parts.engine.stage == 3:
        what = "not looked at: with ZeRO-3 every rank has other shards"
        return [ok("parameters", what, {"ranks": parts.world.size})]
    trained = sum(p.requires_grad for _, p in named)
    sums = torch.stack([checksum(p) for _, p in named])
    bad = torch.tensor([not bool(torch.isfinite(p.detach()).all()) for _, p in named])
    total = f"{len(named)} parameters ({trained} trained)"
    numbers: dict[str, Number] = {"parameters": len(named), "ranks": parts.world.size}
    if dist.any_true(bool(bad.any())):
        names = [name for (name, _), odd in zip(named, bad.tolist(), strict=True) if odd]
        what = f"{len(names)} of {total} on rank {parts.world.rank} are not finite: {', '.join(names[:4])}"
        why = "every sample of such a policy is NaN; the checkpoint is damaged, or its dtype too narrow"
        kind = "model.path=FOLDER with a whole checkpoint, or model.dtype=float32"
        return [failure("parameters", what, numbers, why=why, type=kind)]
    if parts.world.size == 1:
        return [ok("parameters", f"{total}, all finite", numbers)]
    odd = differing(named, sums)
    if not odd:
        what = f"{total}, all finite and bit for bit the same on {parts.world.size} ranks"
        return [ok("parameters", what, numbers)]
    numbers["differing"] = len(odd)
    what = f"{len(odd)} of {total} differ between ranks, the first: {', '.join(odd[:4])}"
    why = "each rank samples from another policy and their gradients are averaged all the same"
    kind = "the same model.path, model.revision and seed on every rank, and equal versions on all machines"
    return [failure("parameters", what, numbers, why=why, type=kind)]


def differing(named: list[tuple[str, Any]], sums: Tensor) -> list[str]:
    """Names of the parameters whose checksums [n, 2] are not those of rank 0, on every rank alike."""
    text = "\n".join(f"{name} {list(p.shape)} {p.dtype}" for name, p in named)
    digest = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "little")
    shapes = dist.all_gather_rows(torch.tensor([[len(named), digest]]), every_rank=True)
    if bool((shapes != shapes[:1]).any()):
        return ["their names, shapes or dtypes"]
    table = dist.all_gather_rows(sums[None], every_rank=True)
    odd = (table != table[:1]).any(-1).any(0)
    return [name for (name, _), differs in zip(named, odd.tolist(), strict=True) if differs]
