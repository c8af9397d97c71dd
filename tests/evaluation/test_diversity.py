"""How different the samples of a prompt are."""

from __future__ import annotations

import math

import numpy as np
import torch

from rlvis.evaluation import diversity


def test_by_hand() -> None:
    """Two prompts of two samples: black and white are 1 apart, equal pictures 0."""
    media = torch.zeros(4, 1, 3, 16, 16, dtype=torch.uint8)
    media[1] = 255
    columns = diversity.looks(media)
    assert len(columns) == 3 * 8 * 8
    assert diversity.of_prompts(columns, 2).tolist() == [1.0, 1.0, 0.0, 0.0]


def test_of_clips_first_middle_and_last_frame_count() -> None:
    media = torch.zeros(2, 5, 3, 8, 8, dtype=torch.uint8)
    media[1, 2] = 255  # one of three frames: sqrt(1/3)
    assert diversity.of_prompts(diversity.looks(media), 2)[0] == np.float64(math.sqrt(1 / 3))


def test_one_sample_has_none() -> None:
    columns = diversity.looks(torch.zeros(3, 1, 3, 8, 8, dtype=torch.uint8))
    assert np.isnan(diversity.of_prompts(columns, 1)).all()
