"""Counting what a piece of code allocates and computes, tensor by tensor, on any device.

`Counter` sees every operation below autograd: it adds up storages that live, from their creation to their
end, and the floating-point operations of matrix products and convolutions. On the meta device tensors have a
size and no memory, so forward and backward of a large model are counted in seconds. Attention there is
taken to be a fused kernel (it keeps its inputs, its output and one number a query), as on a GPU; torch's own
fallback on the meta device would hold the whole matrix.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside it: `live` and `peak` bytes of new storages on devices of `kind`; `flops`, all of them.

    >>> with Counter("meta") as counted:
    ...     x = torch.empty(4, 8, device="meta")
    ...     y = x @ torch.empty(8, 2, device="meta")
    >>> counted.peak, counted.flops  # 4 * (32 + 16 + 8) bytes, 2 * 4 * 8 * 2 operations
    (224, 128)
    """

    def __init__(self, kind: str = "meta", standing: Iterable[Tensor] = ()) -> None:
        """standing: tensors that were there before, whose storages do not count."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.kind, self.live, self.peak, self.flops = kind, 0, 0, 0
        self._before = list(standing)  # held, so that no address is used anew
        self._known: dict[int, Any] = {t.untyped_storage()._cdata: None for t in self._before}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, then count its results."""
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        formula = flop_registry.get(function._overloadpacket)
        if formula is not None:
            self.flops += int(formula(*args, **kwargs, out_val=result))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.device.type == self.kind:
                self._add(leaf)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self.live += size
        self.peak = max(self.peak, self.live)

        def gone(_: Any) -> None:
            self.live -= size
            self._known.pop(key, None)

        # A storage keeps its Python object as long as it lives itself, also where only autograd holds it.
        self._known[key] = weakref.ref(storage, gone)


@contextmanager
def fused_attention(counter: Counter) -> Iterator[None]:
    """Inside it `scaled_dot_product_attention` on the meta device has the sizes of a fused kernel.

    The function is replaced in its module: a mode of torch's would not reach what checkpointing computes anew
    during the backward pass.
    """
    original = functional.scaled_dot_product_attention

    def attention(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        if query.device.type == "meta":
            if attn_mask is not None and attn_mask.dtype is torch.bool:
                attn_mask = torch.empty_like(attn_mask, dtype=query.dtype)  # as torch does for its kernels
            return _Attention.apply(counter, query, key, value, attn_mask)
        return original(query, key, value, attn_mask, *args, **kwargs)

    functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = original


class _Attention(torch.autograd.Function):
    """Shapes of fused attention: query [..., L, D], key [..., S, D], value [..., S, E] -> [..., L, E]."""

    @staticmethod
    def forward(
        ctx: Any, counter: Counter, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        rows = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.counter = counter
        ctx.save_for_backward(query, key, value, out, rows, mask)
        counter.flops += sum(_products(query, key, value))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        query, key, value, *_ = ctx.saved_tensors
        scores, outs = _products(query, key, value)
        # The scores once more, then gradients of scores, value, query and key.
        ctx.counter.flops += 3 * scores + 2 * outs
        return None, torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


def _products(query: Tensor, key: Tensor, value: Tensor) -> tuple[int, int]:
    """Operations of scores = q k^T, and of scores v."""
    cells = query.shape[:-1].numel() * key.shape[-2]
    return 2 * cells * query.shape[-1], 2 * cells * value.shape[-1]


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, a shared storage counted once."""
    sizes = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(sizes.values())
