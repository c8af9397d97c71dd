"""How hard a clip pulls a policy back, by where it looks: at one ratio a sample, or at one a position.

    python -m benchmarks.clip_pull            # writes results/clip_pull.{json,md}; a minute, no model

On the second optimizer step a row's log-ratio at position p is n_p d_p, the drawn noise times the shift of
the mean over its std. Without a clip the gradient's mean over n is 0 to first order. A clip removes the part
in which A n_p d_p > c, and what is left has a mean along -d: it pulls the mean back to where it was. One
ratio a sample truncates the noise in one direction of its FHW, a ratio a position in each of them. Here d is
the same at every position, and c is set so that a share f a side is removed; pull = - mean of n along
d / |d|, in units of a sample's std; closed forms: phi(z) for a sample, sqrt(FHW) phi(z) at positions,
P(n > z) = f.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy import optimize, stats

RESULTS = Path(__file__).parent / "results"
SAMPLES = 4000
BINDING = 0.10  # share a side that a clip of 1e-4 removes on the embedded default
# Latent positions F * H * W of what recipes train.
GRIDS = {
    "embedded image": (1, 8, 8),
    "embedded defect image": (1, 16, 16),
    "SD 3.5, 256 px": (1, 32, 32),
    "SD 3.5 or FLUX.1, 512 px": (1, 64, 64),
    "FLUX.1, 720 px": (1, 90, 90),
    "Wan 2.1, 53 x 240 x 416": (14, 30, 52),
    "Wan 2.1, 81 x 480 x 832": (21, 60, 104),
}


def simulated(positions: int, share: float, rng: np.random.Generator) -> tuple[float, float]:
    """Pull of a clip on samples and of one at positions, each removing `share` a side."""
    z = stats.norm.isf(share)
    by_sample = by_position = 0.0
    for _ in range(SAMPLES):
        noise = rng.standard_normal(positions, dtype=np.float32)
        along = float(noise.sum()) / positions**0.5
        by_sample -= along if along < z else 0.0
        by_position -= float(noise[noise < z].sum()) / positions**0.5
    return by_sample / SAMPLES, by_position / SAMPLES


def equal_share(positions: int, share: float) -> float:
    """Share a side at positions whose pull is that of `share` a side on samples."""
    pull = stats.norm.pdf(stats.norm.isf(share))
    z = optimize.brentq(lambda z: positions**0.5 * stats.norm.pdf(z) - pull, stats.norm.isf(share), 12.0)
    return float(stats.norm.sf(z))


def main() -> None:
    """Simulate, tabulate, write."""
    rng, rows = np.random.default_rng(0), []
    for name, grid in GRIDS.items():
        positions = int(np.prod(grid))
        sample, position = simulated(positions, BINDING, rng)
        rows.append(
            {
                "latent": name,
                "positions": positions,
                "pull_sample": round(sample, 3),
                "pull_position": round(position, 2),
                "ratio": round(position / sample, 1),
                "closed_form": round(positions**0.5, 1),
                "equal_share": float(f"{equal_share(positions, BINDING):.2g}"),
            }
        )
    head = (
        "| latent | positions | pull, clip on samples | pull, clip at positions | ratio | sqrt(FHW) "
        "| share with equal pull |"
    )
    lines = [
        f"Share removed a side: {BINDING:g}; on samples in closed form: "
        f"{stats.norm.pdf(stats.norm.isf(BINDING)):.3f}.",
        "",
        head,
        "|---|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows]
    (RESULTS / "clip_pull.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "clip_pull.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
