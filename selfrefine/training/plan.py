"""What a run will do, said before any weight is loaded: steps, epochs, how far it can move, and what it needs."""

from argparse import Namespace

import torch
from transformers import PretrainedConfig

from selfrefine.fast.dense import free_memory
from selfrefine.fast.head import CHUNK
from selfrefine.model import LINEARS
from selfrefine.training.batches import steps_per_epoch
from selfrefine.training.checkpoint import KEPT


def describe(config: PretrainedConfig, args: Namespace, rates: list[float], rows: int, dtype: torch.dtype) -> str:
    """A few lines on the run. Adam moves a weight by about its learning rate a step at most: Σ rates bounds it, and
    what A and B add to the student counts α/r."""
    epochs = len(rates) / steps_per_epoch(rows, args.batch_size)
    needed = memory(config, args, dtype)
    return (
        f"{len(rates)} steps of {min(args.batch_size, rows)} rows, {epochs:.3g} epochs of {rows}; the learning rates "
        f"(highest {max(rates):.3g}) sum to {sum(rates):.3g}, about the most that any weight of the adapters can move; "
        f"times α/r = {args.lora_alpha}/{args.lora_rank}: {sum(rates) * args.lora_alpha / args.lora_rank:.3g}\n"
        f"estimated memory: {sum(needed.values()) / 2**30:.1f} GiB ("
        + ", ".join(f"{name} {size / 2**30:.2f}" for name, size in needed.items())
        + "); the paper had four RTX A6000 of 48 GB (§3.2.1)"
    )


def disk(config: PretrainedConfig, args: Namespace) -> int:
    """Bytes that the run folder comes to: two adapters, and three checkpoints of adapter and two moments."""
    return _adapter(config, args) * 4 * (2 + 3 * (KEPT + 1))


def memory(config: PretrainedConfig, args: Namespace, dtype: torch.dtype) -> dict[str, int]:
    """Estimated bytes by what takes them, from the configuration alone; libraries and fragmentation not counted."""
    hidden, layers, inner = config.hidden_size, config.num_hidden_layers, config.intermediate_size
    shapes, adapted = _shapes(config), set(args.lora_targets)
    queries, keys = shapes["q_proj"][1], shapes["k_proj"][1]
    linear = _linear(config)
    tables = config.vocab_size * hidden * (1 if config.tie_word_embeddings else 2)
    # what one layer keeps for its backward, elements a token: the stream before each norm, q k v turned and as stored,
    # attention's output, gate and up; what goes into an adapted layer; with dropout, what each of these kept
    kept = 2 * hidden + 2 * queries + 4 * keys + 2 * inner
    inputs = ("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)  # one for each group
    kept += sum(shapes[group[0]][0] for group in inputs if adapted.intersection(group))
    dropped = sum(shapes[name][0] for name in adapted) if args.lora_dropout else 0  # a byte each
    a_layer = kept * dtype.itemsize + dropped
    tokens = args.micro_batch_tokens
    alive = layers * hidden * dtype.itemsize + a_layer if args.gradient_checkpointing else layers * a_layer
    return {
        "4-bit layers": int(linear * (0.5 + 1 / 64 + 4 / (64 * 256))),
        **({"the same dequantised": linear * dtype.itemsize} if args.dequantize_once else {}),
        "embeddings and head": tables * dtype.itemsize,
        "adapters, gradients, moments": _adapter(config, args) * 4 * 4,
        "activations": tokens * alive,
        "logits": min(tokens, CHUNK) * config.vocab_size * 4 * 2,
    }


def dequantize_once(config: PretrainedConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """--dequantize-once where it is not given: on a CPU, where half of the memory that is free is enough."""
    return device.type == "cpu" and _linear(config) * dtype.itemsize < free_memory(device) / 2


def micro_batch_tokens(device: torch.device) -> int:
    """--micro-batch-tokens where it is not given: a GPU wants long products, a CPU's cache short ones."""
    return 2048 if device.type == "cuda" else 1024


def _linear(config: PretrainedConfig) -> int:
    """Weights in 4-bit layers."""
    return config.num_hidden_layers * sum(i * o for i, o in _shapes(config).values())


def _shapes(config: PretrainedConfig) -> dict[str, tuple[int, int]]:
    """(in, out) of a block's linear layers."""
    hidden, inner = config.hidden_size, config.intermediate_size
    head = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    queries, keys = head * config.num_attention_heads, head * config.num_key_value_heads
    attention = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    return dict(zip(LINEARS, [*attention, (hidden, inner), (hidden, inner), (inner, hidden)], strict=True))


def _adapter(config: PretrainedConfig, args: Namespace) -> int:
    """Parameters of the adapters."""
    shapes = _shapes(config)
    return config.num_hidden_layers * args.lora_rank * sum(sum(shapes[name]) for name in set(args.lora_targets))
