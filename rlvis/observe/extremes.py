"""RUN/groups/step_000020: the step's best and worst samples, most and least trusted groups, and maps.

Of the samples that were trained on, not of fixed prompts. What is shown follows from gathered scalars and is
the same on every rank, so each rank writes the pictures of its own rows and no pixel travels; the leading
rank writes index.json last, when all pictures are there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rlvis import writing
from rlvis.observe import overlay, video
from rlvis.observe.lines import json_number, plain
from rlvis.observe.metrics import weighted_sum
from rlvis.records import PromptBatch, Rewards

SIDE, FRAMES = 128, 16  # of a kept picture or clip, at most
SAMPLES, GROUPS, MEMBERS, MAPS = 4, 2, 8, 4
FPS = 8.0

Place = tuple[int, int]  # prompt and sample, positions in [P, K]


def thumbnails(media: Tensor) -> Tensor:
    """Media uint8 [N,M,3,Y,X], reduced to SIDE pixels and FRAMES frames at most: a copy on the CPU."""
    frames = media.shape[1]
    if frames > FRAMES:
        media = media[:, np.linspace(0, frames - 1, FRAMES).round().astype(int).tolist()]
    tall, wide = media.shape[-2:]
    if max(tall, wide) <= SIDE:
        return media.cpu().clone()
    size = max(1, round(tall * SIDE / max(tall, wide))), max(1, round(wide * SIDE / max(tall, wide)))
    small = F.interpolate(media.flatten(0, 1).float(), size=size, mode="area")
    return small.round().clamp(0, 255).to(torch.uint8).reshape(*media.shape[:3], *size).cpu()


def write(
    run_dir: Path,
    step: int,
    prompts: PromptBatch,
    rewards: Rewards,
    local: Mapping[Place, Tensor],
    groups: list[dict[str, Any]],
    maps: Mapping[Place, Tensor] | None,
    *,
    is_main: bool,
    barrier: Callable[[], None],
    fps: float = FPS,
) -> Path:
    """Write RUN/groups/step_NNNNNN; a collective. Returns the folder.

    step: from 1. local: thumbnails [M,3,y,x] of this rank's samples. groups: the step's rows of trust.jsonl,
    prompt by prompt; empty without a trust. maps: [F,H,W] of this rank's samples; None where no rank has any.
    fps: frames a second of thumbnails that are clips.
    """
    folder = Path(run_dir) / "groups" / f"step_{step:06d}"
    moving = bool(torch.tensor([len(clip) > 1 for clip in local.values()]).any())
    show = _Shown(prompts, rewards, ending(moving))
    index = {"step": step, **show.extremes(), **show.trusted(groups), "maps": []}
    if maps is not None:
        index["maps"] = show.maps()
    for place in show.places & local.keys():
        picture(local[place], folder / show.file(place), fps)
    overlaid = maps or {}
    for place in show.mapped & local.keys():
        panels = overlay.overlay(_enlarged(local[place])[None], overlaid[place][None])[0]
        picture(panels, folder / show.map_file(place), fps)
    barrier()
    if is_main:
        writing.text(folder / "index.json", json.dumps(index, allow_nan=False) + "\n", sync=False)
    return folder


class _Shown:
    """The choice: entries of index.json, and the places whose pictures they name."""

    def __init__(self, prompts: PromptBatch, rewards: Rewards, ending: str) -> None:
        self.prompts, self.rewards, self.ending = prompts, rewards, ending
        self.combined = weighted_sum(rewards)
        self.places: set[Place] = set()
        self.mapped: set[Place] = set()
        valid: list[Place] = [(int(p), int(k)) for p, k in rewards.valid.nonzero().tolist()]
        # Ties in the order of places, so that every rank chooses alike.
        self.ranked = sorted(valid, key=lambda place: (-float(self.combined[place]), place))

    def extremes(self) -> dict[str, list[dict[str, Any]]]:
        """The best and the worst samples; none is both."""
        best = self.ranked[:SAMPLES]
        worst = self.ranked[max(len(best), len(self.ranked) - SAMPLES) :][::-1]
        return {"best": self._samples(best), "worst": self._samples(worst)}

    def trusted(self, groups: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
        """The most and the least trusted groups; none is both."""
        ranked = sorted((g for g in groups if g["mean"] is not None), key=lambda g: -g["weight"])
        most = ranked[:GROUPS]
        least = ranked[max(len(most), len(ranked) - GROUPS) :][::-1]
        return {
            "most_trusted": [self._group(g) for g in most],
            "least_trusted": [self._group(g) for g in least],
        }

    def maps(self) -> list[dict[str, Any]]:
        """Maps of the best and the worst samples, half and half."""
        chosen = dict.fromkeys([*self.ranked[: MAPS // 2], *self.ranked[::-1][: MAPS - MAPS // 2]])
        self.mapped = set(chosen)
        entries = []
        for place, sample in zip(chosen, self._samples(chosen), strict=True):
            del sample["terms"]
            entries.append(sample | {"map": self.map_file(place)})
        return entries

    def file(self, place: Place) -> str:
        """Name of a sample's picture: the prompt's position in the data set, the sample's in its group."""
        return f"p{int(self.prompts.index[place[0]]):03d}_s{place[1]:02d}{self.ending}"

    def map_file(self, place: Place) -> str:
        """Name of its map's overlay."""
        return self.file(place).replace(self.ending, f"_map{self.ending}")

    def _samples(self, places: Iterable[Place]) -> list[dict[str, Any]]:
        entries = []
        for p, k in places:
            self.places.add((p, k))
            terms = zip(self.rewards.names, self.rewards.term[p, k].tolist(), strict=True)
            entries.append(
                {
                    "file": self.file((p, k)),
                    "prompt": int(self.prompts.index[p]),
                    "sample": k,
                    "text": self.prompts.texts[p],
                    "reward": json_number(float(self.combined[p, k])) if self.rewards.valid[p, k] else None,
                    "terms": {name: json_number(value) for name, value in terms},
                }
            )
        return entries

    def _group(self, row: dict[str, Any]) -> dict[str, Any]:
        p = self.prompts.index.tolist().index(row["prompt"])
        members = min(MEMBERS, self.rewards.valid.shape[1])
        kept = ("prompt", "text", "weight", "objective", "mean", "std", "prior_mean", "prior_var")
        return {name: plain(row[name]) for name in kept} | {
            "samples": self._samples((p, k) for k in range(members))
        }


def _enlarged(clip: Tensor) -> Tensor:
    """A tiny picture by a whole factor, to about SIDE pixels."""
    factor = max(1, math.ceil(SIDE / max(clip.shape[-2:]))) if max(clip.shape[-2:]) < SIDE else 1
    return clip.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def ending(moving: bool) -> str:
    """The kind of file for a picture, or for a clip on this machine."""
    return ".png" if not moving else ".mp4" if video.playable() else ".gif"


def picture(clip: Tensor, path: Path, fps: float) -> None:
    """Write frames uint8 [M,3,y,x] as a picture or clip, aside and renamed."""
    if path.suffix != ".png":
        video.write(clip, path, fps, min_side=SIDE)
        return
    with writing.aside(path, sync=False) as part:
        Image.fromarray(_enlarged(clip)[0].permute(1, 2, 0).contiguous().numpy()).save(part, format="PNG")
