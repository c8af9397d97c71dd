"""What the sizes of maps rest on: few patches find nothing, and enlarged frames find what large ones do."""

from __future__ import annotations

import pytest
import torch

from benchmarks import map_sizes


def test_enlarging_mends_small_pictures() -> None:
    result = map_sizes.measure(pixels=(8, 32), seeds=(5,), prompts=64)
    found = {(case["pixels"], case["enlarge"]): case for case in result["cases"]}
    few, mended, large = found[8, 1], found[8, 4], found[32, 1]
    assert (few["grid"], mended["grid"], large["grid"]) == (2, 8, 8)
    assert few["auprc"] < 0.3
    assert few["enrichment"] < 1.3
    assert mended["auprc"] > few["auprc"] + 0.4
    assert mended["enrichment"] > 2
    assert abs(mended["auprc"] - large["auprc"]) < 0.1
    assert "| 8 | 4 | 8 x 8 |" in map_sizes.markdown(result)


def test_the_area_under_precision_and_recall() -> None:
    truth = torch.tensor([True, False, True, False])
    assert map_sizes.average_precision(torch.tensor([3.0, 1.0, 2.0, 0.0]), truth) == 1.0
    assert map_sizes.average_precision(torch.tensor([1.0, 3.0, 0.0, 2.0]), truth) == pytest.approx(
        (1 / 3 + 2 / 4) / 2
    )
