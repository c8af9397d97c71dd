"""What a published recipe needs to run tiny: a policy, weights for its rewards and prompts in its format."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from rlvis.compose.files import CONF
from rlvis.schema import Config, MapSource, WindowKind
from tests import tiny, tiny_clip, tiny_flux, tiny_sd, tiny_video, tiny_wan
from tests.reward.scorers import tiny_detectors, tiny_hps, tiny_imagereward, tiny_qwen, tiny_videoclip

NAMES = sorted(f.stem for f in (CONF / "experiment").glob("*.yaml") if "tiny" not in f.stem)
SMALL = [
    "data.prompts_per_step=2",
    "data.samples_per_prompt=3",
    "train.steps=2",
    "tracker.samples_every=0",
    "model.dtype=float32",
    "engine=zero0",
    "engine.device=cpu",
    "threads=1",
    "doctor=strict",
]
PAIRS = [(colour, shape) for colour in ("red", "green", "blue") for shape in ("circle", "square", "ring")]
TEXTS = [f"a {colour} {shape}" for colour, shape in PAIRS]


def options(name: str) -> dict[str, Any]:
    """What the file of a recipe chooses in each group."""
    entries = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8"))["defaults"]
    return {key.removeprefix("override /"): value for entry in entries for key, value in entry.items()}


def rewards(chosen: dict[str, Any]) -> list[str]:
    """Its options of conf/reward."""
    chosen_rewards = chosen["reward"]
    return [chosen_rewards] if isinstance(chosen_rewards, str) else list(chosen_rewards)


def words(name: str, config: Config, folder: Path, stack: ExitStack) -> list[str]:
    """Save everything below `folder`, and what to type so that the recipe trains small on it.

    config: of the recipe as it is. stack: closed after the run.
    """
    chosen = options(name)
    save, sizes = POLICIES[chosen["model"]]
    save(folder / "model")
    typed = [*SMALL, *sizes, f"model.path={folder / 'model'}"]
    if config.model.lora is not None:
        typed.append("model.lora.rank=4")
    window = config.sampler.window.kind in (WindowKind.random_window, WindowKind.progressive)
    typed.append(f"sampler.steps={6 if window else 4}")  # 6 hold every recipe's window
    typed.append(f"train.micro_batch={min(config.train.micro_batch, 2)}")  # what the updates' rows divide by
    typed += [word for reward in rewards(chosen) for word in JUDGES[reward](folder / reward, stack)]
    typed.append(f"data.path={prompts(chosen['data'], folder / 'prompts')}")
    if config.model.lora is not None:
        typed += ["model.lora.rank=4", "model.lora.alpha=8"]
    if config.model.vae_tiling:
        typed.append("model.vae_tiling=false")  # refused where a picture is one tile
    if config.advantage.best_of_n is not None:
        typed.append("advantage.best_of_n=2")
    if config.advantage.map.source is MapSource.psm:
        typed.append("advantage.map.backbone=tiny")
    if config.prior.kind == "reference":
        typed += ["prior.samples=2", f"prior.cache={folder / 'reference'}"]
    return [f"experiment={name}", *typed]


def size(height: int, width: int, frames: int = 1, tokens: int | None = None) -> list[str]:
    """The words for a policy's size."""
    typed = [f"model.height={height}", f"model.width={width}", f"model.frames={frames}"]
    return typed + ([f"model.max_tokens={tokens}"] if tokens else [])


# Option of conf/model -> what saves a tiny pipeline of that kind, and the size it takes.
POLICIES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "sd15": (tiny_sd.sd15, size(32, 32)),
    "sd3": (tiny.sd3, size(48, 48, tokens=16)),
    "flux": (tiny_flux.flux, size(32, 32, tokens=8)),
    "hunyuan_video": (tiny_video.hunyuan_video, size(16, 32, 5, 16)),
    "wan": (tiny.wan, size(32, 32, 9, 16)),
    "wan22_i2v": (lambda folder: tiny_wan.experts(folder, frame=True), size(16, 16, 9, 16)),
}


def _kwargs(term: str, **kwargs: object) -> list[str]:
    return [f"++reward.terms.{term}.kwargs.{name}={value}" for name, value in kwargs.items()]


def _jpeg(folder: Path, stack: ExitStack) -> list[str]:
    return []


