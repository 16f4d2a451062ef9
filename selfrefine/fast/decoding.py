"""Reading prompts and decoding a token a row, with what does not change from token to token made once.

Plain (`sampling.py`): transformers' forward over a cache. In every layer it dequantises W, casts A and B, makes three
products and a sum of y = x Wᵀ + (α/r) (x Aᵀ) Bᵀ, and repeats grouped keys and values for each of their queries.
Here:  y = [x, x Aᵀ] [W, (α/r) B]ᵀ with both matrices held, in the order in which a CPU's bfloat16 kernel wants them; a
token's queries that share keys and values attend as so many queries of one head; prompts that begin alike are read as
branches of one row, as in `prefix.py`. The weights are never merged: ΔW of phase 2 would round to nothing.
On a GPU, where 32 rows leave the launching of small kernels to be waited for, a CUDA graph or `torch.compile` of
`Decoder.step` is what to try next: its shapes change with the rows that are left and the longest of them.
Held equal by tests/test_decoding.py.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfrefine.fast.blocks import angles, turned
from selfrefine.fast.dense import free_memory
from selfrefine.fast.prefix import laid_out
from selfrefine.model import LINEARS
from selfrefine.model.cache import KeyValues
from selfrefine.model.lora import LoRALinear, NF4Linear
from selfrefine.model.student import Student, additive

Product = Callable[[Tensor], Tensor]  # (..., in) -> (..., out)
ROWS = 32  # of a product, by which the kernel chooses its order of the weights


def times(weight: Tensor, bias: Tensor | None = None) -> Product:
    """x -> x Wᵀ + b."""
    if weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        ordered = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
        return lambda x: torch.ops.mkldnn._linear_pointwise(x, ordered, bias, "none", [], "")
    return lambda x: F.linear(x, weight, bias)


def held(layer: nn.Module) -> Product:
    """A linear layer, adapted or not, in four bits or not, as it is now."""
    base = layer.base if isinstance(layer, LoRALinear) else layer
    weight = base.dequantize() if isinstance(base, NF4Linear) else base.weight
    if base is layer:
        return times(weight, base.bias)
    down = times(layer.A.to(weight.dtype))
    whole = times(torch.cat((weight, (layer.scaling * layer.B).to(weight.dtype)), dim=1), base.bias)
    return lambda x: whole(torch.cat((x, down(x)), dim=-1))


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
        self.model, self.cache = student.base_model, KeyValues(rows)
        head = student.get_output_embeddings()
        layers = [m for m in student.modules() if isinstance(m, nn.Linear)]  # a LoRALinear's base is one, in four bits
        size = sum(m.in_features * m.out_features for m in layers) * student.dtype.itemsize
        hold = held if size < free_memory(student.device) / 2 else (lambda layer: layer)
        self.head = hold(head)
        self.blocks = [
            (block, {path.rpartition(".")[2]: hold(m) for path, m in block.named_modules() if path.endswith(LINEARS)})
            for block in self.model.layers
        ]

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
        return self.head(torch.stack([hidden[at, where[-1]] for at, where in columns])).float()

    def step(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """A token (n,) more, at `positions` (n,), in the first n rows; the logits of the next, (n, V) float32."""
        mask = additive(self.cache.visible(positions), self.model.dtype)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = self.cache.update(key.transpose(1, 2), value.transpose(1, 2), layer)  # (n, h_kv, S, d)
            grouped = query.view(len(query), keys.shape[1], -1, query.shape[-1])  # (n, h_kv, h / h_kv, d)
            return F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask)

        return self.head(self._forward(tokens[:, None], positions[:, None], attend)[:, 0]).float()

    def _forward(self, ids: Tensor, positions: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        """The families' forward, ids and positions (B, T) -> (B, T, H); `attend` takes the layer and (B, T, h, d)s."""
        x = self.model.embed_tokens(ids)  # (B, T, H)
        cos, sin = angles(self.model.rotary_emb(x, positions))
        for number, (block, times) in enumerate(self.blocks):
            attention = block.self_attn
            normed = _norm(block.input_layernorm, x)
            query, key, value = (
                times[name](normed).unflatten(-1, (-1, attention.head_dim)) for name in ("q_proj", "k_proj", "v_proj")
            )  # (B, T, h, d)
            if hasattr(attention, "q_norm"):  # qwen3
                query, key = _norm(attention.q_norm, query), _norm(attention.k_norm, key)
            attended = attend(number, turned(query, cos, sin), turned(key, cos, sin), value)
            x = x + times["o_proj"](attended.reshape(*ids.shape, -1))
            normed = _norm(block.post_attention_layernorm, x)
            x = x + times["down_proj"](block.mlp.act_fn(times["gate_proj"](normed)).mul_(times["up_proj"](normed)))
        return _norm(self.model.norm, x)


def _norm(module: nn.Module, x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], module.weight, module.variance_epsilon)
