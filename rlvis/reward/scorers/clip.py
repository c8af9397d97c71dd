"""CLIPScore: the cosine between a picture and its prompt in any open_clip model (Hessel et al. 2021,
arXiv:2104.08718).

Unusual: pictures are resized as tensors, a whole batch at a time on the model's device, and yet as
open_clip's transform does with PIL, to one level of 255. A prompt longer than the model's context is cut
there, as open_clip does, and that is logged. The raw cosine is the score, not clipped at 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from rlvis.reward import arguments, hub, weights
from rlvis.reward.contract import Scores
from rlvis.reward.facts import Facts, repository
from rlvis.reward.pictures import resize
from rlvis.reward.texts import CutWarning, captions
from rlvis.schema.key import Key

ASSET = "asset:"
ASSETS = Path(str(files("rlvis"))) / "assets"
CONFIG = "open_clip_config.json"


class Clip:
    """Scores pictures with one open_clip model, loaded once and frozen.

    Raises ValueError when there is no such model, or it has no weights.
    """

    def __init__(
        self,
        path: Annotated[
            str,
            Key(
                "asset:tiny_clip, a folder with open_clip_config.json, a repository (OWNER/NAME or "
                "hf-hub:OWNER/NAME), or an architecture of open_clip (ViT-B-32), which needs pretrained",
                path=True,
            ),
        ],
        pretrained: Annotated[
            str | None, Key("tag or file of an architecture's weights; null: path has them", path=True)
        ] = None,
        device: arguments.Device = None,
        batch: arguments.Batch = 64,
        scale: arguments.Scale = 1.0,
        frames: Annotated[
            Sequence[int] | None,
            Key("positions in the clip to look at; null: all", least=-16384, most=16383),
        ] = None,
        precision: Annotated[
            str, Key("open_clip's", choices=("fp32", "bf16", "fp16", "pure_bf16", "pure_fp16"))
        ] = "fp32",
    ) -> None:
        import open_clip

        self.name = source(path, pretrained)
        self.device = weights.device(device)
        self.batch, self.scale = batch, scale
        self.frames = None if frames is None else list(frames)
        try:
            model = open_clip.create_model(
                self.name,
                pretrained,
                precision=precision,
                device=self.device,
                force_quick_gelu=quick_gelu(self.name, pretrained),
                require_pretrained=True,
            )
            self.tokens = open_clip.get_tokenizer(self.name)
        except (RuntimeError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                f"clip: path={path} pretrained={pretrained} cannot be opened: {reason} -- a folder must hold "
                f"{CONFIG}, safetensors and the tokenizer; a hub model needs the network once"
            ) from error
        self.model = model.eval().requires_grad_(False)
        self.dtype = open_clip.get_input_dtype(precision) or torch.float32
        self.stages, self.mean, self.std = _preparation(model.visual.preprocess_cfg, path)
        self.mean, self.std = self.mean.to(self.device), self.std.to(self.device)
        self.cut = CutWarning(f"clip: {self.name}")

    @staticmethod
    def facts(kwargs: Mapping[str, Any]) -> Facts:
        if kwargs["frames"] is not None and len(kwargs["frames"]) == 0:
            raise ValueError("frames=[] leaves nothing to look at; null takes all of them")
        return Facts((repository(kwargs, "path", CONFIG),), weights=lambda: _gpu_bytes(kwargs))

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """Cosine of each sample with its prompt times scale, mean over its frames: float64 [B].

        images: uint8 [B, M, 3, Y, X]. Raises ValueError for a position in `frames` that a clip does not have.
        """
        if self.frames is not None:
            far = [i for i in self.frames if not -images.shape[1] <= i < images.shape[1]]
            if far:
                raise ValueError(f"clip: frames={self.frames}, but the samples have {images.shape[1]} frames")
            images = images[:, self.frames]
        count, frames = images.shape[:2]
        vectors = self.encode_images(images.flatten(0, 1)).reshape(count, frames, -1)
        unique, where = captions(prompts)
        texts = self.encode_texts(unique)[where]
        value = self.scale * (vectors * texts[:, None]).sum(-1).mean(1)
        return Scores(value, torch.isfinite(value))

    def encode_images(self, images: Tensor) -> Tensor:
        """Unit vectors float64 [n, D] on the CPU, of pictures uint8 [n, 3, Y, X]."""
        pieces = torch.split(images, self.batch)
        parts = [self.model.encode_image(self.prepare(piece), normalize=True) for piece in pieces]
        return torch.cat(parts).to("cpu", torch.float64)

    def prepare(self, images: Tensor) -> Tensor:
        """The model's input [n, 3, y, x] from uint8 [n, 3, Y, X]: resized, cropped, scaled, on the device."""
        pixels = images.to(self.device).float()
        for stage in self.stages:
            pixels = stage(pixels)
        return ((pixels / 255 - self.mean) / self.std).to(self.dtype)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors float64 [n, D] on the CPU. What is longer than the context is cut (logged once)."""
        ids = self.tokens(list(texts))
        self.cut.open_clip(self.tokens, texts, ids)
        pieces = torch.split(ids.to(self.device), self.batch)
        parts = [self.model.encode_text(piece, normalize=True) for piece in pieces]
        return torch.cat(parts).to("cpu", torch.float64)


def source(path: str, pretrained: str | None = None) -> str:
    """What open_clip calls the model at `path` (see Clip). Raises ValueError when nothing has that name."""
    import open_clip

    if path.startswith(ASSET):
        folder = ASSETS / path.removeprefix(ASSET)
        if not (folder / CONFIG).is_file():
            known = sorted(f"{ASSET}{p.parent.name}" for p in ASSETS.glob(f"*/{CONFIG}"))
            raise ValueError(f"clip: path={path} does not come with rlvis; what does: {', '.join(known)}")
        return f"local-dir:{folder}"
    if path.startswith(("local-dir:", "hf-hub:")):
        return path
    folder = Path(path).expanduser()
    if folder.is_dir():
        return f"local-dir:{folder}"
    tags = open_clip.list_pretrained_tags_by_model(path)
    if path in open_clip.list_models():
        if pretrained is None:
            raise ValueError(
                f"clip: {path} is an architecture without weights; type pretrained=TAG, one of "
                f"{', '.join(tags) or '(none known)'}, or a file"
            )
        return path
    if path.count("/") == 1 and not path.startswith((".", "/", "~")):
        return f"hf-hub:{path}"
    raise ValueError(
        f"clip: path={path!r} is no folder, no hub repository (OWNER/NAME) and no architecture of open_clip; "
        f"for example {ASSET}tiny_clip, laion/CLIP-ViT-H-14-laion2B-s32B-b79K, or ViT-B-32 with "
        "pretrained=openai"
    )


def quick_gelu(name: str, pretrained: str | None) -> bool:
    """Whether these weights were trained with the activation x sigmoid(1.702 x), as all of OpenAI's were.

    open_clip takes the other one for the plain architecture name, with a warning and wrong cosines.
    """
    import open_clip

    known = pretrained in open_clip.list_pretrained_tags_by_model(name)
    return bool(known and open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu", False))


def _gpu_bytes(kwargs: Mapping[str, Any]) -> int | str:
    """Of the weights, by the model's configuration; or why it cannot be read."""
    import open_clip

    try:
        name = source(kwargs["path"], kwargs["pretrained"])
        model = open_clip.create_model(name, device="meta", load_weights=False)
    except (RuntimeError, OSError, ValueError) as error:
        return f"its configuration cannot be read ({hub.line(error)[:120]})"
    count = sum(parameter.numel() for parameter in model.parameters())
    return weights.gpu_bytes(count, kwargs["precision"])


def _preparation(
    config: dict[str, Any], path: str
) -> tuple[list[Callable[[Tensor], Tensor]], Tensor, Tensor]:
    """open_clip's transform on tensors: what moves pixels, and mean and std [3, 1, 1] of what follows."""
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from torchvision.transforms import CenterCrop, Normalize, Resize

    *moving, _, _, last = image_transform_v2(PreprocessCfg(**config), is_train=False).transforms
    if not all(isinstance(stage, Resize | CenterCrop) for stage in moving) or not isinstance(last, Normalize):
        raise ValueError(
            f"clip: {path} wants resize_mode={config.get('resize_mode')} at size {config.get('size')}; only "
            "squash, and shortest to a square, work on tensors"
        )
    stages = [
        partial(resize, size=stage.size, mode=stage.interpolation.value)
        if isinstance(stage, Resize)
        else stage
        for stage in moving
    ]
    mean, std = (torch.tensor(values)[:, None, None] for values in (last.mean, last.std))
    return stages, mean, std


ENTRY = Clip
