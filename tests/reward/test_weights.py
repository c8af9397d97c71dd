"""Weights from folders, files and a hub that fails: what is read, what is refused, and the words for it."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rlvis.reward import weights


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def test_a_file_by_its_first_name_that_exists(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"x")
    names = ("w.safetensors", "w.pt")
    assert weights.file(str(tmp_path), names) == tmp_path / "w.pt"
    (tmp_path / "w.safetensors").write_bytes(b"x")
    assert weights.file(str(tmp_path), names) == tmp_path / "w.safetensors"
    assert weights.file(str(tmp_path / "w.pt"), names) == tmp_path / "w.pt"
    with pytest.raises(ValueError, match=r"has no other\.pt; the folder holds w\.pt, w\.safetensors"):
        weights.file(str(tmp_path), "other.pt")


def test_a_folder_must_hold_what_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert weights.folder(str(tmp_path), patterns=["*.json"]) == tmp_path
    with pytest.raises(ValueError, match=r"has none of \*\.safetensors"):
        weights.folder(str(tmp_path), patterns=["*.safetensors"])
    with pytest.raises(ValueError, match="is a file; give the folder"):
        weights.folder(str(tmp_path / "config.json"))
    for name in ("./nothing", "nothing", "a/b/c"):
        with pytest.raises(ValueError, match="no such file or folder, and it is no hub repository"):
            weights.folder(name)


def test_tensors_of_both_formats(tmp_path: Path) -> None:
    state = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    save_file(state, tmp_path / "w.safetensors")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "nested.pt")
    torch.save(state, tmp_path / "flat.pt")
    for name in ("w.safetensors", "nested.pt", "flat.pt"):
        tensors = weights.state_dict(tmp_path / name, key="state_dict")
        assert tensors.keys() == state.keys()
        torch.testing.assert_close(tensors["a"], state["a"])
    with pytest.raises(ValueError, match=r"is no state dict: \['state_dict', 'epoch'\] is no tensor"):
        weights.state_dict(tmp_path / "nested.pt")


def test_a_pickle_that_could_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1), "bomb": Bomb()}, tmp_path / "bomb.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    for name in ("bomb.pt", "raw.pt"):
        with pytest.raises(ValueError, match="which could run code and are not read"):
            weights.state_dict(tmp_path / name)
    (tmp_path / "half.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(ValueError, match="cannot be read"):
        weights.state_dict(tmp_path / "half.safetensors")


def test_load_takes_all_or_says_what_does_not_fit() -> None:
    layer = nn.Linear(3, 2)
    state = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    weights.load(layer, state, "w")
    assert bool((layer.weight == 1).all())
    with pytest.raises(ValueError, match="w does not fit Linear: it lacks bias; has too much scale"):
        weights.load(layer, {"weight": state["weight"], "scale": torch.ones(1)}, "w")
    with pytest.raises(ValueError, match=r"has other shapes weight \[1, 3\] for \[2, 3\]"):
        weights.load(layer, {**state, "weight": torch.ones(1, 3)}, "w")


def test_device_and_precision() -> None:
    assert weights.device("cpu") == torch.device("cpu")
    assert weights.dtype("bf16") is torch.bfloat16
    with pytest.raises(ValueError, match="device=quantum is not available"):
        weights.device("quantum")
    with pytest.raises(ValueError, match="precision='fp8': wanted fp32, bf16, fp16"):
        weights.dtype("fp8")


def test_a_transformers_model_must_be_complete(tmp_path: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"vocab_size": 8, "max_position_embeddings": 4, "bos_token_id": 0, "eos_token_id": 1}
    model = CLIPTextModel(CLIPTextConfig(**sizes))
    model.save_pretrained(tmp_path)
    model = weights.pretrained(CLIPTextModel, "here", tmp_path)
    assert not any(p.requires_grad for p in model.parameters())
    file = tmp_path / "model.safetensors"
    state = weights.state_dict(file)
    name = next(name for name in state if "final_layer_norm.bias" in name)
    save_file({k: v for k, v in state.items() if k != name}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"has no weights for 1 parameters, the first .*final_layer_norm"):
        weights.pretrained(CLIPTextModel, "here", tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match="here is no complete CLIPTextModel"):
        weights.pretrained(CLIPTextModel, "here", tmp_path)
    with pytest.raises(ValueError, match=r"holds no CLIPTokenizer: none of tokenizer\.json"):
        weights.tokenizer("CLIPTokenizer", str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty, and no file of tensors; fetch it again"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            r"is a pointer of Git LFS \(git lfs pull",
        ),
        (b"\n<!DOCTYPE html><html>404</html>", "is a web page, and no file of tensors"),
        (pickle.dumps({"x": 1}), "is no file of tensors by torch.save, or holds Python objects"),
        (pickle.dumps({"x": torch.zeros(2)}), "could run code and are not read; where you trust it, save"),
    ],
)
def test_what_lies_in_the_place_of_weights(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        weights.state_dict(tmp_path / "w.pt")
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)
