"""VideoAlign on a tiny checkpoint of the published layout: LoRA as PEFT has it, frames, sizes, z-scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

from rlvis.reward.facts import fit
from rlvis.reward.judging import qwen
from rlvis.reward.scorers.videoalign import TOKENS, VideoAlign, frames
from tests.reward.scorers import tiny_qwen

PROMPTS = ["a cat", "two dogs and a house", "a cat"]
TEMPLATE = f"See {TOKENS[0]}\nmove {TOKENS[1]}\nshow {{text_prompt}}: {TOKENS[2]}\n"
# The constants of the released configuration.
MEAN, STD = (3.6757, 1.1646, 2.8105), (2.2476, 1.3811, 2.5121)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videoalign")
    tiny_qwen.base(folder / "base")
    tiny_qwen.videoreward(folder / "released")
    (folder / "template.txt").write_text(TEMPLATE, encoding="utf-8")
    return folder


def opened(files: Path, **kwargs: Any) -> VideoAlign:
    paths = {"path": files / "released", "base": files / "base", "template": files / "template.txt"}
    settings = {name: str(path) for name, path in paths.items()}
    return VideoAlign(**{**settings, "clip_fps": 8.0, "device": "cpu", "precision": "fp32", **kwargs})


def clips(count: int, length: int = 9) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, length, 3, 40, 64), generator=generator).to(torch.uint8)


def reference(files: Path, clip: Tensor, prompt: str) -> Tensor:
    """Raw VQ, MQ, TA as published: PEFT's model around the whole Qwen2-VL, every name of the file in it."""
    from peft import LoraConfig, get_peft_model

    processor = AutoProcessor.from_pretrained(files / "base")
    processor.tokenizer.add_tokens(list(TOKENS), special_tokens=True)
    config = tiny_qwen.qwen2_config()
    config.text_config.vocab_size = len(processor.tokenizer)
    model = Qwen2VLForConditionalGeneration(config)
    model.rm_head = torch.nn.Linear(tiny_qwen.WIDTH, 1, bias=False)
    tuned = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "language_model" in n]
    adapted = get_peft_model(model, LoraConfig(target_modules=tuned, r=4, lora_alpha=8)).eval()
    state = torch.load(files / "released" / "checkpoint-7" / "model.pth", weights_only=True)
    start = "base_model.model."
    adapted.load_state_dict({start + tiny_qwen.today(k.removeprefix(start)): v for k, v in state.items()})
    content = [{"type": "video"}, {"type": "text", "text": TEMPLATE.replace("{text_prompt}", prompt)}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    shown = resize(clip[[0, 3, 5, 8]], [252, 420], InterpolationMode.BICUBIC, antialias=True)
    inputs = processor(text=[text], videos=[shown], return_tensors="pt")
    with torch.no_grad():
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        patches = model.model.visual(
            inputs["pixel_values_videos"], grid_thw=inputs["video_grid_thw"]
        ).pooler_output
        embeds[inputs["input_ids"] == config.video_token_id] = patches
        states = model.model.language_model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"])
        places = torch.isin(
            inputs["input_ids"], torch.tensor(processor.tokenizer.convert_tokens_to_ids(TOKENS))
        )
        return model.rm_head(states.last_hidden_state[places])[:, 0]


def test_ratings_are_those_of_the_published_forward(files: Path) -> None:
    images = clips(3)
    theirs = torch.stack([reference(files, images[i], PROMPTS[i]) for i in range(3)]).double()
    raw = opened(files).judge.rate(images, PROMPTS, 8.0, 2)
    torch.testing.assert_close(raw, theirs, atol=1e-4, rtol=1e-4)
    assert (raw.std(0) > 1e-2).all()
    z = (theirs - torch.tensor(MEAN).double()) / torch.tensor(STD).double()
    wanted = {"VQ": z[:, 0], "MQ": z[:, 1], "TA": z[:, 2], "overall": z.sum(1)}
    for dimension, value in wanted.items():
        scores = opened(files, dimension=dimension)(images, PROMPTS, [{}] * 3)
        torch.testing.assert_close(scores.value, value, atol=1e-4, rtol=1e-4)
    plain = opened(files, dimension="MQ", normalise=False)(images, PROMPTS, [{}] * 3)
    torch.testing.assert_close(plain.value, theirs[:, 1], atol=1e-4, rtol=1e-4)


def test_terms_share_a_model_and_its_last_ratings(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quality, motion = opened(files, dimension="VQ"), opened(files, dimension="MQ")
    assert quality.judge is motion.judge
    images, calls = clips(2, length=5), []
    inner = quality.judge.trunk.hidden
    monkeypatch.setattr(quality.judge.trunk, "hidden", lambda *a: calls.append(len(a[0])) or inner(*a))
    for scorer in (quality, motion, quality):
        scorer(images, PROMPTS[:2], [{}] * 2)
    assert calls == [2]
    motion(images, PROMPTS[1:], [{}] * 2)
    assert calls == [2, 2]


def test_a_batch_is_its_samples_one_by_one(files: Path) -> None:
    images, scorer = clips(3), opened(files, batch=3)
    together = scorer(images, PROMPTS, [{}] * 3).value
    single = [scorer(images[i : i + 1], [PROMPTS[i]], [{}]).value for i in range(3)]
    torch.testing.assert_close(together, torch.cat(single), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("count", "fps", "expected"),
    [
        (81, 16.0, [0, 9, 18, 27, 36, 44, 53, 62, 71, 80]),  # 5 s at 2 a second
        (9, 8.0, [0, 3, 5, 8]),  # at least 4
        (3, 8.0, [0, 2]),  # as many as there are, evenly
        (8, 1.0, [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_frames_are_spread_at_two_a_second(count: int, fps: float, expected: list[int]) -> None:
    assert frames(count, fps, 2.0) == expected


def test_what_cannot_be_judged_is_invalid_or_refused(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    scorer = opened(files)
    scores = scorer(clips(2), ["a cat", f"{TOKENS[0]} great"], [{}] * 2)
    assert scores.valid.tolist() == [True, False]
    assert "1 of 2 samples are invalid" in caplog.text
    with pytest.raises(ValueError, match="rates clips, and the samples have 1 frame"):
        scorer(clips(1, length=1), ["a cat"], [{}])


def test_a_merged_checkpoint_gives_the_same(files: Path, tmp_path: Path) -> None:
    shutil.copytree(files / "released", tmp_path / "merged")
    file = tmp_path / "merged" / "checkpoint-7" / "model.pth"
    merged = qwen.merge(torch.load(file, weights_only=True), 4, 8)
    torch.save({k.removeprefix("base_model.model."): v for k, v in merged.items()}, file)
    images = clips(1)
    ours = opened(files)(images, ["a cat"], [{}]).value
    torch.testing.assert_close(
        opened(files, path=str(tmp_path / "merged"))(images, ["a cat"], [{}]).value, ours
    )


def test_files_that_do_not_fit_are_named(files: Path, tmp_path: Path) -> None:
    config = json.loads((files / "released" / "model_config.json").read_text(encoding="utf-8"))
    for key, change, match in (
        ("data_config", {"num_frames": 16}, "data_config.num_frames=16; only None is known"),
        ("model_config", {"use_special_tokens": False}, "use_special_tokens=False"),
        ("inference_config", {}, "has no 'VQ_mean' in inference_config; type normalise=false"),
    ):
        folder = tmp_path / key
        shutil.copytree(files / "released", folder)
        other = config | {key: config[key] | change if change else {}}
        (folder / "model_config.json").write_text(json.dumps(other), encoding="utf-8")
        with pytest.raises(ValueError, match=match):
            opened(files, path=str(folder))
    with pytest.raises(ValueError, match=r"clip_fps=null: .* type model\.fps=16"):
        fit("videoalign", {"clip_fps": None}, "t")


def test_frames_have_the_processors_pixels(files: Path) -> None:
    judge = opened(files).judge
    # Smooth, since the processor clips what overshoots between its two passes, and the published code after.
    clip = torch.nn.functional.avg_pool2d(clips(1)[0].float(), 9, 1, 4).to(torch.uint8)
    ready = judge.prepare(clip, 8.0)
    assert ready.shape == (4, 3, 252, 420)
    size = {"shortest_edge": 100352, "longest_edge": 200704}
    theirs = judge.trunk.processor.video_processor(
        videos=[clip[[0, 3, 5, 8]]], size=size, return_tensors="pt"
    )
    ours = judge.trunk.inputs(["a"], "video", [ready])
    assert torch.equal(ours["video_grid_thw"], theirs["video_grid_thw"])
    apart = (ours["pixel_values_videos"] - theirs["pixel_values_videos"]).abs() * 0.26 * 255
    assert apart.max() < 1.1  # levels of 255: its resize rounds in fixed point
