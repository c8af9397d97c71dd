"""GenEval-style scores of compositions: an open-vocabulary detector of transformers, CLIP for colours, rules.

The rules are those of geneval_rules; the detector is not. The benchmark and Flow-GRPO detect with Mask2Former
on COCO, so numbers of this scorer do not compare with those of the papers, and thresholds carry over in name
only. Unusual: each asked class is a query for itself, since detectors that read a sentence mix up its nouns.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlvis.reward import arguments, hub, weights
from rlvis.reward.contract import Scores
from rlvis.reward.facts import Facts, repository
from rlvis.reward.judging import geneval_rules as rules
from rlvis.reward.scorers.clip import Clip
from rlvis.schema.key import Key

log = logging.getLogger(__name__)

PINNED = {"google/owlv2-base-patch16-ensemble": "cfd3195ba4ea9592eec887ded089f4c08eff231d"}

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
PHRASES = (
    "a photo of a {colour} {name}",
    "a photo of a {colour}-colored {name}",
    "a photo of a {colour} object",
)
GREY = 153  # 0x99, the benchmark's background of what is cut out


class Geneval:
    """Scores pictures by the counts, colours and positions that their prompts' metadata ask for.

    The detector, in `precision`, is one that AutoModelForZeroShotObjectDetection opens. Raises ValueError
    when a model cannot be opened.
    """

    def __init__(
        self,
        path: arguments.Source,
        revision: arguments.Revision = None,
        query: Annotated[str, Key("what the detector is asked, {} being the class")] = "a photo of a {}",
        measure: Annotated[
            str,
            Key("score: dense, at most 1, may be negative; strict, eval: 0 or 1", choices=rules.MEASURES),
        ] = "score",
        threshold: Annotated[float, Key("score above which a box counts", above=0, most=1)] = 0.3,
        counting_threshold: Annotated[
            float, Key("the same for prompts of tag counting", above=0, most=1)
        ] = 0.9,
        nms: Annotated[
            float,
            Key(
                "of boxes that overlap by more, of any class, the surest stays; 1: all stay, as upstream",
                "share",
                above=0,
                most=1,
            ),
        ] = 1.0,
        boxes: Annotated[int, Key("of a class at most", "boxes", least=1, most=10000)] = 16,
        clip: Annotated[str, Key("model that names colours, as kwargs.path of reward=clip", path=True)] = (
            "ViT-L-14"
        ),
        clip_pretrained: Annotated[
            str | None, Key("tag of its weights, as kwargs.pretrained of reward=clip", path=True)
        ] = "openai",
        device: arguments.Device = None,
        batch: arguments.Batch = 8,
        precision: arguments.Precision = "fp32",
    ) -> None:
        self.query, self.measure, self.nms, self.boxes, self.batch = query, measure, nms, boxes, batch
        self.thresholds = {False: threshold, True: counting_threshold}
        self.device = weights.device(device)
        self.processor, model = _detector(path, revision or PINNED.get(path), precision)
        self.model = model.to(self.device)
        # OWL's processor joins queries that it has tokenised one by one, so they must be of one length.
        self.padding = "max_length" if model.config.model_type.startswith("owl") else True
        self.clip = Clip(clip, clip_pretrained, device=str(self.device))
        self.words: dict[str, Tensor] = {}  # of a class: unit vectors of its colours [10, D]

    @staticmethod
    def facts(kwargs: Mapping[str, Any]) -> Facts:
        if "{}" not in kwargs["query"]:
            raise ValueError(f"query={kwargs['query']!r} has no {{}}, where the class is put")
        return Facts((repository(kwargs, "path", "config.json", PINNED),))

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """Scores float64 [B] of uint8 [B, M, 3, Y, X], mean over frames; invalid without clauses to judge."""
        value = torch.zeros(len(prompts), dtype=torch.float64)
        faults: dict[int, str] = {}
        wanted: list[tuple[int, int, str]] = []
        for i, extra in enumerate(metadata):
            try:
                asked = rules.clauses(extra, "include") + rules.clauses(extra, "exclude")
            except ValueError as error:
                faults[i] = str(error)
                continue
            names = dict.fromkeys(name for name, _, _ in asked)
            wanted += [(i, m, name) for m in range(images.shape[1]) for name in names]
        boxes = self.detect([images[i, m] for i, m, _ in wanted], [name for _, _, name in wanted])
        boxes_of: dict[tuple[int, int], dict[str, Tensor]] = {}
        for (i, m, name), table in zip(wanted, boxes, strict=True):
            boxes_of.setdefault((i, m), {})[name] = table
        for (i, m), detections in boxes_of.items():
            try:
                value[i] += self._judge(images[i, m], detections, metadata[i]) / images.shape[1]
            except ValueError as error:
                faults[i] = str(error)
        if faults:
            first = next(iter(faults.values()))
            log.warning("geneval: %d of %d samples are invalid: %s", len(faults), len(prompts), first)
        return Scores(value, torch.tensor([i not in faults for i in range(len(prompts))], dtype=torch.bool))

    def detect(self, pictures: Sequence[Tensor], names: Sequence[str]) -> list[Tensor]:
        """Boxes of one class in each picture uint8 [3, Y, X]: float32 [n, 5] (left, top, right, bottom in
        pixels, score), all above the lower threshold, unsorted, cut at the picture's edges.
        """
        tables: list[Tensor] = []
        for start in range(0, len(names), self.batch):
            part = list(pictures[start : start + self.batch])
            labels = [[self.query.format(name)] for name in names[start : start + self.batch]]
            inputs = self.processor(images=part, text=labels, return_tensors="pt", padding=self.padding)
            inputs = {k: v.to(self.device) for k, v in inputs.items()}
            inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
            results = self.processor.post_process_grounded_object_detection(
                self.model(**inputs),
                threshold=min(self.thresholds.values()),
                target_sizes=[tuple(picture.shape[-2:]) for picture in part],
                text_labels=labels,
            )
            for picture, result in zip(part, results, strict=True):
                high, wide = picture.shape[-2:]
                boxes = result["boxes"].float().cpu()
                boxes = torch.stack([boxes[:, k].clamp(0, (wide, high)[k % 2]) for k in range(4)], dim=1)
                inside = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)  # a pixel at least is left
                table = torch.cat([boxes, result["scores"].float().cpu()[:, None]], dim=1)
                tables.append(table[inside])
        return tables

    def _judge(self, picture: Tensor, detections: Mapping[str, Tensor], extra: Mapping[str, Any]) -> float:
        """The measure for one picture, from the detections of each class."""
        limit = self.thresholds[extra.get("tag") == "counting"]
        counted = select(detections, limit, self.nms, self.boxes)
        colours = partial(self.colours, picture)
        if self.measure == "eval":
            return rules.correct(counted, extra, colours)
        judged = rules.judge(counted, extra, colours)
        return judged.score if self.measure == "score" else judged.strict

    def colours(self, picture: Tensor, name: str, boxes: Sequence[rules.Box]) -> list[str]:
        """The colour of each box of a picture uint8 [3, Y, X], of ten, by CLIP."""
        if name not in self.words:
            texts = [phrase.format(colour=colour, name=name) for colour in COLOURS for phrase in PHRASES]
            each = self.clip.encode_texts(texts).reshape(len(COLOURS), len(PHRASES), -1)
            self.words[name] = F.normalize(each.mean(1), dim=-1)
        cut = [self.clip.encode_images(crop(picture, box)[None]) for box in boxes]
        return [COLOURS[int((one @ self.words[name].T).argmax())] for one in cut]


def select(
    detections: Mapping[str, Tensor], threshold: float, nms: float, boxes: int
) -> dict[str, list[list[float]]]:
    """What counts as found, surest first: above the threshold, after suppression, at most `boxes` a class.

    seen: boxes [n, 5] of each class, the last column their score.
    """
    from torchvision.ops import nms as suppress

    names = list(detections)
    table = torch.cat([detections[name] for name in names])
    owner = torch.cat([torch.full((len(detections[name]),), k) for k, name in enumerate(names)])
    kept = (table[:, 4] > threshold).nonzero()[:, 0]
    if nms < 1:
        kept = kept[suppress(table[kept, :4], table[kept, 4], nms)]
    kept = kept[table[kept, 4].argsort(descending=True, stable=True)]
    return {
        name: table[kept[owner[kept] == k]][:boxes].tolist()
        for k, name in enumerate(names)
        if bool((owner[kept] == k).any())
    }


def crop(picture: Tensor, box: rules.Box) -> Tensor:
    """The box inside a picture uint8 [3, Y, X], at least a pixel, on a grey square [3, s, s]: CLIP's
    square cut-out would lose the ends of a long thing.
    """
    high, wide = picture.shape[-2:]
    left, top = min(round(box[0]), wide - 1), min(round(box[1]), high - 1)
    right, bottom = round(box[2]), round(box[3])
    piece = picture[:, top : max(bottom, top + 1), left : max(right, left + 1)]
    high, wide = piece.shape[-2:]
    side = max(high, wide)
    square = picture.new_full((3, side, side), GREY)
    y, x = (side - high) // 2, (side - wide) // 2
    square[:, y : y + high, x : x + wide] = piece
    return square


def _detector(path: str, revision: str | None, precision: str) -> tuple[Any, Any]:
    """Processor and model. Raises ValueError when they cannot be had, or detect a closed set of classes."""
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    place = weights.folder(path, revision, ("*.json", "*.txt", "*.safetensors", "*.model"))
    kind: Any = AutoProcessor
    try:
        processor = kind.from_pretrained(place)
        model = weights.pretrained(AutoModelForZeroShotObjectDetection, path, place, precision)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"geneval: path={path} is no open-vocabulary detector of transformers: {hub.line(error)} -- for "
            "example google/owlv2-base-patch16-ensemble or IDEA-Research/grounding-dino-tiny"
        ) from error
    return processor, model


ENTRY = Geneval
