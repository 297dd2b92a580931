"""Trajectory attention, the attention of Motionformer (Patrick et al., NeurIPS 2021), with a gradient of
its own.

In the attention of head h, with d channels, the class token sees everything; a patch token s at time
t(s) looks into every frame f separately, which gives its trajectory, and then along that trajectory:

    x[s, f]  = softmax_n(q[s] . k[f, n] / sqrt d) v[f, n]               f = 1..T, all heads: D wide
    q'[s]    = W_q x[s, t(s)]
    a[s, f]  = softmax_f(q'[s] . (W_k x[s, f] + b_k) / sqrt d)
    y[s]     = sum_f a[s, f] x[s, f]              as released: W_v was left out by a slip there
    y[s]     = sum_f a[s, f] (W_v x[s, f] + b_v)  with `project_values`

Nearly half of the released operations are W_k x (and W_v x, even where it is not used): T N x T
vectors of width D. Here W_k is absorbed into the query, q' . W_k x = (W_k' q') . x, one product per
token and head instead of one per token and frame; b_k adds the same to every f and cancels in the
softmax; and W_v is applied after the sum over f, whose weights add up to 1. For the
backward pass the trajectories are kept, T vectors of width D per token; the absorbed queries, h of
them, are computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class TrajectoryAttention(nn.Module):
    """The module docstring's equations. Parameter names and layouts are the release's."""

    def __init__(self, dim: int, heads: int, *, project_values: bool) -> None:
        super().__init__()
        self.heads = heads
        self.project_values = project_values
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj_q = nn.Linear(dim, dim)
        # Keys and values of the second step. Of this, the released model uses the key half of the
        # weight only; the rest is here so that its checkpoints load.
        self.proj_kv = nn.Linear(dim, 2 * dim)
        # Gets no gradient otherwise, which data-parallel training takes for a mistake.
        self.proj_kv.bias.requires_grad_(project_values)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BLD: Tensor, *, frames: int) -> Tensor:
        """Class token and T N patch tokens -> the same, L = 1 + T N."""
        q, k, v = rearrange(
            self.qkv(x_BLD), "b l (three h d) -> three b h l d", three=3, h=self.heads
        )
        cls_B1D = rearrange(
            F.scaled_dot_product_attention(q[:, :, :1], k, v), "b h l d -> b l (h d)"
        )
        # Frame by frame, so that all share one set of queries, and the T N x N maps live only
        # inside the fused kernel.
        keys, values = (x[:, :, 1:].chunk(frames, dim=2) for x in (k, v))
        points = [
            F.scaled_dot_product_attention(q[:, :, 1:], key, value)
            for key, value in zip(keys, values, strict=True)
        ]
        tokens_BSD = _AlongTrajectories.apply(
            self.proj_q.weight,
            self.proj_q.bias,
            self.proj_kv.weight,
            self.proj_kv.bias,
            self.project_values,
            *points,
        )
        return self.proj(torch.cat([cls_B1D, tokens_BSD], dim=1))


class _AlongTrajectories(torch.autograd.Function):
    """The second step of the attention: T points x[:, f] (B, h, S, d) of S = T N tokens -> y_BSD.

    Written with its gradient, because what automatic differentiation would keep, the absorbed
    queries, is h vectors of width D per token; and in chunks of tokens, for which they fit into a
    cache. Shape suffixes: G tokens of a chunk; C = D where it is what the d channels of a head are
    projected from.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_weight: Tensor,
        query_bias: Tensor,
        kv_weight: Tensor,
        kv_bias: Tensor,
        project_values: bool,
        *points: Tensor,
    ) -> Tensor:
        heads = points[0].shape[1]
        queries_BSD = F.linear(_here(points), query_weight, query_bias)
        W_k, W_v = _per_head(kv_weight, heads, queries_BSD.dtype)
        out_BSD = torch.empty_like(queries_BSD)
        for rows in _chunks(points[0]):
            path_GTC, share_GhT, _ = _shares(queries_BSD[:, rows], W_k, points, rows)
            if project_values:
                mean_hGC = torch.bmm(share_GhT, path_GTC).transpose(0, 1)
                y_GhD = torch.bmm(mean_hGC, W_v.transpose(1, 2)).transpose(0, 1)
            else:
                y_GhD = torch.einsum("ght,gthd->ghd", share_GhT, _split(path_GTC, heads))
            out_BSD[:, rows] = rearrange(y_GhD, "(b n) h d -> b n (h d)", b=len(out_BSD))
        if project_values:
            out_BSD += kv_bias[kv_bias.shape[0] // 2 :].to(out_BSD.dtype)
        ctx.save_for_backward(queries_BSD, query_weight, kv_weight, *points)
        ctx.project_values = project_values
        return out_BSD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BSD: Tensor) -> tuple[Tensor | None, ...]:
        queries_BSD, query_weight, kv_weight, *points = ctx.saved_tensors
        B, heads = points[0].shape[:2]
        W_k, W_v = _per_head(kv_weight, heads, queries_BSD.dtype)
        grad_W_k, grad_W_v = torch.zeros_like(W_k), torch.zeros_like(W_v)
        grad_queries = torch.empty_like(queries_BSD)
        grad_points = [torch.empty_like(point) for point in points]
        for rows in _chunks(points[0]):
            path_GTC, share_GhT, absorbed_hGC = _shares(queries_BSD[:, rows], W_k, points, rows)
            grad_GhD = rearrange(grad_BSD[:, rows], "b n (h d) -> (b n) h d", h=heads)
            # through the sum over the path
            if ctx.project_values:
                grad_mean = torch.bmm(grad_GhD.transpose(0, 1), W_v).transpose(0, 1)
                grad_share = torch.bmm(grad_mean, path_GTC.mT)
                mean_hGC = torch.bmm(share_GhT, path_GTC).transpose(0, 1)
                grad_W_v += torch.bmm(grad_GhD.permute(1, 2, 0), mean_hGC)
            else:
                path = _split(path_GTC, heads).unbind(dim=1)
                grad_share = torch.stack([(grad_GhD * x).sum(dim=-1) for x in path], dim=-1)
            # through the softmax and the logits
            inner = (grad_share * share_GhT).sum(dim=-1, keepdim=True)
            grad_logits = share_GhT * (grad_share - inner)
            grad_path = torch.bmm(grad_logits.mT, absorbed_hGC.transpose(0, 1))
            if ctx.project_values:
                grad_path += torch.bmm(share_GhT.mT, grad_mean)
            grad_absorbed = torch.bmm(grad_logits, path_GTC).transpose(0, 1)
            scale = (grad_GhD.shape[-1]) ** -0.5
            query_hGd = rearrange(queries_BSD[:, rows], "b n (h d) -> h (b n) d", h=heads)
            grad_W_k += torch.bmm(query_hGd.mT * scale, grad_absorbed)
            grad_query = torch.bmm(grad_absorbed, W_k.mT) * scale
            grad_queries[:, rows] = rearrange(grad_query, "h (b n) d -> b n (h d)", b=B)
            for f, grad_point in enumerate(grad_points):
                grad_GhD_f = rearrange(grad_path[:, f], "g (h d) -> g h d", h=heads)
                if not ctx.project_values:
                    grad_GhD_f = torch.addcmul(grad_GhD_f, share_GhT[..., f, None], grad_GhD)
                grad_point[:, :, rows] = rearrange(grad_GhD_f, "(b n) h d -> b h n d", b=B)
        flat = grad_queries.flatten(0, 1)
        _add_here(grad_points, grad_queries @ query_weight.to(flat.dtype))
        grad_values = grad_BSD.flatten(0, 1).sum(dim=0) if ctx.project_values else None
        return (
            (flat.mT @ _here(points).flatten(0, 1)).to(query_weight.dtype),
            flat.sum(dim=0).to(query_weight.dtype),
            torch.cat([grad_W_k.flatten(0, 1), grad_W_v.flatten(0, 1)]).to(kv_weight.dtype),
            None
            if grad_values is None
            else torch.cat([torch.zeros_like(grad_values), grad_values]).to(kv_weight.dtype),
            None,
            *grad_points,
        )


