"""HPSv3 on a tiny checkpoint of the published layout: its forward as published, sizes, noise, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoProcessor, Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLModel

from rlvis.reward.judging import qwen
from rlvis.reward.scorers.hpsv3 import PIXELS, TOKEN, HPSv3
from tests.reward.scorers import tiny_qwen

PROMPTS = ["a cat", "two dogs and a {house}", "a cat"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hpsv3")
    tiny_qwen.base(folder / "base")
    tiny_qwen.hpsv3(folder / "HPSv3.safetensors")
    (folder / "template.txt").write_text(f"Rate it by {{text_prompt}}: {TOKEN}\nEND", encoding="utf-8")
    return folder


def opened(files: Path, **kwargs: Any) -> HPSv3:
    settings = {"path": str(files), "base": str(files / "base"), "template": str(files / "template.txt")}
    return HPSv3(**{**settings, "device": "cpu", "precision": "fp32", **kwargs})


def pictures(count: int, frames: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, frames, 3, 40, 64), generator=generator).to(torch.uint8)


def reference(files: Path, image: Tensor, prompt: str) -> Tensor:
    """(mu, log sigma) as published: PIL's resize, positions left to the text model, the head at the token."""
    processor = AutoProcessor.from_pretrained(files / "base")
    processor.tokenizer.add_tokens([TOKEN], special_tokens=True)
    config = tiny_qwen.qwen2_config()
    config.text_config.vocab_size = len(processor.tokenizer)
    model = Qwen2VLForConditionalGeneration(config).eval()
    state = load_file(files / "HPSv3.safetensors")
    head = nn.Sequential(
        *(nn.Linear(tiny_qwen.WIDTH, 1024), nn.ReLU(), nn.Dropout(0.05)),
        *(nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2)),
    ).eval()
    head.load_state_dict(
        {k.removeprefix("rm_head."): v for k, v in state.items() if k.startswith("rm_head.")}
    )
    rest = {k: v for k, v in state.items() if not k.startswith("rm_head.")}
    model.load_state_dict({tiny_qwen.today(k): v for k, v in rest.items()})
    shown = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((588, 364))
    content = [{"type": "image"}, {"type": "text", "text": f"Rate it by {prompt}: {TOKEN}\nEND"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[text], images=[shown], return_tensors="pt")
    with torch.no_grad():
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        patches = model.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output
        embeds[inputs["input_ids"] == config.image_token_id] = patches
        states = model.model.language_model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"])
        where = inputs["input_ids"] == processor.tokenizer.convert_tokens_to_ids(TOKEN)
        return head(states.last_hidden_state[where])[0]


def test_scores_are_those_of_the_published_forward(files: Path) -> None:
    scorer, images = opened(files, sigma=True, batch=2), pictures(3)
    scores = scorer(images, PROMPTS, [{}] * 3)
    theirs = torch.stack([reference(files, images[i, 0], PROMPTS[i]) for i in range(3)]).double()
    assert scores.valid.all()
    assert scores.noise_dof is None
    # A level of 255 where PIL's resize rounds otherwise.
    torch.testing.assert_close(scores.value, theirs[:, 0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(scores.noise_var, theirs[:, 1].exp().square(), atol=1e-3, rtol=1e-3)
    assert scores.value.std() > 1e-2


def test_pictures_have_pils_pixels(files: Path) -> None:
    scorer, image = opened(files), pictures(1)[0]
    ready = scorer.prepare(image)
    assert ready.shape[-2] * ready.shape[-1] >= PIXELS
    shown = Image.fromarray(image[0].permute(1, 2, 0).numpy()).resize((588, 364))
    theirs = scorer.trunk.processor.image_processor(images=[shown], return_tensors="pt")
    ours = scorer.trunk.inputs(["a"], "image", list(ready))
    assert torch.equal(ours["image_grid_thw"], theirs["image_grid_thw"])
    apart = (ours["pixel_values"] - theirs["pixel_values"]).abs() * 0.26 * 255  # in levels
    assert apart.max() < 2.1
    assert (apart > 1.1).float().mean() < 1e-5


def test_a_batch_is_its_samples_one_by_one(files: Path) -> None:
    images = pictures(3, frames=2)
    scorer = opened(files, batch=4)
    together = scorer(images, PROMPTS, [{}] * 3).value
    single = [
        scorer(images[i : i + 1, m : m + 1], [PROMPTS[i]], [{}]).value for i in range(3) for m in (0, 1)
    ]
    torch.testing.assert_close(together, torch.cat(single).reshape(3, 2).mean(1), atol=1e-5, rtol=1e-5)


def test_the_released_names_are_understood() -> None:
    config = Qwen2VLConfig(
        text_config={"vocab_size": 151658, "hidden_size": 3584, "num_hidden_layers": 28},
        vision_config={"depth": 32, "hidden_size": 3584},
    )
    with torch.device("meta"):
        names = [tiny_qwen.former(name) for name in Qwen2VLForConditionalGeneration(config).state_dict()]
        wanted = set(Qwen2VLModel(config).state_dict())
    names += [f"rm_head.{layer}.{kind}" for layer in (0, 3, 5) for kind in ("weight", "bias")]
    assert len(names) == 736  # in HPSv3.safetensors
    trunk, head = qwen.split({name: torch.empty(0) for name in names})
    assert set(trunk) == wanted
    assert len(head) == 6


def test_a_prompt_with_special_tokens_is_invalid(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    scores = opened(files)(pictures(2), ["a cat", f"{TOKEN} 10 of 10"], [{}] * 2)
    assert scores.valid.tolist() == [True, False]
    assert "1 of 2 samples are invalid: hpsv3: the prompt" in caplog.text


def test_weights_that_do_not_fit_are_named(files: Path, tmp_path: Path) -> None:
    state = load_file(files / "HPSv3.safetensors")
    changes: list[tuple[dict[str, Tensor | None], str]] = [
        ({"model.norm.weight": None}, "1 missing, first language_model.norm.weight"),
        ({"model.extra": torch.zeros(1)}, "1 unexpected, first language_model.extra"),
        ({"rm_head.5.bias": None}, r"it lacks 5\.bias"),
        ({"model.embed_tokens.weight": torch.zeros(9, tiny_qwen.WIDTH)}, "know 9 tokens"),
    ]
    for i, (change, match) in enumerate(changes):
        other = {k: v for k, v in (state | change).items() if v is not None}
        save_file(other, tmp_path / f"{i}.safetensors")
        with pytest.raises(ValueError, match=match):
            opened(files, path=str(tmp_path / f"{i}.safetensors"))
