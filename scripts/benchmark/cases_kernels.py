"""The measured cases of the kernels by themselves: each against the plain equation that has the same signature.

A kernel stays in the library only where one of these, or a whole step among the methods' cases, shows what it gains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from .inputs import NUM_CHANNELS, etth1_like_series, timed


def _fastest(function: Callable[[], Any], times: int = 3) -> tuple[float, Any]:
    """Call once to warm up, then return the seconds of the fastest of several calls and its result."""
    function()
    return min((timed(function) for _ in range(times)), key=lambda run: run[0])


def contrast_kernel(plain: bool, batch_size: int = 2, length: int = 2160) -> dict[str, Any]:
    """Compute TS2Vec's hierarchical loss and its gradient of two views with 320 dimensions."""
    from hf_tsrep.modeling.kernels_contrast import dual_loss as tiled_dual_loss
    from hf_tsrep.modeling.modeling_ts2vec import dual_loss, hierarchical_contrastive_loss

    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(batch_size, length, 320, generator=generator).mul_(0.1).requires_grad_() for _ in range(2)]

    def run() -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        level = dual_loss if plain else tiled_dual_loss
        loss, _, _ = hierarchical_contrastive_loss(*views, loss_of_level=level)
        return loss, torch.autograd.grad(loss, views)

    seconds, (loss, gradients) = _fastest(run)
    return {"seconds": seconds, "sample": [loss.item(), *(1000 * gradients[0][:, ::97, ::29]).flatten().tolist()]}


def attention_kernel(plain: bool, num_rows: int = 112, length: int = 336, is_causal: bool = False) -> dict[str, Any]:
    """Attend with 16 heads of width 2, forward and backward, as SimMTM does; the plain side is PyTorch's fused one."""
    from hf_tsrep.modeling.kernels_attention import attend

    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(num_rows, 16, length, 2, generator=generator).requires_grad_() for _ in range(3)]

    mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None] if is_causal else None

    def run() -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        attended = (F.scaled_dot_product_attention if plain else attend)(*parts, mask)
        return attended, torch.autograd.grad(attended.square().sum(), parts)

    seconds, (attended, gradients) = _fastest(run)
    chosen = [part[::16, ::4, ::16].flatten() for part in (attended, *gradients)]
    return {"seconds": seconds, "sample": torch.cat(chosen).tolist()}


def causal_attention_kernel(plain: bool) -> dict[str, Any]:
    """Attend causally with 16 heads of width 2 over 168 tokens, as TimeDART does; else as in attention_kernel."""
    return attention_kernel(plain, length=168, is_causal=True)


def sliding_kernel(plain: bool, num_steps: int = 1024, window_length: int = 201) -> dict[str, Any]:
    """Embed a causal window at every step of a series; the plain side passes every window through the same model."""
    from hf_tsrep.modeling.configuration_ts2vec import TS2VecConfig
    from hf_tsrep.modeling.encoding_time_series import slide_by_windows
    from hf_tsrep.modeling.modeling_ts2vec import TS2VecModel

    torch.manual_seed(0)
    model = TS2VecModel(TS2VecConfig(num_input_channels=NUM_CHANNELS, gate_padding=False)).eval()
    values, context = torch.from_numpy(etth1_like_series()[:num_steps]), (window_length - 1, 0)

    def run() -> torch.Tensor:
        if plain:
            return slide_by_windows(model, values, context, 1, 256, None)
        return model.slide(values, context, 1, 256)

    with torch.inference_mode():
        seconds, embeddings = timed(run)
    return {"seconds": seconds, "sample": embeddings[::16].flatten()[:4096].tolist()}


def stream_kernel(plain: bool, num_steps: int = 100, window_length: int = 201) -> dict[str, Any]:
    """Embed steps one by one as they come; the plain side encodes the last window whole at each."""
    from hf_tsrep.modeling.configuration_ts2vec import TS2VecConfig
    from hf_tsrep.modeling.modeling_ts2vec import TS2VecModel
    from hf_tsrep.modeling.streaming_time_series import WindowStream

    torch.manual_seed(0)
    model = TS2VecModel(TS2VecConfig(num_input_channels=NUM_CHANNELS)).eval()
    values = torch.from_numpy(etth1_like_series()[: window_length + num_steps])
    stream = WindowStream(model, window_length, 32) if plain else model.stream(window_length)
    stream.push(values[:window_length])
    seconds, embeddings = timed(lambda: torch.cat([stream.push(one[None]) for one in values[window_length:]]))
    return {"seconds": seconds, "sample": embeddings[::4].flatten()[:4096].tolist()}


CASES: dict[str, Callable[[bool], dict[str, Any]]] = {
    "contrast_kernel": contrast_kernel,
    "attention_kernel": attention_kernel,
    "causal_attention_kernel": causal_attention_kernel,
    "sliding_kernel": sliding_kernel,
    "stream_kernel": stream_kernel,
}
