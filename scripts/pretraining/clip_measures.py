"""How well the judge tells drawings apart, and how far it agrees with the world's checker."""

from __future__ import annotations

from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from pretraining.clip_data import CLEAR
from pretraining.prompts import wrong_captions
from pretraining.state import generator
from rlvis.data.world import checker, draw, language


@torch.no_grad()
def scores(model: Any, tokens: Any, images: Tensor, texts: list[str]) -> Tensor:
    """Cosine similarities [N images, T texts]; images [N, 3, Y, X] in [0, 1]."""
    parts = torch.split(images, 256)
    embeds = torch.cat([model.encode_image(part * 2 - 1, normalize=True) for part in parts])
    similar: Tensor = embeds @ model.encode_text(tokens(texts), normalize=True).T
    return similar


def measure(model: Any, tokens: Any, seed: int, copies: int = 8) -> dict[str, float]:
    """Retrieval among the clear prompts, agreement with the checker, scores of clear and vague prompts."""
    random = generator(seed, 9)
    clear = [p for kind in CLEAR for p in language.prompts(kinds=(kind,))]
    truth = clear * copies
    table = scores(model, tokens, draw.render(truth, random), clear)
    pairs = list(zip([clear[i] for i in table.argmax(1).tolist()], truth, strict=True))
    means = {"top1": share([guess == true for guess, true in pairs])}
    for kind in CLEAR:
        means[f"top1_{kind}"] = share([g == t for g, t in pairs if language.parse(t).kind == kind])
    means["top1_but_for_size"] = share([without_size(guess) == without_size(true) for guess, true in pairs])
    vague = {kind: language.prompts(kinds=(kind,)) for kind in ("underspecified", "ambiguous")}
    for name, prompts in {"clear": clear, **vague}.items():
        drawn = [scores(model, tokens, draw.render([p] * 32, random), [p])[:, 0] for p in prompts]
        means[f"mean_{name}"] = torch.stack(drawn).mean().item()
        means[f"spread_{name}"] = torch.stack(drawn).std(dim=1).mean().item()
    return {**means, **agreement(model, tokens, clear, random, copies)}


def share(right: list[bool]) -> float:
    """Of those that are right."""
    return sum(right) / len(right)


def without_size(prompt: str) -> str:
    """The prompt but for "small" and "large"."""
    return " ".join(word for word in prompt.split() if word not in language.SIZES)


def agreement(
    model: Any, tokens: Any, clear: list[str], random: torch.Generator, copies: int
) -> dict[str, float]:
    """Against the checker, on drawings judged by their own prompt, one a word away, and any other."""
    drawn, prompts = [], []
    for prompt in clear * copies:
        near = [p for p in wrong_captions(prompt) if p != prompt]
        pick = torch.randint(2**31, (2,), generator=random).tolist()
        drawn += [prompt, near[pick[0] % len(near)], clear[pick[1] % len(clear)]]
        prompts += [prompt] * 3
    images = draw.render(drawn, random)
    names = sorted(set(prompts))
    places = {name: i for i, name in enumerate(names)}
    table = scores(model, tokens, images, names)
    ours = table[torch.arange(len(prompts)), torch.tensor([places[p] for p in prompts])]
    judged = checker.judge(images, prompts)
    hard = judged.hard.bool()
    near_pair = torch.arange(len(prompts)) % 3 != 2  # right ones against those one word away
    return {
        "auroc_checker": auroc(ours, hard),
        "auroc_checker_one_word": auroc(ours[near_pair], hard[near_pair]),
        "spearman_checker_soft": float(spearmanr(ours, judged.soft.double()).statistic),
    }


def auroc(score: Tensor, label: Tensor) -> float:
    """Chance that a right one scores above a wrong one, ties as one half."""
    right, wrong = score[label], score[~label]
    above = (right[:, None] > wrong).double() + 0.5 * (right[:, None] == wrong).double()
    return above.mean().item()
