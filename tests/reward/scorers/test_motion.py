"""Motion of clips: known values of known movements, RAFT's file layout, and single pictures refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models import optical_flow

from rlvis.reward.facts import fit
from rlvis.reward.scorers.motion import Motion


def scores(scorer: Motion, clips: Tensor) -> Tensor:
    return scorer(clips, [""] * len(clips), [{}] * len(clips)).value


def fading(*levels: int) -> Tensor:
    return torch.tensor(levels, dtype=torch.uint8)[None, :, None, None, None].expand(-1, -1, 3, 8, 8)


def test_energy_is_the_mean_change() -> None:
    clips = torch.cat([fading(0, 51, 102), fading(7, 7, 7), fading(0, 255, 0)])
    expected = torch.tensor([0.2, 0.0, 1.0]).double()
    torch.testing.assert_close(scores(Motion("energy"), clips), expected, atol=1e-7, rtol=0)


def test_smoothness_is_the_error_of_a_straight_line() -> None:
    clips = torch.cat([fading(0, 51, 102), fading(7, 7, 7), fading(0, 255, 0), fading(0, 0, 51)])
    expected = torch.tensor([1.0, 1.0, 0.0, 0.9]).double()
    torch.testing.assert_close(scores(Motion("smoothness"), clips), expected, atol=1e-7, rtol=0)


def test_flicker_is_less_smooth_than_movement() -> None:
    generator = torch.Generator().manual_seed(0)
    wide = torch.randint(0, 256, (3, 16, 64), generator=generator).float()
    wide = torch.nn.functional.avg_pool2d(wide, 5, 1, 2).to(torch.uint8)
    moving = torch.stack([wide[:, :, t : t + 32] for t in range(8)])
    shuffled = moving[[0, 5, 1, 7, 2, 6, 3, 4]]
    smooth = scores(Motion("smoothness"), torch.stack([moving, shuffled]))
    assert smooth[0] > smooth[1]


def test_stride_skips_frames() -> None:
    clip = fading(0, 200, 51, 200, 102)
    assert float(scores(Motion("energy", stride=2), clip)) == pytest.approx(0.2)


@pytest.mark.parametrize(("measure", "least"), [("smoothness", 3), ("energy", 2)])
def test_single_pictures_are_refused(measure: str, least: int) -> None:
    with pytest.raises(ValueError, match=f"{measure} needs {least} frames, and the samples have 1"):
        scores(Motion(measure), fading(0))


@pytest.fixture(scope="module")
def raft_small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("raft") / "raft_small.pth"
    torch.save(optical_flow.raft_small(weights=None).state_dict(), path)
    return path


def test_flow_is_the_mean_length_that_raft_sees(raft_small: Path) -> None:
    scorer = Motion("flow", path=str(raft_small), steps=2, device="cpu", batch=1)
    clip = torch.randint(0, 256, (3, 3, 132, 128), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    model = optical_flow.raft_small(weights=None).eval()
    model.load_state_dict(torch.load(raft_small, weights_only=True))
    weights = optical_flow.Raft_Small_Weights.DEFAULT.transforms()
    padded = torch.nn.functional.pad(clip.float(), (0, 0, 0, 4), mode="replicate").to(torch.uint8)
    first, second = weights(padded[:-1], padded[1:])
    with torch.no_grad():
        flow = model(first, second, num_flow_updates=2)[-1][:, :, :132]
    expected = flow.norm(dim=1).mean((1, 2)).mean().double()
    torch.testing.assert_close(scores(scorer, clip[None])[0], expected, atol=1e-4, rtol=1e-4)


def test_flow_of_small_clips_is_in_their_own_pixels(raft_small: Path) -> None:
    scorer = Motion("flow", path=str(raft_small), steps=1, device="cpu")
    small = torch.randint(0, 256, (1, 2, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    small = small.to(torch.uint8)
    large = torch.nn.functional.interpolate(small[0].float(), size=(128, 128), mode="bilinear")
    assert scorer.raft is not None
    torch.testing.assert_close(scores(scorer, small)[0] * 4, scorer.raft(large), atol=1e-3, rtol=1e-3)


def test_arguments_that_do_not_fit_are_named(tmp_path: Path) -> None:
    for kwargs in ({"measure": "flow"}, {"measure": "energy", "path": "FILE"}):
        with pytest.raises(ValueError, match="flow needs torchvision's RAFT weights and the others none"):
            fit("motion", kwargs, "t")
    other = tmp_path / "raft-things.pth"
    torch.save({"module.fnet.conv1.weight": torch.zeros(1)}, other)
    with pytest.raises(ValueError, match="is not torchvision's RAFT"):
        Motion("flow", path=str(other))
