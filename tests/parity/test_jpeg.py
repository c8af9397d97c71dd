"""JPEG rewards against Flow-GRPO's own on seeded images; data/jpeg.npz names the revision that was run.

The bytes come from Pillow's encoder, which another build of libjpeg may change;
the sizes recorded are exact for Pillow 13.
"""

from pathlib import Path

import numpy as np
import torch

from rlvis.reward.scorers.jpeg_compressibility import jpeg_compressibility
from rlvis.reward.scorers.jpeg_incompressibility import jpeg_incompressibility

DATA = np.load(Path(__file__).parent / "data" / "jpeg.npz")
IMAGES = torch.from_numpy(DATA["images"]).permute(0, 3, 1, 2)[:, None]  # one frame each, channels first
PROMPTS, METADATA = [""] * len(IMAGES), [{}] * len(IMAGES)


def test_incompressibility_is_flow_grpos() -> None:
    ours = jpeg_incompressibility(IMAGES, PROMPTS, METADATA)
    np.testing.assert_allclose(ours, DATA["incompressibility"], rtol=1e-12)


def test_compressibility_is_flow_grpos_and_ddpos() -> None:
    ours = jpeg_compressibility(IMAGES, PROMPTS, METADATA)
    np.testing.assert_allclose(ours, DATA["compressibility"], rtol=1e-12)
    ddpo = jpeg_compressibility(IMAGES, PROMPTS, METADATA, scale=1.0)
    np.testing.assert_allclose(ddpo, -DATA["incompressibility"], rtol=1e-12)
