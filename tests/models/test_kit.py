"""The parity kit: it passes the families that have tests here, and it shows what is broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvis.models.families.sd3 import StableDiffusion3
from rlvis.models.load import load_policy
from rlvis.models.policy import Policy
from rlvis.schema import Condition, ModelConfig
from tests import kit


def numbers(results: list[kit.Result]) -> dict[str, float]:
    return {r.name: r.number for r in results}


def failed(results: list[kit.Result]) -> list[str]:
    return [r.name for r in results if not r.ok]


def test_a_family_that_does_what_stock_does(sd3_folder: Path) -> None:
    results = kit.check("sd3", sd3_folder, max_tokens=16)
    assert failed(results) == []
    assert len(results) == 11
    lines = kit.table(results).splitlines()
    assert len(lines) == 11
    assert all(line.startswith("ok ") for line in lines)


def test_a_family_that_starts_from_a_frame(wan_folder: Path) -> None:
    assert failed(kit.check("wan", wan_folder, frames=5, condition=Condition.first_frame)) == []


def test_mistakes_are_found(sd3_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, embed = StableDiffusion3.decode_chunk, StableDiffusion3.embed
    calls: list[str] = []

    def bright(self: StableDiffusion3, latents: Tensor) -> Tensor:
        return (decode(self, latents) + 0.05).clamp(0, 1)

    def drifting(self: StableDiffusion3, text: str) -> dict[str, Tensor]:
        calls.append(text)
        return {k: v + 1e-3 * len(calls) for k, v in embed(self, text).items()}

    def claims(policy: Policy) -> list[str]:
        return failed([kit._company(policy), *kit._sampling(policy, "x"), *kit._ratio(policy)])

    def policy() -> Policy:
        config = ModelConfig(family="sd3", path=str(sd3_folder), **kit.SIZES)
        return load_policy(config, "cpu")

    with monkeypatch.context() as patch:
        patch.setattr(StableDiffusion3, "decode_chunk", bright)
        assert claims(policy()) == ["pixels, x"]
    with monkeypatch.context() as patch:
        patch.setattr(StableDiffusion3, "embed", drifting)
        assert claims(policy())[:1] == ["embeddings alone and in company"]
    broken = policy()
    handle = broken.module.register_forward_pre_hook(
        lambda module, inputs: calls.append("call") or None  # type: ignore[func-returns-value]
    )
    denoise = broken.denoise
    monkeypatch.setattr(broken, "denoise", lambda *a: denoise(*a) * (1 + 1e-3 * len(calls)))
    assert set(claims(broken)) == {"ratio - 1 before an update", "latents, x", "pixels, x"}
    handle.remove()


def test_a_parameter_without_a_gradient_is_found(sd3_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_policy(ModelConfig(family="sd3", path=str(sd3_folder), **kit.SIZES), "cpu")
    idle = torch.nn.Parameter(torch.ones(1))
    trained = policy.trainable()
    monkeypatch.setattr(policy, "trainable", lambda: [*trained, ("transformer_blocks.0.idle", idle)])
    (result,) = [r for r in kit._ratio(policy) if not r.ok]
    assert result.number == 1
    assert "the first is transformer_blocks.0.idle" in result.note
    assert "and 2 in a last block" in result.note  # the text queries of Stable Diffusion 3's last block


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guidance": 3.5}, r"model\.guidance=3\.5.*model\.family=sd3.*type model\.guidance=null"),
        ({"cfg_2": 3.0}, r"model\.cfg_2=3\.0.*no second expert; type model\.cfg_2=null"),
    ],
)
def test_options_that_a_family_lacks_are_refused(
    sd3_folder: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kit.check("sd3", sd3_folder, **changes)


def test_the_command_line(
    sd3_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def check(family: str, folder: str, **changes: Any) -> list[kit.Result]:
        asked.append((family, folder, changes))
        return [kit.Result("latents", len(asked) == 1, 0.5, 1.0, "a note")]

    monkeypatch.setattr(kit, "check", check)
    assert kit.main(["wan", "folder", "height=64", "frames=5", "cfg=2", "condition=first_frame"]) == 0
    assert asked == [
        ("wan", "folder", {"height": 64, "frames": 5, "cfg": 2.0, "condition": Condition.first_frame})
    ]
    assert "ok   latents" in capsys.readouterr().out
    assert kit.main(["wan", "folder"]) == 1
    assert "FAIL latents" in capsys.readouterr().out
    assert kit.main(["wan"]) == 2
    assert "usage" in capsys.readouterr().out
