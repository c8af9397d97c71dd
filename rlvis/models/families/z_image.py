"""Z-Image (Tongyi Lab): Qwen3 text, one stream of image and text tokens, rectified flow, CFG.

Unusual: the denoiser takes lists of texts without padding, and the position of the picture begins behind the
text, so padding would change the picture. Embeddings are stored padded, with a mask, and cut to their length
before the call. Rows whose texts differ by a multiple of 32 tokens are padded to each other by the denoiser:
then a row's last bits may depend on the rows beside it, and the first ratio is 1 within rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rlvis.models import comfy, decoding, grids, sizes
from rlvis.models.policy import Policy
from rlvis.records import Schedule

DEFAULT_TOKENS = 512
BLOCK = 32  # text is filled up to multiples of it by the denoiser


class ZImage(Policy):
    """`ZImagePipeline`; its embeds are prompt_embeds [P,L,D] and prompt_embeds_mask [P,L] of 0 and 1."""

    pipeline_name = "ZImagePipeline"
    # The attention, as the other families; nothing is published for this one.
    lora_targets = ("attention.to_k", "attention.to_out.0", "attention.to_q", "attention.to_v")
    # ComfyUI has a table of diffusers' names for this family.
    comfy_names = comfy.Names(
        comfy.same(
            *(
                f"{block}.*.{layer}"
                for layer in (*lora_targets, *(f"feed_forward.w{i}" for i in (1, 2, 3)))
                for block in ("layers", "noise_refiner", "context_refiner")
            )
        ),
        prefix="transformer.",
    )

    def geometry(self) -> tuple[int, int, int, int]:
        """(C, 1, H, W); sides are multiples of autoencoder factor x patch, up to the position table."""
        config: Any = self.module.config
        factor = self.pipe.vae_scale_factor
        sizes.check_images(self.config)
        unit, (words, *sides) = 2 * factor, config.axes_lens
        sizes.check_sides(self.config, unit, f"autoencoder {factor} x patch 2", unit * min(sides))
        most = (words - 2) // BLOCK * BLOCK
        self.tokens = sizes.check_tokens(self.config, min(DEFAULT_TOKENS, most), most)
        return config.in_channels, 1, self.config.height // factor, self.config.width // factor

    def embed(self, text: str) -> dict[str, Tensor]:
        """prompt_embeds [1,L,D] by the stock `encode_prompt`, zeros behind the text's end, and the mask."""
        (prompt,), _ = self.pipe.encode_prompt(
            prompt=[text],
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.tokens,
        )
        used, rest = len(prompt), self.tokens - len(prompt)
        return {
            "prompt_embeds": torch.nn.functional.pad(prompt, (0, 0, 0, rest))[None],
            "prompt_embeds_mask": (torch.arange(self.tokens, device=prompt.device) < used).long()[None],
        }

    def truncated(self, text: str) -> bool:
        """Whether the text within the chat template has more tokens than `max_tokens`."""
        whole = self.pipe.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=True,
        )
        return len(self.pipe.tokenizer(whole, truncation=False).input_ids) > self.tokens

    def schedule(self, steps: int, shift: float | None = None, grid: str = "model") -> Schedule:
        """A line from 1 to 1/steps under the scheduler's shift (released: 3 for Turbo)."""
        _, _, h, w = self.latent_shape
        return grids.line_schedule(self.pipe, self.config.path, h * w // 4, steps, shift, grid)

    def denoise(
        self, module: Callable[..., Any], x: Tensor, time: Tensor, embeds: Mapping[str, Tensor]
    ) -> Tensor:
        """Velocity eps - x0 of x [B,C,1,H,W]; the denoiser takes 1 - sigma and gives x0 - eps."""
        mask = embeds["prompt_embeds_mask"]
        # Without weights (a plan of the memory) there are no values: texts fill their length.
        lengths = [mask.shape[1]] * len(mask) if mask.is_meta else mask.sum(1).tolist()
        texts = [row[:used] for row, used in zip(embeds["prompt_embeds"], lengths, strict=True)]
        rows = module(list(x.unbind(0)), (1000 - time) / 1000, texts, return_dict=False)[0]
        return -torch.stack([row.float() for row in rows])

    def guide(self, negative: Tensor, out: Tensor, time: Tensor) -> Tensor:
        """Stock counts guidance from 0: out + (cfg - 1) (out - negative)."""
        return out + (self.config.cfg - 1) * (out - negative)

    def decode_chunk(self, latents: Tensor) -> Tensor:
        """[B,C,1,H,W] -> [B,1,3,Y,X] in [0, 1]: unscale, autoencoder, stock post-processing."""
        return decoding.picture(self.pipe, latents)

    def call_settings(self) -> dict[str, Any]:
        """Stock's guidance_scale is ours minus 1."""
        return super().call_settings() | {"guidance_scale": self.config.cfg - 1}


ENTRY = ZImage
