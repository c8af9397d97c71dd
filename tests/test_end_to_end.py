"""The command line in process: a real family from a folder, prompts from every kind of file, and the export
in stock diffusers.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rlvis.cli import main
from rlvis.data.prompts import ASSETS
from tests import tiny

SMALL = [
    "model.height=32",
    "model.width=32",
    "model.max_tokens=8",
    "model.dtype=float32",
    "data.prompts_per_step=2",
    "data.samples_per_prompt=3",
    "sampler.steps=4",
    "train.steps=2",
    "train.micro_batch=3",
    "tracker.samples_every=0",
    "engine.device=cpu",
]


@pytest.fixture(scope="module")
def prompt_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same prompts in the four kinds of files."""
    import pandas

    folder = tmp_path_factory.mktemp("prompts")
    rows = [json.loads(line) for line in (ASSETS / "composition.jsonl").read_text().splitlines()]
    frame = pandas.DataFrame({"prompt": [row["prompt"] for row in rows]})
    frame.to_csv(folder / "prompts.csv", index=False)
    frame.to_parquet(folder / "prompts.parquet")
    return {
        "txt": ASSETS / "scenes.txt",
        "jsonl": ASSETS / "composition.jsonl",
        "csv": folder / "prompts.csv",
        "parquet": folder / "prompts.parquet",
    }


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "parquet"])
def test_sd3_trains_on_prompts_from_files(
    sd3_folder: Path, prompt_files: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    words = [
        f"data={kind}",
        f"data.path={prompt_files[kind]}",
        f"model.path={sd3_folder}",
        f"run_dir={tmp_path / 'run'}",
    ]
    assert main(["train", "experiment=jpeg_sd3", *words, *SMALL]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["ratio/max_deviation_first"] for line in lines] == [0.0, 0.0]
    assert all(line["reward/jpeg/mean"] < 0 for line in lines)
    assert (tmp_path / "run" / "report.html").stat().st_size < 8e6


def test_the_exported_lora_draws_the_same_in_stock_diffusers(sd3_folder: Path, tmp_path: Path) -> None:
    """Trained by the command line, alpha twice the rank; ours with its own weights against stock plus the
    exported file.
    """
    from rlvis import schema as S
    from rlvis.models import load
    from tests import setting

    run = tmp_path / "run"
    words = [
        f"data.path={ASSETS / 'scenes.txt'}",
        f"model.path={sd3_folder}",
        f"run_dir={run}",
        "model.ema=null",
    ]
    assert (
        main(["train", "experiment=jpeg_sd3", "model.lora.rank=4", "model.lora.alpha=8", *words, *SMALL]) == 0
    )
    stock = tiny.stock_sd3(sd3_folder)
    stock.load_lora_weights(run / "lora")
    config = setting.config(sd3_folder, model={"lora": S.LoraConfig(rank=4, alpha=8)})
    ours = load.load_policy(config.model, "cpu")
    _load_masters(ours, run)
    embeds, _ = ours.encode(["a red circle", "a blue square"])
    x = torch.randn(2, *ours.latent_shape, generator=torch.Generator().manual_seed(0))
    time = torch.tensor([500.0, 700.0])
    with torch.no_grad():
        trained = ours.predict(ours.module, x, time, embeds)
        opened = ours.predict(stock.transformer, x, time, embeds)
    with ours.reference():
        before = ours.predict(ours.module, x, time, embeds)
    assert torch.equal(trained, opened)
    assert not torch.equal(trained, before)


def _load_masters(policy: object, run: Path) -> None:
    """Put the checkpoint's weights into a fresh policy, by the engine that wrote them."""
    import shutil

    from rlvis import schema as S
    from rlvis.checkpoints import files
    from rlvis.models.policy import Policy
    from rlvis.runtime import dist
    from rlvis.runtime.engine import Engine

    assert isinstance(policy, Policy)
    world = dist.start("cpu")
    engine = Engine(
        policy.module, S.EngineConfig(stage=1, device="cpu"), S.OptimConfig(), S.Dtype.float32, world
    )
    engine.load(files.choose(run), "engine")
    engine.close()
    dist.stop()
    shutil.rmtree(run / "checkpoints")


def test_a_prompt_longer_than_the_encoders_take_is_counted(sd3_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("a cat\n" + "word " * 300 + "\n")
    words = [
        f"data.path={path}",
        f"model.path={sd3_folder}",
        f"run_dir={tmp_path / 'run'}",
        *SMALL,
        "train.steps=1",
    ]
    assert main(["train", "experiment=jpeg_sd3", *words]) == 0
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["data/truncated_prompts"] == 1
