"""Rollout: what is recorded is what was drawn, whatever the shard, the rank or the storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis import schema as S
from rlvis.flow import noise
from rlvis.flow.transition import transition
from rlvis.record_base import equal
from rlvis.records import PromptBatch, Trajectories
from rlvis.rollout import plan
from rlvis.rollout.generate import generate
from rlvis.rollout.stage import rollout
from tests import setting


def run(
    folder: Path, rows: list[int] | range = range(12), **groups: Any
) -> tuple[Any, PromptBatch, Any, Trajectories]:
    config = setting.config(folder, **groups)
    policy = setting.policy(config)
    prompts = setting.prompts(policy)
    steps = plan.make(policy, config, step=3)
    return policy, prompts, steps, rollout(policy, policy.module, prompts, rows, steps)


def test_shapes_and_order(sd3_folder: Path) -> None:
    policy, _, steps, t = run(sd3_folder)
    assert t.prompt.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert t.sample.tolist() == [0, 1, 2, 3] * 3
    assert t.states.shape == (12, 5, *policy.latent_shape)  # 4 trained transitions touch 5 points
    assert t.logprob.shape == (12, 4, *policy.latent_shape[1:])
    assert t.media is not None
    assert t.media.shape == (12, 1, 3, 32, 32)
    assert t.step.tolist() == [[0, 1, 2, 3]] * 12
    assert t.policy_step == steps.step == 3


def test_rows_do_not_depend_on_the_shard_or_on_their_neighbours(sd3_folder: Path) -> None:
    policy, prompts, steps, whole = run(sd3_folder)
    pieces = [
        rollout(policy, policy.module, prompts, rows, steps) for rows in (range(5), range(5, 7), range(7, 12))
    ]
    assert equal(Trajectories.concatenate(pieces), whole)
    swapped = rollout(policy, policy.module, prompts, [11, 2, 7], steps)
    assert equal(swapped, whole.take([11, 2, 7]))


@pytest.mark.parametrize("storage", [S.Dtype.float32, S.Dtype.bfloat16])
def test_a_recorded_state_is_the_rounded_draw(sd3_folder: Path, storage: S.Dtype) -> None:
    policy, prompts, steps, t = run(sd3_folder, sampler={"storage": storage})
    row, s = torch.tensor([1, 5]), 2
    x, taken = t.states[row, t.at[row, s]], t.states[row, t.at[row, s] + 1]
    assert x.dtype == steps.storage
    # A batch of the rollout's shape, so that the forward gives the same bits.
    batch = x.repeat(2, 1, 1, 1, 1)
    embeds = {k: v[t.prompt[row]].repeat(2, *[1] * (v.ndim - 1)) for k, v in prompts.embeds.items()}
    with torch.no_grad():
        out = policy.predict(policy.module, batch, steps.schedule.time[s].expand(4), embeds)[:2]
    mean, std = transition(steps.table, torch.tensor([s, s]), torch.tensor([True, True]), x, out)
    index = prompts.index[t.prompt[row]].tolist()
    drawn = noise.of_transition(
        policy.latent_shape, s, seed=0, step=3, prompts=index, samples=t.sample[row].tolist()
    )
    assert torch.equal((mean + std * drawn).to(steps.storage), taken)


def test_groups_share_the_initial_noise_only_when_asked(sd3_folder: Path) -> None:
    first = run(sd3_folder, sampler={"share_noise": True})[3].states[:, 0]
    assert torch.equal(first[0], first[3])
    assert not torch.equal(first[0], first[4])
    unshared = run(sd3_folder)[3].states[:, 0]
    assert not torch.equal(unshared[0], unshared[3])


def test_only_touched_states_are_kept(sd3_folder: Path) -> None:
    window = S.WindowConfig(kind=S.WindowKind.fixed, start=1, size=2)
    t = run(sd3_folder, sampler={"window": window})[3]
    assert t.states.shape[1] == 3
    assert t.step.tolist() == [[1, 2]] * 12
    # Outside the window nothing is random: the state at its start is the same as without noise.
    _, _, _, later = run(
        sd3_folder, sampler={"window": S.WindowConfig(kind=S.WindowKind.fixed, start=2, size=1)}
    )
    one = run(sd3_folder, sampler={"window": S.WindowConfig(kind=S.WindowKind.fixed, start=1, size=1)})[3]
    assert torch.equal(one.states[:, 0], t.states[:, 0])
    assert not torch.equal(later.states[:, 0], t.states[:, 1])


def test_every_sample_may_have_its_own_steps(sd3_folder: Path) -> None:
    sampler = {
        "window": S.WindowConfig(kind=S.WindowKind.random_subset, per_sample=True),
        "timestep_fraction": 0.5,
    }
    t = run(sd3_folder, sampler=sampler)[3]
    assert len({tuple(row) for row in t.step.tolist()}) > 1
    full = run(sd3_folder)[3]
    for n in range(12):  # the same trajectory, of which less was kept
        for s, step in enumerate(t.step[n].tolist()):
            assert torch.equal(t.states[n, t.at[n, s]], full.states[n, step])
            assert torch.equal(t.logprob[n, s], full.logprob[n, step])


def test_a_rank_with_fewer_rows_runs_as_many_forwards(sd3_folder: Path) -> None:
    policy, prompts, steps, whole = run(sd3_folder)
    calls = []
    few = rollout(policy, policy.module, prompts, [3], steps, passes=2, advance=lambda: calls.append(1))
    assert equal(few, whole.take([3]))
    assert len(calls) == 2 * 5
    none = rollout(policy, policy.module, prompts, [], steps, passes=1)
    assert none.rows == 0
    assert equal(Trajectories.concatenate([few, none]), few)


def test_a_policy_that_has_diverged_is_named(sd3_folder: Path) -> None:
    config = setting.config(sd3_folder)
    policy = setting.policy(config)
    with torch.no_grad():
        policy.trainable()[0][1].fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"4 of 4 samples of training step 3 are not finite"):
        rollout(policy, policy.module, setting.prompts(policy), range(4), plan.make(policy, config, step=3))


def test_generate_is_the_stock_pipeline(sd3_folder: Path) -> None:
    """Euler ODE from the same noise, with guidance: equal pixels, up to values that lie on a rounding
    boundary.
    """
    from diffusers import StableDiffusion3Pipeline

    config = setting.config(sd3_folder, model={"cfg": 3.0})
    policy = setting.policy(config)
    prompts = setting.prompts(policy)
    ours = generate(policy, policy.module, prompts, policy.schedule(6), seed=4, micro_batch=3)
    start = noise.initial(
        policy.latent_shape, seed=4, step=-1, prompts=prompts.index.tolist(), samples=[0] * 3
    )
    pipe = StableDiffusion3Pipeline.from_pretrained(sd3_folder, text_encoder_3=None, tokenizer_3=None)
    pipe.set_progress_bar_config(disable=True)
    for component in (pipe.text_encoder, pipe.text_encoder_2, pipe.transformer, pipe.vae):
        component.eval()
    stock = pipe(
        list(prompts.texts),
        height=32,
        width=32,
        num_inference_steps=6,
        guidance_scale=3.0,
        latents=start[:, :, 0],
        max_sequence_length=8,
        output_type="pt",
    ).images
    assert (stock * 255 - ours[:, 0]).abs().max() < 0.5 + 255 * 1e-5


def test_a_sample_that_breaks_on_the_way_is_named(sd3_folder: Path) -> None:
    """One row of the second micro-batch from sampling step 2 on; all forwards are made before it is said."""
    from rlvis.rollout.stage import NonFiniteStateError

    config = setting.config(sd3_folder)
    policy = setting.policy(config)
    calls = []

    def spoil(module: object, args: object, out: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        calls.append(1)
        if len(calls) == 5 + 3:  # micro-batch 1, step 2
            out[0][1] = float("nan")
        return out

    policy.module.register_forward_hook(spoil)
    with pytest.raises(
        NonFiniteStateError, match=r"1 of 12 samples .* sample 1 of prompt 7 .* step 2 of 5"
    ) as caught:
        rollout(policy, policy.module, setting.prompts(policy), range(12), plan.make(policy, config, step=0))
    assert caught.value.rows == [(5, 2)]
    assert caught.value.micro_batch == [4, 5, 6, 7]
    assert len(calls) == 3 * 5
