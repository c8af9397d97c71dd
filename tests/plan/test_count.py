"""Bytes and operations counted by hand, and fused attention against torch's own on a CPU."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from rlvis.plan.count import Counter, fused_attention, size


def test_peak_and_operations_of_two_products() -> None:
    a, b = torch.empty(4, 8, device="meta"), torch.empty(8, 16, device="meta")
    with Counter("meta", [a, b]) as counted:
        first = a @ b  # 256 bytes
        second = first @ torch.empty(16, 2, device="meta")  # 128 of the right side, 32 of the result
        del first
        assert counted.live == 32
        del second
    assert (counted.live, counted.peak) == (0, 256 + 128 + 32)
    assert counted.flops == 2 * 4 * 8 * 16 + 2 * 4 * 16 * 2


def test_what_autograd_keeps_counts_until_the_backward_pass() -> None:
    weight = torch.zeros(8, 8, requires_grad=True)
    x = torch.zeros(16, 8)
    with Counter("cpu", [weight, x]) as counted:
        loss = (x @ weight).tanh().sum()
        kept = counted.live
        loss.backward()
        del loss
    assert kept == 16 * 8 * 4 + 4  # tanh keeps its result; the product keeps what stood before
    assert counted.live == 8 * 8 * 4  # the gradient
    assert counted.flops == 2 * 2 * 16 * 8 * 8  # forward, and the gradient of the weight


@pytest.mark.parametrize("mask", [False, True])
def test_attention_without_memory_counts_as_the_fused_kernel(mask: bool) -> None:
    """The CPU's kernel keeps and computes what the stand-in says, forward and backward."""
    counts = []
    for kind in ("cpu", "meta"):
        q, k, v = (torch.zeros(2, 4, length, 16, device=kind, requires_grad=True) for length in (32, 24, 24))
        bias = torch.zeros(2, 1, 32, 24, device=kind) if mask else None
        before = [q, k, v, *([] if bias is None else [bias])]
        with Counter(kind, before) as counted, fused_attention(counted):
            out = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            kept = counted.live
            out.sum().backward()
        counts.append((kept, counted.peak, counted.flops))
    (kept, peak, flops), (kept_meta, peak_meta, flops_meta) = counts
    assert (kept, flops) == (kept_meta, flops_meta)
    assert 0.75 * peak <= peak_meta <= peak  # the CPU's backward has scratch of its own, which others lack


def test_torch_s_attention_is_put_back() -> None:
    original = functional.scaled_dot_product_attention

    def fails() -> None:
        with fused_attention(Counter()):
            assert functional.scaled_dot_product_attention is not original
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert functional.scaled_dot_product_attention is original


def test_size_counts_a_shared_storage_once() -> None:
    x = torch.zeros(4, 4)
    assert size([x, x[0], x.view(16), torch.zeros(2, dtype=torch.float16)]) == 64 + 4
