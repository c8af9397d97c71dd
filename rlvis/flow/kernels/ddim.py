"""DDIM with noise (Song et al. 2021), as DDPO 2305.13301 trains; for any Gaussian path."""

from __future__ import annotations

from typing import Annotated

from rlvis.flow.kernel import Coefficients, Path
from rlvis.schema.key import Key


def ddim(
    path: Path,
    eta: Annotated[float, Key("share of the posterior's std; 1 is DDPM", least=0, most=1, usual=1.0)],
) -> Coefficients:
    """Eq. 16: std = eta sigma_next sqrt(1 - (alpha sigma_next / (alpha_next sigma))^2), which has no 1 - abar
    to cancel.
    """
    alpha, sigma = path.alpha, path.sigma
    kept = (alpha[:-1] * sigma[1:]) / (alpha[1:] * sigma[:-1])
    return path.renewed(eta * sigma[1:] * (1 - kept.square()).clamp(min=0).sqrt())


ENTRY = ddim