def _ocr(folder: Path, stack: ExitStack) -> list[str]:
    # The reader is RapidOCR itself, 0.2 s a picture. It may find nothing in noise, which a strict doctor
    # takes for a constant reward.
    return [*_kwargs("ocr", threads=1), "data.prompts_per_step=1", "doctor=warn"]


def _geneval(folder: Path, stack: ExitStack) -> list[str]:
    judge = {
        "path": tiny_detectors.owlv2(folder, seed=9),
        "clip": "asset:tiny_clip",
        "clip_pretrained": "null",
    }
    # These random weights see up to three things, with scores around this: some count.
    return _kwargs("geneval", query="'a {}'", threshold=0.55, counting_threshold=0.55, **judge)


def _pickscore(folder: Path, stack: ExitStack) -> list[str]:
    return _kwargs("pickscore", path=tiny_clip.save(folder), tokenizer=folder)


def _hpsv2(folder: Path, stack: ExitStack) -> list[str]:
    return _kwargs("hpsv2", path=stack.enter_context(tiny_hps.saved(folder)), architecture=tiny_hps.NAME)


def _imagereward(folder: Path, stack: ExitStack) -> list[str]:
    return _kwargs("imagereward", path=tiny_imagereward.save(folder), tokenizer=folder)


def _clip(folder: Path, stack: ExitStack) -> list[str]:
    return _kwargs("clip", path="asset:tiny_clip")


def _videoclip(folder: Path, stack: ExitStack) -> list[str]:
    return _kwargs("videoclip", path=tiny_videoclip.save(folder))


def _videoalign(folder: Path, stack: ExitStack) -> list[str]:
    files = {"base": tiny_qwen.base(folder / "base"), "path": tiny_qwen.videoreward(folder / "released")}
    template = folder / "template.txt"
    template.write_text("{text_prompt} <|VQ_reward|><|MQ_reward|><|TA_reward|>", encoding="utf-8")
    each = [_kwargs(term, template=template, precision="fp32", **files) for term in ("vq", "mq", "ta")]
    return [word for kwargs in each for word in kwargs]


# Option of conf/reward -> what saves its weights, and the words that make it read them.
JUDGES: dict[str, Callable[[Path, ExitStack], list[str]]] = {
    "clip_dfn5b": _clip,
    "geneval": _geneval,
    "hpsv2": _hpsv2,
    "imagereward": _imagereward,
    "jpeg": _jpeg,
    "ocr": _ocr,
    "pickscore": _pickscore,
    "videoalign_vq_mq": _videoalign,
    "videoclip": _videoclip,
}


def prompts(option: str, folder: Path) -> Path:
    """A file, or folder, as data=OPTION gets it from its source."""
    folder.mkdir()
    if option == "i2v_pairs":
        for i, text in enumerate(TEXTS):
            Image.linear_gradient("L").rotate(20 * i).convert("RGB").save(folder / f"{i}.png")
            (folder / f"{i}.txt").write_text(text, encoding="utf-8")
        return folder
    file = folder / FILES[option]
    with file.open("w", encoding="utf-8", newline="") as opened:
        if option == "txt":
            opened.write("\n".join(TEXTS))
        elif option == "ocr":
            opened.writelines(f'a {colour} sign "{shape.upper()}"\n' for colour, shape in PAIRS)
        elif option == "geneval":
            for i, (text, (_, shape)) in enumerate(zip(TEXTS, PAIRS, strict=True)):
                asked = [{"class": shape, "count": 1 + i % 2}]
                opened.write(json.dumps({"tag": "counting", "include": asked, "prompt": text}) + "\n")
        elif option == "hpd":
            pictures = {"image_path": ["a.jpg", "b.jpg"], "human_preference": [0, 1]}
            json.dump([{"prompt": text, **pictures} for text in TEXTS], opened)
        else:
            rows = csv.writer(opened)
            rows.writerow(["uuid", "prompt", "time", "toxicity"])
            rows.writerows([i, text, "2023-07-01", 0.001] for i, text in enumerate(TEXTS))
    return file


FILES = {
    "geneval": "train.jsonl",
    "hpd": "train.json",
    "ocr": "train.txt",
    "txt": "train.txt",
    "vidprom": "VidProM_unique.csv",
}
