"""Reading prompts and decoding a token a row, with what does not change from token to token made once.

Plain (`sampling.py`): transformers' forward over a cache. In every layer it dequantises W, casts A and B, makes three
products and a sum of y = x Wᵀ + (α/r) (x Aᵀ) Bᵀ, and repeats grouped keys and values for each of their queries.
Here:  y = [x, x Aᵀ] [W, (α/r) B]ᵀ with both matrices held, in the order in which a CPU's kernel wants them and in the
type of `wide.py`, x Aᵀ of all layers of one x in one product; a token's queries that share keys and values attend as so
many queries of one head; prompts that begin alike are read as branches of one row, as in `prefix.py`. The weights are
never merged: ΔW of phase 2 would round to nothing.
On a GPU, where 32 rows leave the launching of small kernels to be waited for, a CUDA graph or `torch.compile` of
`Decoder.step` is what to try next: its shapes change with the rows that are left and the longest of them.
Held equal by tests/test_decoding.py.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import takewhile

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfrefine.fast.blocks import angles, turned
from selfrefine.fast.dense import free_memory
from selfrefine.fast.prefix import laid_out
from selfrefine.fast.wide import product_type
from selfrefine.model.cache import KeyValues
from selfrefine.model.lora import LoRALinear, NF4Linear
from selfrefine.model.student import Student, additive

ROWS = 32  # of a product, by which the kernel chooses its order of the weights
OUTPUTS = 512  # of a product in float32: so many columns stay in the cache, and are a tenth quicker


def times(weights: Sequence[Tensor], bias: Tensor | None = None) -> Callable[..., Tensor]:
    """x, z -> [x, z] [W, B]ᵀ + b, or x -> x Wᵀ + b."""
    device, dtype = weights[0].device, weights[0].dtype
    if device.type != "cpu" or dtype != torch.float32:
        weight = torch.cat(weights, dim=1) if len(weights) > 1 else weights[0]
        whole = partial(F.linear, weight=weight, bias=bias)
        if device.type == "cpu" and dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
            ordered = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
            whole = lambda x: torch.ops.mkldnn._linear_pointwise(x, ordered, bias, "none", [], "")  # noqa: E731
        return lambda *factors: whole(torch.cat(factors, dim=-1) if len(factors) > 1 else factors[0])
    outputs = len(weights[0])
    columns = [[part.T.contiguous() for part in W.chunk(max(1, outputs // OUTPUTS))] for W in weights]  # (in, some out)

    def product(*factors: Tensor) -> Tensor:
        y = factors[0].new_empty(*factors[0].shape[:-1], outputs)
        places = y.flatten(0, -2).split([part.shape[1] for part in columns[0]], dim=-1)
        for x, parts in zip(factors, columns, strict=True):
            x, added = x.flatten(0, -2), int(x is not factors[0])  # the first is written, the other added
            for place, part in zip(places, parts, strict=True):
                place.addmm_(x, part, beta=added)
        return y if bias is None else y.add_(bias)

    return product


def held(layers: Sequence[nn.Module], dtype: torch.dtype) -> Callable[[Tensor], list[Tensor]]:
    """Linear layers of one input, adapted or not, in four bits or not, as they are now: x -> the output of each. The
    x Aᵀ of all are one product."""
    wholes, downs, ranks = [], [], []
    for layer in layers:
        base = layer.base if isinstance(layer, LoRALinear) else layer
        weights = [base.dequantize() if isinstance(base, NF4Linear) else base.weight]
        if base is not layer:
            weights.append(layer.scaling * layer.B)
            downs.append(layer.A.to(dtype))
        ranks.append(sum(W.shape[1] for W in weights[1:]))
        wholes.append(times([W.to(dtype) for W in weights], None if base.bias is None else base.bias.to(dtype)))
    if not downs:
        return lambda x: [whole(x) for whole in wholes]
    down = times([torch.cat(downs)])

    def outputs(x: Tensor) -> list[Tensor]:
        parts = zip(wholes, down(x).split(ranks, dim=-1), strict=True)
        return [whole(x, z) if z.shape[-1] else whole(x) for whole, z in parts]

    return outputs


def common(prompts: Sequence[list[int]]) -> list[int]:
    """The tokens that all of them begin with."""
    return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))]


def alike(order: Iterable[int], prompts: Sequence[list[int]]) -> list[list[int]]:
    """Neighbours in `order` whose prompts begin with the same tokens, at least half of them, together."""
    together: list[list[int]] = []
    for index in order:
        if together and 2 * len(common([prompts[together[-1][0]], prompts[index]])) >= len(prompts[index]):
            together[-1].append(index)
        else:
            together.append([index])
    return together


class Decoder:
    """A student of the four families, its weights as they are now, with a cache of `rows` rows."""

    def __init__(self, student: Student, rows: int):
        self.model, self.cache, head = student.base_model, KeyValues(rows), student.get_output_embeddings()
        layers = [m for m in student.modules() if isinstance(m, nn.Linear)]  # a LoRALinear's base is one, in four bits
        size, room = sum(m.in_features * m.out_features for m in layers), free_memory(student.device) / 2
        fitting = [dtype for dtype in (product_type(head.weight), student.dtype) if size * dtype.itemsize < room]
        self.dtype = fitting[0] if fitting else student.dtype
        hold = partial(held, dtype=self.dtype) if fitting else (lambda layers: lambda x: [layer(x) for layer in layers])
        self.head = hold([head])
        self.blocks = []
        for block in self.model.layers:
            at, mlp = block.self_attn, block.mlp
            groups = [at.q_proj, at.k_proj, at.v_proj], [at.o_proj], [mlp.gate_proj, mlp.up_proj], [mlp.down_proj]
            self.blocks.append((block, *map(hold, groups)))

    def read(self, prompts: list[list[int]], begin: int) -> Tensor:
        """Put the prompts into the rows from `begin` on; the logits of their first answer tokens, (b, V) float32."""
        rows = []
        for group in alike(range(len(prompts)), prompts):
            shared = common([prompts[index][:-1] for index in group])  # a token at least is left of each
            rows.append((shared, [prompts[index][len(shared) :] for index in group]))
        ids, positions, mask, starts = laid_out(rows, self.model)
        columns = [  # of each prompt: its row, and where its tokens stand in it
            (row, torch.tensor([*range(len(shared)), *range(start, start + len(tail))], device=ids.device))
            for row, (shared, tails) in enumerate(rows)
            for tail, start in zip(tails, starts[row], strict=True)
        ]
        self.cache.reserve(max(map(len, prompts)))

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            query, key, value = (part.transpose(1, 2) for part in (query, key, value))  # (B, h, T, d)
            for row, (at, where) in enumerate(columns, start=begin):
                self.cache.put(layer, row, key[at][:, where], value[at][:, where])
            how = {"attn_mask": mask, "is_causal": mask is None, "enable_gqa": True}
            return F.scaled_dot_product_attention(query, key, value, **how).transpose(1, 2)

        hidden = self._forward(ids, positions, attend)  # (B, T, H)
        return self.head(torch.stack([hidden[at, where[-1]] for at, where in columns]))[0].float()

    def step(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """A token (n,) more, at `positions` (n,), in the first n rows; the logits of the next, (n, V) float32."""
        mask = additive(self.cache.visible(positions), self.model.dtype)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = self.cache.update(key.transpose(1, 2), value.transpose(1, 2), layer)  # (n, h_kv, S, d)
            grouped = query.view(len(query), keys.shape[1], -1, query.shape[-1])  # (n, h_kv, h / h_kv, d)
            return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask)

        return self.head(self._forward(tokens[:, None], positions[:, None], attend)[:, 0])[0].float()

    def _forward(self, ids: Tensor, positions: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        """The families' forward, ids and positions (B, T) -> (B, T, H); `attend` takes the layer and (B, T, h, d)s."""
        x = self.model.embed_tokens(ids)  # (B, T, H)
        cos, sin = angles(self.model.rotary_emb(x, positions))
        x = x.to(self.dtype)
        for number, (block, projected, output, gated, down) in enumerate(self.blocks):
            attention = block.self_attn
            query, key, value = (
                part.to(cos.dtype).unflatten(-1, (-1, attention.head_dim))
                for part in projected(_norm(block.input_layernorm, x))
            )  # (B, T, h, d)
            if hasattr(attention, "q_norm"):  # qwen3
                query, key = _norm(attention.q_norm, query), _norm(attention.k_norm, key)
            attended = attend(number, turned(query, cos, sin), turned(key, cos, sin), value)
            x = x + output(attended.reshape(*ids.shape, -1).to(x.dtype))[0]
            gate, up = gated(_norm(block.post_attention_layernorm, x))
            x = x + down(block.mlp.act_fn(gate).mul_(up))[0]
        return _norm(self.model.norm, x)


def _norm(module: nn.Module, x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], module.weight.to(x.dtype), module.variance_epsilon)