# Of the absorbed queries of one chunk of tokens: about a processor's cache; enough to fill a GPU.
CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}


def _chunks(point_BhSd: Tensor) -> list[slice]:
    """Slices of the S tokens."""
    B, h, S, d = point_BhSd.shape
    budget = CHUNK_BYTES.get(point_BhSd.device.type, CHUNK_BYTES["cuda"])
    size = max(1, budget // (B * h * h * d * point_BhSd.element_size()))
    return [slice(start, min(start + size, S)) for start in range(0, S, size)]


def _shares(
    query_BND: Tensor, W_k: Tensor, points: Sequence[Tensor], rows: slice
) -> tuple[Tensor, Tensor, Tensor]:
    """Of a chunk of tokens: path_GTC, the weights share_GhT on its points, absorbed_hGC."""
    query_hGd = rearrange(query_BND, "b n (h d) -> h (b n) d", h=len(W_k))
    absorbed_hGC = torch.bmm(query_hGd * query_hGd.shape[-1] ** -0.5, W_k)
    path_GTC = rearrange([p[:, :, rows] for p in points], "t b h n d -> (b n) t (h d)")
    logits_GhT = torch.bmm(absorbed_hGC.transpose(0, 1), path_GTC.mT)
    return path_GTC, logits_GhT.softmax(dim=-1).to(path_GTC.dtype), absorbed_hGC


def _here(points: Sequence[Tensor]) -> Tensor:
    """(B, S, D): of each token, the point of its path in its own frame."""
    T = len(points)
    own = [point.chunk(T, dim=2)[t] for t, point in enumerate(points)]
    return rearrange(torch.cat(own, dim=2), "b h s d -> b s (h d)")


def _add_here(points: Sequence[Tensor], here_BSD: Tensor) -> None:
    """The reverse of `_here`, in place."""
    own = rearrange(here_BSD, "b s (h d) -> b h s d", h=points[0].shape[1])
    for t, part in enumerate(own.chunk(len(points), dim=2)):
        points[t].chunk(len(points), dim=2)[t].add_(part)


def _per_head(kv_weight: Tensor, heads: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """W_k, W_v as (h, d, C)."""
    W_k, W_v = rearrange(kv_weight.to(dtype), "(two h d) c -> two h d c", two=2, h=heads)
    return W_k, W_v


def _split(path_GTC: Tensor, heads: int) -> Tensor:
    return rearrange(path_GTC, "g t (h d) -> g t h d", h=heads)
