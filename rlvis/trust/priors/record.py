"""A number that each prompt brings in its metadata, or one for each objective."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rlvis.findings import ConfigError, mistake
from rlvis.records import PromptBatch
from rlvis.trust.groups import Groups
from rlvis.trust.prior import Anchor, Memory, Prior
from rlvis.trust.priors.constant import fixed, numbers


class Recorded(Prior):
    """field: of the prompts' metadata."""

    has_variance = False

    def __init__(self, field: str | None) -> None:
        """Raises ConfigError without a field."""
        if not field:
            raise ConfigError(
                mistake(
                    "prior.kind=record reads a number from the prompts' metadata, and prior.field is not set",
                    "prior.field=NAME",
                )
            )
        self.field = field

    def step(
        self, groups: Groups, memory: Mapping[str, Tensor], prompts: PromptBatch, reference: Groups | None
    ) -> tuple[Anchor | None, Memory]:
        """What the prompts say; no memory. Raises ValueError for a prompt without the field."""
        name, size = self.field, groups.mean.shape[1]
        rows = []
        for index, metadata in zip(prompts.index.tolist(), prompts.metadata, strict=True):
            if name not in metadata:
                has = ", ".join(sorted(metadata)) or "no fields"
                raise ValueError(
                    f"prior.kind=record: prompt {index} has no metadata field {name!r} (it has {has}); "
                    "type prior.field=NAME of one that every prompt has"
                )
            rows.append(numbers(metadata[name], size, f"metadata field {name!r} of prompt {index}"))
        return fixed(torch.tensor(rows, dtype=torch.float64).reshape(-1, size)), {}


ENTRY = Recorded
