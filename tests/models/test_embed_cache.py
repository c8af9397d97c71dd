"""Encoded prompts on the disk: the bits of a fresh encoding, whatever happens to the files."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis.models.embed_cache import EmbedCache, folder_digest, identity
from rlvis.models.load import load_policy
from rlvis.models.policy import Policy
from rlvis.schema import Dtype, LoraConfig, ModelConfig

TEXTS = ["a red circle", "a blue square", "a red circle"]
CPU = torch.device("cpu")


def policy(folder: Path, cache: Path | None, **changes: Any) -> Policy:
    config = ModelConfig(
        family="sd3",
        path=str(folder),
        height=16,
        width=16,
        cfg=2.0,
        negative_prompt="a ring",
        embed_cache=None if cache is None else str(cache),
    )
    return load_policy(replace(config, **changes), "cpu")


def files(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.*"))


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(value, b[name]) and value.dtype == b[name].dtype for name, value in a.items()
    )


@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
def test_what_is_read_is_what_would_be_made(
    sd3_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Dtype
) -> None:
    fresh, counted = policy(sd3_folder, None, dtype=dtype).encode(TEXTS)
    first = policy(sd3_folder, tmp_path, dtype=dtype)
    assert equal(first.encode(TEXTS)[0], fresh)
    assert first.embed_cache is not None
    assert (first.embed_cache.hits, first.embed_cache.misses) == (1, 3)  # a text twice, and the negative one
    assert len(files(tmp_path)) == 3
    second = policy(sd3_folder, tmp_path, dtype=dtype)
    monkeypatch.setattr(second, "embed", lambda text: pytest.fail("encoded again"))
    embeds, truncated = second.encode(TEXTS)
    assert equal(embeds, fresh)
    assert truncated == counted
    assert second.embed_cache is not None
    assert (second.embed_cache.hits, second.embed_cache.misses) == (4, 0)


def test_a_damaged_file_is_made_again_with_a_warning(
    sd3_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fresh, _ = policy(sd3_folder, tmp_path).encode(TEXTS)
    flipped, cut, empty = files(tmp_path)
    body = bytearray(flipped.read_bytes())
    body[-5] ^= 1  # in the tensors, which the file format does not check
    flipped.write_bytes(body)
    cut.write_bytes(cut.read_bytes()[:-100])
    empty.write_bytes(b"")
    again = policy(sd3_folder, tmp_path)
    with caplog.at_level(logging.WARNING):
        assert equal(again.encode(TEXTS)[0], fresh)
    said = [record.getMessage() for record in caplog.records if "damaged embedding" in record.getMessage()]
    assert len(said) == 3
    assert sum("checksum does not fit" in line for line in said) == 1
    third = policy(sd3_folder, tmp_path)
    assert equal(third.encode(TEXTS)[0], fresh)
    assert third.embed_cache is not None
    assert third.embed_cache.misses == 0


def test_encoders_are_read_for_new_prompts_only(sd3_folder: Path, tmp_path: Path) -> None:
    first = policy(sd3_folder, tmp_path)
    assert first.pipe.text_encoder is None
    first.encode(TEXTS)
    assert first.pipe.text_encoder is not None
    assert not first.pipe.text_encoder.training
    second = policy(sd3_folder, tmp_path)
    second.encode(TEXTS)
    assert second.pipe.text_encoder is None
    assert second.pipe.text_encoder_2 is None
    second.encode(["a ring"])
    assert second.pipe.text_encoder_2 is not None


@pytest.mark.parametrize("rank", [None, 2])
def test_an_export_does_not_lack_the_encoders_that_waited(
    sd3_folder: Path, tmp_path: Path, rank: int | None
) -> None:
    import diffusers

    lora = None if rank is None else LoraConfig(rank=rank)
    policy(sd3_folder, tmp_path / "cache").encode(TEXTS)
    warm = policy(sd3_folder, tmp_path / "cache", lora=lora)
    warm.encode(TEXTS)
    warm.export(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "text_encoder=None" not in card
    assert "text_encoder_3=None" in card  # the checkpoint has none
    if rank is None:
        absent: Any = {"text_encoder_3": None, "tokenizer_3": None}
        pipe = diffusers.StableDiffusion3Pipeline.from_pretrained(tmp_path / "out", **absent)
        whole = diffusers.StableDiffusion3Pipeline.from_pretrained(sd3_folder, **absent)
        for name in ("text_encoder", "text_encoder_2"):
            mine, theirs = getattr(pipe, name).state_dict(), getattr(whole, name).state_dict()
            assert all(torch.equal(mine[key], value) for key, value in theirs.items())


def test_a_folder_that_cannot_be_written_is_a_warning(
    sd3_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    fresh, _ = policy(sd3_folder, None).encode(TEXTS)
    with caplog.at_level(logging.WARNING):
        assert equal(policy(sd3_folder, tmp_path / "file").encode(TEXTS)[0], fresh)
    assert "see model.embed_cache" in caplog.text


def test_whatever_changes_the_bits_changes_the_file(sd3_folder: Path, tmp_path: Path) -> None:
    config = ModelConfig(family="sd3", path=str(sd3_folder), height=16, width=16)
    known = [
        identity(config, CPU),
        identity(replace(config, max_tokens=7), CPU),
        identity(replace(config, dtype=Dtype.bfloat16), CPU),
        identity(replace(config, family="flux"), CPU),
        identity(config, torch.device("cuda")),
    ]
    paths = {EmbedCache(tmp_path, fingerprint).path("a ring") for fingerprint in known}
    paths |= {EmbedCache(tmp_path, known[0]).path("a ring", negative=True)}
    paths |= {EmbedCache(tmp_path, known[0]).path("a ring ")}
    assert len(paths) == 7
    assert identity(replace(config, height=32, cfg=3.0), CPU) == known[0]


def test_a_folder_is_known_by_its_text_encoders(sd3_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sd3_folder, tmp_path / "copy")
    before = folder_digest(sd3_folder)
    assert folder_digest(folder) == before
    (tmp_path / "links").mkdir()
    for part in folder.iterdir():
        (tmp_path / "links" / part.name).symlink_to(part)
    assert folder_digest(tmp_path / "links") == before
    (folder / "transformer" / "config.json").write_text("{}")
    assert folder_digest(folder) == before
    changed = folder / "tokenizer" / "tokenizer_config.json"
    changed.write_bytes(changed.read_bytes() + b" ")
    assert folder_digest(folder) != before


def test_a_repository_is_known_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    cached: dict[str, Any] = {"path": str(tmp_path / "snapshots" / "abc123" / "model_index.json")}
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: cached["path"])
    config = ModelConfig(family="sd3", path="someone/sd3", revision="main", height=16, width=16)
    assert identity(config, CPU)["encoders"] == "abc123"
    cached["path"] = None
    with pytest.raises(ValueError, match=r"commit is not known; type model\.embed_cache=null"):
        identity(config, CPU)


def test_an_encoder_of_another_name_counts_where_the_family_names_it(tmp_path: Path) -> None:
    (tmp_path / "language_model").mkdir()
    before = [folder_digest(tmp_path), folder_digest(tmp_path, ("language_model",))]
    (tmp_path / "language_model" / "model.safetensors").write_bytes(b"weights")
    after = [folder_digest(tmp_path), folder_digest(tmp_path, ("language_model",))]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False]
