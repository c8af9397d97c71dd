"""Flow-CPS, coefficients-preserving sampling: a share of the next noise is drawn anew, the rest is kept."""

from __future__ import annotations

import math
from typing import Annotated

from rlvis.flow.kernel import Coefficients, Path
from rlvis.schema.key import Key


def cps(
    path: Path,
    eta: Annotated[
        float, Key("what is drawn anew, as an angle", "quarter turns", least=0, most=1, usual=0.8)
    ],
) -> Coefficients:
    """std = sigma_next sin(eta pi / 2)."""
    return path.renewed(path.sigma[1:] * math.sin(eta * math.pi / 2))


ENTRY = cps
