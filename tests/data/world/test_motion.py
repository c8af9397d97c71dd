"""The checker of clips: right on real clips of every kind, and wrong about other motions."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rlvis.data.world import checker, draw, motion
from rlvis.data.world.language import CLIP_KINDS, DIRECTIONS, PATHS, Motion, parse, prompts
from rlvis.data.world.motion import ATTRIBUTES, judge_clips, judge_media


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def degraded(clips: Tensor) -> Tensor:
    """Blurred by a Gaussian of 0.6 pixels, and with noise of 0.05."""
    kernel = torch.exp(-(torch.arange(-2, 3).float() ** 2) / (2 * 0.6**2))
    kernel = kernel[:, None] * kernel / kernel.sum() ** 2
    padded = F.pad(clips.flatten(0, 1), (2, 2, 2, 2), mode="replicate")
    blurred = F.conv2d(padded, kernel.expand(3, 1, 5, 5), groups=3).reshape(clips.shape)
    return (blurred + 0.05 * torch.randn(clips.shape, generator=seeded(9))).clamp(0, 1)


@pytest.mark.parametrize("kind", CLIP_KINDS)
def test_real_clips_are_right(kind: str) -> None:
    texts = prompts(kinds=(kind,), clips=True)
    texts = (texts * 20)[:: max(len(texts) // 3, 1)][:60] if kind != "ambiguous" else texts * 20
    scene = draw.scenes(texts, seeded(), draw.FRAMES)
    clips = draw.paint(scene)
    first = (clips[:, 0] * 255).round().to(torch.uint8)
    # "it moves" is true of what moves.
    covered = (scene.centre.amax(dim=1) - scene.centre.amin(dim=1))[:, 0].amax(dim=1)
    true = torch.tensor([parse(t).motion != Motion() or c > 1 for t, c in zip(texts, covered, strict=True)])
    judged = judge_clips(clips, texts, first)
    assert (judged.hard == true).double().mean() >= 0.99
    assert judged.soft[true].mean() >= 0.98
    blurry = judge_clips(degraded(clips), texts, first)
    assert (blurry.hard == true).double().mean() >= 0.98
    assert blurry.soft[true].mean() >= 0.88


def moving(path: Tensor) -> Tensor:
    """A clip of a red circle of half extent 5 along centres [M, 2]."""
    frames = len(path)
    scene = draw.Scenes(
        colour=torch.zeros(1, 3, dtype=torch.long),
        shape=torch.zeros(1, 3, dtype=torch.long),
        present=torch.tensor([[True, False, False]]),
        half=torch.full((1, 3), 5.0),
        centre=path[None, :, None].expand(1, frames, 3, 2),
    )
    return draw.paint(scene)


def test_every_path_is_told_from_every_other() -> None:
    texts = [f"a red circle {path}" for path in ("moving left", *PATHS[1:])]
    clips = draw.render_clips(texts, seeded(1))
    for b, shown in enumerate(PATHS):
        judged = judge_clips(clips[b].expand(4, -1, -1, -1, -1), texts)
        right = judged.right["path"].tolist()
        assert right == [1.0 if path == shown else 0.0 for path in PATHS]
        assert judged.degree["path"][b] > 0.95
        assert judged.degree["path"].sum() < 1.1


def test_every_direction_is_told_within_45_degrees() -> None:
    texts = [f"a red circle moving {d}" for d in DIRECTIONS]
    times = torch.linspace(0, 1, 9)[:, None]
    for degrees, right in ((0, "right"), (40, "right"), (50, "down"), (180, "left"), (-85, "up")):
        angle = torch.tensor(degrees * torch.pi / 180)
        path = 16 + 10 * (times - 0.5) * torch.stack([angle.cos(), angle.sin()])
        judged = judge_clips(moving(path).expand(4, -1, -1, -1, -1), texts)
        assert judged.right["direction"].tolist() == [float(d == right) for d in DIRECTIONS]
        assert judged.degree["direction"].argmax() == list(DIRECTIONS).index(right)


def test_speed_has_its_boundary_and_rest_is_no_speed() -> None:
    texts = ["a red circle moving right slowly", "a red circle moving right quickly"]
    for length, want in ((5.0, [1, 0]), (8.0, [1, 0]), (10.0, [0, 1]), (14.0, [0, 1]), (0.0, [0, 0])):
        x = 16 + length * (torch.linspace(0, 1, 9) - 0.5)
        clip = moving(torch.stack([x, torch.full((9,), 16.0)], dim=1)).expand(2, -1, -1, -1, -1)
        judged = judge_clips(clip, texts)
        assert judged.right["speed"].tolist() == want
        assert (judged.degree["speed"] > 0.5).tolist() == [value == 1 for value in want]


def test_it_moves_asks_for_any_motion_and_jumping_about_is_no_path() -> None:
    rest = moving(torch.full((9, 2), 16.0))
    jumpy = moving(16 + 12 * (torch.rand(9, 2, generator=seeded(2)) - 0.5))
    assert judge_clips(torch.cat([rest, jumpy]), ["it moves"] * 2).hard.tolist() == [False, True]
    texts = [f"a red circle {path}" for path in ("moving left", *PATHS[1:])]
    assert not judge_clips(jumpy.expand(4, -1, -1, -1, -1), texts).hard.any()


def test_other_prompts_score_low() -> None:
    texts = prompts(clips=True)
    clips = draw.render_clips(texts, seeded(3))
    other = [texts[i] for i in torch.randperm(len(texts), generator=seeded(4)).tolist()]
    judged = judge_clips(clips, other)
    assert judged.hard.double().mean() < 0.05
    assert judged.soft.mean() < 0.5
    for name in ("colour", "shape", "direction"):
        assert judged.degree[name].nanmean() < 0.35


def test_only_what_the_prompt_asks_is_looked_at() -> None:
    asked = {
        "a red circle moving left": {"count", "colour", "shape", "path", "direction"},
        "a red circle moving left slowly": {"count", "colour", "shape", "path", "direction", "speed"},
        "a red circle circling": {"count", "colour", "shape", "path"},
        "a red circle moving": {"count", "colour", "shape", "moves"},
        "it moves": {"count", "moves"},
        "a small red circle": {"count", "colour", "shape", "size"},
    }
    judged = judge_clips(draw.render_clips(list(asked), seeded(5)), list(asked))
    assert set(judged.degree) == set(judged.right) == set(ATTRIBUTES)
    for b, names in enumerate(asked.values()):
        assert {name for name in ATTRIBUTES if not judged.degree[name][b].isnan()} == names
        assert {name for name in ATTRIBUTES if not judged.right[name][b].isnan()} == names


def test_a_still_prompt_is_judged_frame_by_frame() -> None:
    text = "a red circle left of a blue square"
    clip = draw.render_clips([text], seeded())
    assert judge_clips(clip, [text]).hard.all()
    empty = clip.clone()
    empty[:, :2] = 0.5
    judged = judge_clips(empty, [text])
    assert judged.hard.all()  # right in 7 of 9 frames
    assert judged.degree["shape"].item() == pytest.approx(
        7 / 9 * judge_clips(clip, [text]).degree["shape"].item(), abs=1e-6
    )
    empty[:, :3] = 0.5
    assert not judge_clips(empty, [text]).hard.any()


def test_a_missing_frame_does_not_bend_the_path() -> None:
    text = "a red circle moving right"
    clip = draw.render_clips([text], seeded())
    clip[:, 4] = 0.5
    judged = judge_clips(clip, [text])
    assert judged.hard.all()
    assert judged.degree["path"].item() == pytest.approx(8 / 9, abs=0.03)  # it is there in 8 of 9


def test_fidelity_to_the_condition_frame_is_smooth_and_has_a_bound() -> None:
    texts = ["a red circle moving left"] * 6
    clips = draw.render_clips(texts[:1], seeded()).expand(6, -1, -1, -1, -1).clone()
    first = clips[:, 0].clone()
    bound = motion.FIRST_FRAME
    for b, away in enumerate((0.0, 0.005, 0.01, 0.019, 0.021, 0.06)):
        clips[b, 0] += away
        assert away < bound or b > 3
    judged = judge_clips(clips, texts, first)
    assert judged.right["first_frame"].tolist() == [1, 1, 1, 1, 0, 0]
    assert judged.degree["first_frame"][0] == 1
    assert (judged.degree["first_frame"].diff() < 0).all()
    assert judged.degree["first_frame"][-1] < 0.01
    assert judged.hard.tolist() == [True] * 4 + [False] * 2
    # Another colour at the same place, and the same thing elsewhere.
    for shown in (first.flip(1), first.roll(8, dims=-1)):
        assert not judge_clips(clips[:1], texts[:1], shown[:1]).hard.any()
    with pytest.raises(ValueError, match=r"condition frames must be \[6, 3, 32, 32\]"):
        judge_clips(clips, texts, first[:1])


def test_empty_and_noisy_clips_are_wrong() -> None:
    texts = prompts(clips=True)[::20]
    shape = (len(texts), 9, 3, 32, 32)
    assert judge_clips(torch.full(shape, 0.5), texts).soft.max() == 0
    noise = judge_clips(torch.rand(shape, generator=seeded()), texts)
    assert not noise.hard.any()
    assert noise.soft.mean() < 0.05


def test_media_are_pictures_and_clips() -> None:
    stills, moves = prompts()[::20], prompts(clips=True)[::25]
    pictures = (draw.render(stills, seeded()) * 255).round().to(torch.uint8)
    want = checker.judge(pictures.float() / 255, stills)
    assert torch.equal(judge_media(pictures[:, None], stills).soft, want.soft)
    clips = (draw.render_clips(moves, seeded()) * 255).round().to(torch.uint8)
    judged = judge_media(clips, moves, clips[:, 0])
    assert torch.equal(judged.soft, judge_clips(clips.float() / 255, moves, clips[:, 0]).soft)
    assert judged.hard.all()
    with pytest.raises(ValueError, match="the prompt 'it moves' asks for a clip, got a single frame"):
        judge_media(pictures[:1, None], ["it moves"])
    with pytest.raises(ValueError, match="a condition frame asks for a clip"):
        judge_media(pictures[:, None], stills, pictures)
    with pytest.raises(ValueError, match=r"uint8 \[B, M, 3, S, S\]"):
        judge_media(pictures, stills)
    assert parse("it moves").motion == Motion()
