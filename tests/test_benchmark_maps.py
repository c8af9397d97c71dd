"""The map benchmark on a one-layer backbone: it compares equal maps, and its page says what it measured."""

from __future__ import annotations

import json

from benchmarks import maps


def test_the_two_maps_are_one() -> None:
    sizes = (maps.Size(2, 1, 70, 98, (1, 10, 14)), maps.Size(1, 5, 70, 98, (2, 10, 14)))
    result = json.loads(json.dumps(maps.measure(sizes, 1, maps.small_dinov2(layers=1))))
    for case in result["cases"]:
        assert case["least_correlation"] > 0.999
        assert case["largest_difference"] < 1e-3
        assert {r["above"] for r in case["ratios"]} > {"map, default", "frame by frame"}
    page = maps.markdown(result)
    assert "## 1 x 5 frames of 70 x 98, grid 5 x 7" in page
    assert page.count("| frame by frame, without backbone / map, default, without backbone |") == 2
