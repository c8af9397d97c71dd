"""What HPSv2's network is shown, against the published transform; data/hpsv2.npz names the revision."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rlvis.reward.scorers.hpsv2 import prepare

DATA = np.load(Path(__file__).parent / "data" / "hpsv2.npz")


@pytest.mark.parametrize("case", [0, 1, 2])  # taller, square, wider: 96 x 64, 64 x 64, 40 x 120
def test_the_picture_is_resized_and_padded_as_published(case: int) -> None:
    picture = torch.from_numpy(DATA[f"in_{case}"]).permute(2, 0, 1)[None]
    ours = prepare(picture, 224)
    assert ours.shape == (1, 3, 224, 224)
    wanted = DATA[f"out_{case}"]
    np.testing.assert_allclose(ours[0, :, ::7, ::7], wanted, atol=1e-5 * np.abs(wanted).max(), rtol=0)
