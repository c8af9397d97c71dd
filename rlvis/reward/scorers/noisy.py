"""Known noise on another scorer's scores, for studies of how training copes with a reward that is wrong.

The noise of a sample is a function of the seed, its pixels and its prompt (and in mode fresh of how often
they were scored before), never of a global generator: a resumed run and a run on more ranks see the same
scores, as long as the same picture is not scored again after the resumption. Its variance is known and
reported.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from rlvis.reward import function
from rlvis.reward.contract import Scores
from rlvis.reward.facts import Facts
from rlvis.runtime import rng
from rlvis.schema.key import Key

GROUPS = ("all", "ambiguous")


class Noisy:
    """Adds N(mean, std_p^2) to the scores of some prompts, or puts it in their place.

    std_p = std exp(h z_p - h^2), with h = heteroscedastic and z_p ~ N(0, 1) hashed from seed and prompt, so
    that the mean of std_p^2 over prompts stays std^2. Raises ValueError as `function.load` does.
    """

    def __init__(
        self,
        scorer: Annotated[str, Key("a name or dotted path, as reward.terms.NAME.scorer")],
        kwargs: Annotated[Mapping[str, Any] | None, Key("of that one")] = None,
        who: Annotated[
            str | float,
            Key(
                "the prompts concerned: all; ambiguous (their metadata say clear: false); or a share of all "
                "possible ones, chosen by a hash of their text",
                above=0,
                below=1,
            ),
        ] = "all",
        replace: Annotated[bool, Key("the noise stands in place of the score")] = False,
        mean: Annotated[float, Key("of the noise; when added: a bias", least=-1e9, most=1e9)] = 0.0,
        std: Annotated[
            float, Key("of the noise: root mean square deviation over prompts", least=0, most=1e9)
        ] = 0.1,
        heteroscedastic: Annotated[
            float, Key("how much the deviation differs between prompts; 0: not at all", least=0, most=10)
        ] = 0.0,
        mode: Annotated[
            str,
            Key(
                "fresh: drawn anew at each scoring; frozen: the same whenever the same picture is scored for "
                "the same prompt",
                choices=("fresh", "frozen"),
            ),
        ] = "fresh",
        seed: Annotated[int, Key("of the noise", least=-(2**63), most=2**63 - 1)] = 0,
    ) -> None:
        self.inner = function.load(scorer, dict(kwargs or {}), "noisy")
        self.who, self.replace, self.mode, self.seed = who, replace, mode, seed
        self.mean, self.std, self.spread = float(mean), float(std), float(heteroscedastic)
        # How often each picture was scored with its prompt: about 100 bytes an entry, in mode fresh only.
        self._times: Counter[bytes] = Counter()

    @staticmethod
    def facts(kwargs: Mapping[str, Any]) -> Facts:
        if isinstance(kwargs["who"], str) and kwargs["who"] not in GROUPS:
            raise ValueError(
                f"who={kwargs['who']!r}, wanted {' or '.join(GROUPS)}, or a share between 0 and 1"
            )
        return Facts(around=(kwargs["scorer"], kwargs["kwargs"] or {}))

    @property
    def not_cached(self) -> str | None:
        """Why scores are not to be kept by content, if so."""
        if self.mode == "fresh":
            return "the noise is drawn anew at each scoring (mode=fresh; mode=frozen keeps it)"
        return getattr(self.inner.function, "not_cached", None)

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """The inner scores with the noise; images uint8 [B, M, 3, Y, X].

        noise_var is the inner scorer's (0 where it says nothing) plus std_p^2, or std_p^2 alone where the
        score is replaced; noise_dof is the inner one's, by Welch and Satterthwaite where both parts count,
        NaN where the variance is known exactly.
        """
        scores = self.inner(images, prompts, metadata)
        touched = torch.tensor([self.noisy(p, m) for p, m in zip(prompts, metadata, strict=True)])
        deviation = torch.tensor([self.deviation(p) for p in prompts], dtype=torch.float64)
        drawn = torch.zeros(len(prompts), dtype=torch.float64)
        for i in touched.nonzero()[:, 0].tolist():
            drawn[i] = self._draw(images[i], prompts[i])
        noise = self.mean + deviation * drawn
        base = torch.zeros_like(noise) if self.replace else scores.value
        value = torch.where(touched, base + noise, scores.value)
        return Scores(value, scores.valid, *self._known(scores, touched, deviation.square()))

    def noisy(self, prompt: str, metadata: Mapping[str, Any]) -> bool:
        """Whether this prompt's scores get noise. Raises ValueError where who=ambiguous and nobody says."""
        if self.who == "all":
            return True
        if self.who == "ambiguous":
            if not isinstance(metadata.get("clear"), bool):
                raise ValueError(
                    f"noisy: who=ambiguous needs metadata with clear: true or false, and {prompt!r} has "
                    f"{sorted(metadata)}; take data=shapes, or who=0.4 for a share of the prompts"
                )
            return not metadata["clear"]
        return rng.generator(self.seed, 0, f"noisy reward: who {prompt}").random() < float(self.who)

    def deviation(self, prompt: str) -> float:
        """std_p, the deviation of the noise on this prompt's scores."""
        if self.spread == 0:
            return self.std
        z = rng.generator(self.seed, 0, f"noisy reward: deviation {prompt}").standard_normal()
        return self.std * math.exp(self.spread * z - self.spread**2)

    def _draw(self, image: Tensor, prompt: str) -> float:
        content = hashlib.blake2b(f"{list(image.shape)} {prompt}\n".encode(), digest_size=16)
        content.update(image.contiguous().numpy().tobytes())
        time = 0
        if self.mode == "fresh":
            time = self._times[content.digest()]
            self._times[content.digest()] += 1
        purpose = f"noisy reward: {content.hexdigest()}"
        return float(rng.generator(self.seed, time, purpose).standard_normal())

    def _known(self, scores: Scores, touched: Tensor, ours: Tensor) -> tuple[Tensor, Tensor | None]:
        """Variance and degrees of freedom of both noises together."""
        theirs = torch.zeros_like(ours) if scores.noise_var is None else scores.noise_var.double()
        both = ours if self.replace else ours + theirs
        var = torch.where(touched, both, theirs)
        if scores.noise_dof is None:
            return var, None
        # Welch and Satterthwaite: of a sum of variances of which only theirs is estimated.
        dof = torch.where(
            touched & (theirs > 0), scores.noise_dof * (both / theirs).square(), scores.noise_dof
        )
        return var, torch.where(touched, torch.nan, dof) if self.replace else dof


ENTRY = Noisy
