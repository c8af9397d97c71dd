"""No prior: groups are compared with nothing."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rlvis.records import PromptBatch
from rlvis.trust.groups import Groups
from rlvis.trust.prior import Anchor, Memory, Prior


class NoPrior(Prior):
    """Compares with nothing and remembers nothing."""

    def step(
        self, groups: Groups, memory: Mapping[str, Tensor], prompts: PromptBatch, reference: Groups | None
    ) -> tuple[Anchor | None, Memory]:
        """Nothing."""
        return None, {}


ENTRY = NoPrior
