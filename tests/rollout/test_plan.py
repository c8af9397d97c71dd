"""Which grid points are kept, and where transitions start among them."""

import torch

from rlvis.rollout.plan import kept_points


def test_a_shared_window_keeps_one_state_more_than_it_has_transitions() -> None:
    points, at = kept_points(torch.tensor([[2, 3]] * 3), steps=6, shared=True)
    assert points.tolist() == [[2, 3, 4]] * 3
    assert at.tolist() == [[0, 1]] * 3


def test_gaps_keep_both_ends_of_every_transition() -> None:
    points, at = kept_points(torch.tensor([[0, 3]]), steps=6, shared=True)
    assert points.tolist() == [[0, 1, 3, 4]]
    assert at.tolist() == [[0, 2]]


def test_rows_of_their_own_have_a_width_that_depends_on_sizes_alone() -> None:
    trained = torch.tensor([[0, 1], [1, 3], [0, 4]])
    points, at = kept_points(trained, steps=6, shared=False)
    assert points.shape == (3, 4)
    for row, steps, start in zip(points, trained, at, strict=True):
        assert row[start].tolist() == steps.tolist()
        assert row[start + 1].tolist() == (steps + 1).tolist()
    assert kept_points(trained[:1], steps=6, shared=False)[0].shape == (
        1,
        4,
    )  # also where rows happen to agree


def test_width_never_exceeds_the_grid() -> None:
    points, _ = kept_points(torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]]), steps=6, shared=False)
    assert points.shape[1] == 6
