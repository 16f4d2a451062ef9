"""What this machine does: the real steps of phase 1, phase 2 or sampling, timed on random NF4 weights.

The weights are made and quantised layer by layer: nothing is downloaded, and no model in 16 bits is ever held. Rows
have the lengths of GSM8K's demonstrations. Prints tokens a second (DPO: the prompt counted with each side, as
trainers count it), peak memory, the matmul rate measured here and the share of it
that the step reached (sampling: decoding alone).
"""

import argparse
import json
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch.utils.benchmark import Timer
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM

from selfrefine import command, fast
from selfrefine.errors import UserError
from selfrefine.fast.dense import hold_dequantized
from selfrefine.fast.wide import product_type
from selfrefine.files import read_lines
from selfrefine.model import LINEARS
from selfrefine.model.encoding import encode_prompt
from selfrefine.model.lora import NF4Linear, add_lora, lora_parameters
from selfrefine.model.student import build, context, load_student, load_tokenizer, read_config
from selfrefine.sampling import sample
from selfrefine.training import log_probs as plain
from selfrefine.training.batches import Example, Pair, micro_batches
from selfrefine.training.losses import dpo_loss, dpo_margin, instruction_loss
from selfrefine.training.plan import dequantize_once, micro_batch_tokens

# the published configurations: what shapes are needed, no download
CONFIGS = {
    "llama-2-7b": ("llama", {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
                             "num_hidden_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 4096}),
    "llama-2-13b": ("llama", {"vocab_size": 32000, "hidden_size": 5120, "intermediate_size": 13824,
                              "num_hidden_layers": 40, "num_attention_heads": 40, "max_position_embeddings": 4096}),
    "mistral-7b": ("mistral", {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
                               "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
                               "max_position_embeddings": 32768}),
}  # fmt: skip
# tokens of GSM8K rows under Llama-2's tokenizer: prompt and rationale vary by half around these, the answer is short
PROMPT, RATIONALE, ANSWER = 100, 130, 4


def main() -> None:
    args = _parse()
    device, dtype = command.machine(args)
    args.micro_batch_tokens = args.micro_batch_tokens or micro_batch_tokens(device)
    student, tokenizer = _student(args, device, dtype)
    add_lora(student, rank=args.lora_rank, alpha=16, dropout=0.0, seed=args.seed, targets=args.lora_targets)
    if not args.plain:
        fast.speed_up(student)
    linear = sum(m.in_features * m.out_features for m in student.modules() if isinstance(m, NF4Linear))
    lora, head = sum(p.numel() for p in lora_parameters(student).values()), student.lm_head.weight.numel()
    if args.phase == "sample":
        step, read, tokens, flops = _sampling(args, student, tokenizer, linear + lora + head)
    else:
        step, tokens, flops = _training(args, student, linear, lora, head)

    seconds = _timed(step, args.steps, device)
    taken = statistics.median(seconds[1:])
    ceiling = _matmul_rate(device, dtype)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 2**20
    else:
        unit = 2**20 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    result = {
        "config": args.config,
        "phase": args.phase,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "dtype": str(dtype).removeprefix("torch."),
        "tokens_per_second": tokens / taken,
        "peak_memory_mib": peak,
        "step_seconds": seconds,
        "matmul_tflops": ceiling / 1e12,
        "share_of_matmul": flops / taken / ceiling,
    }
    if args.phase == "sample" and args.max_new_tokens > 1:  # of the tokens after the first, their share too
        result["reading_seconds"] = reading = statistics.median(_timed(read, args.steps, device)[1:])
        left = tokens * (args.max_new_tokens - 1) / args.max_new_tokens
        rate = result["decoding_tokens_per_second"] = left / (taken - reading)
        result["share_of_matmul"] = rate * 2 * (linear + lora + head) / ceiling
        print(f"prompts read in {reading:.3g} s, first tokens included; decoding alone {rate:,.0f} tokens/s")
    measured = "decoding" if args.phase == "sample" else "the step"
    print(
        f"{args.config}, {args.phase}: {tokens / taken:,.0f} tokens/s, peak memory {peak:,.0f} MiB; matmuls of this "
        f"machine {ceiling / 1e12:.3g} TFLOP/s, of which {measured} reached {result['share_of_matmul']:.0%}"
    )
    print("RESULT " + json.dumps(result))


def _parse() -> argparse.Namespace:
    parser = command.Parser(__doc__)
    parser.add_argument("--config", required=True, metavar="NAME_OR_DIR", help=f"{', '.join(CONFIGS)}, or a folder")
    parser.add_argument("--phase", choices=("it", "dpo", "sample"), required=True)
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="JSONL with `prompt`, to sample (needs a folder)")
    parser.add_argument("--rows", type=command.positive, default=32, help="rows of a step, or prompts sampled from")
    parser.add_argument("--steps", type=command.positive, default=3, help="timed, after one that is not")
    parser.add_argument("--max-new-tokens", type=command.positive, default=64, help="sampled for each prompt")
    parser.add_argument("--lora-rank", type=command.positive, default=64)
    parser.add_argument("--lora-targets", nargs="+", choices=LINEARS, default=list(LINEARS), metavar="LAYER")
    as_there = "as in train_it.py and train_dpo.py, its default too"
    parser.add_argument("--micro-batch-tokens", type=command.positive, help=as_there)
    parser.add_argument("--gradient-checkpointing", action="store_true", help=as_there)
    parser.add_argument("--dequantize-once", action=argparse.BooleanOptionalAction, help=as_there)
    command.add_plain_flag(parser)
    command.add_machine_flags(parser)
    args = parser.parse_args()
    if args.prompts and args.phase != "sample":
        parser.error("--prompts is for --phase sample")
    return args


def _timed(step: Callable[[], None], times: int, device: torch.device) -> list[float]:
    """Seconds of a step that warms up, and of as many `times` more."""
    seconds = []
    for _ in range(times + 1):
        begin = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return seconds


def _student(args: argparse.Namespace, device, dtype):
    """A model of the configuration with random weights, or the folder's own; and its tokenizer, if any."""
    if args.config in CONFIGS:
        family, shape = CONFIGS[args.config]
        config, tokenizer = AutoConfig.for_model(family, **shape), None
        student = build(config, _random_tensors(config, device, dtype), device, dtype, args.config)
    elif Path(args.config).is_dir():
        folder = Path(args.config)
        config, tokenizer = read_config(folder), load_tokenizer(folder)
        student = load_student(folder, device, dtype)
    else:
        raise UserError(f"--config {args.config}: give one of {', '.join(CONFIGS)}, or a model's folder.")
    if args.gradient_checkpointing:
        student.activation_checkpointing_enable({"use_reentrant": False})
    if args.dequantize_once is None:
        args.dequantize_once = dequantize_once(config, device, dtype)
    if args.dequantize_once:
        hold_dequantized(student)
    return student, tokenizer


def _random_tensors(config, device, dtype) -> Iterator[tuple]:
    """Every tensor of the model by its checkpoint name, made one at a time."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    for name, parameter in tqdm(list(model.named_parameters()), desc="making random weights"):
        tensor = torch.empty(parameter.shape, dtype=dtype, device=device)
        yield name, tensor.fill_(1.0) if tensor.dim() == 1 else tensor.normal_(std=0.02)


def _training(args: argparse.Namespace, student, linear: int, lora: int, head: int):
    """An optimizer step of a phase as its script takes it, its tokens, and the FLOPs that it cannot do without."""
    ids = partial(_random_ids, random.Random(args.seed), student.config.vocab_size)
    if args.phase == "it":
        rows = [Example(ids(PROMPT), ids(RATIONALE)) for _ in range(args.rows)]
    else:
        rows = [Pair(ids(PROMPT), ids(RATIONALE), ids(ANSWER)) for _ in range(args.rows)]
    formula = plain if args.plain else fast
    widths = [formula.width(row) for row in rows]
    parameters = list(lora_parameters(student).values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-6)
    student.train()

    def step() -> None:
        for micro in micro_batches(range(len(rows)), widths, args.micro_batch_tokens):
            taken = [rows[index] for index in micro]
            if args.phase == "it":
                loss = instruction_loss(formula.response_log_probs(student, taken)) / 1000
            else:
                chosen, rejected = formula.pair_log_probs(student, taken)
                loss = dpo_loss(dpo_margin(chosen, rejected, chosen.detach(), rejected.detach(), 0.1)).sum() / len(rows)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    scored = sum(len(response) for row in rows for response in row.responses)
    computed = scored + sum(len(row.prompt) for row in rows)
    tokens = scored + sum(len(row.prompt) * len(row.responses) for row in rows)
    # forward and backward to the activations, and to A and B; the head where a token is scored
    return step, tokens, (4 * linear + 6 * lora) * computed + 4 * head * scored


def _sampling(args: argparse.Namespace, student, tokenizer, parameters: int):
    """Sampling of all prompts, none of which ends early, and of one token each; the new tokens; all FLOPs."""
    if args.prompts:
        if tokenizer is None:
            raise UserError("--prompts needs a tokenizer: give a model's folder as --config.")
        texts = [row.get("prompt") for _, row in read_lines(args.prompts)][: args.rows]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{args.prompts}: every line needs a `prompt`.")
        prompts = [encode_prompt(tokenizer, text, chat_template=False) for text in texts]
    else:
        draw = random.Random(args.seed)
        prompts = [_random_ids(draw, student.config.vocab_size, PROMPT) for _ in range(args.rows)]

    def step(new: int) -> None:
        list(sample(student, prompts, range(len(prompts)), end_ids=[], temperature=0.1, max_new_tokens=new))

    new = sum(min(args.max_new_tokens, context(student.config) - len(prompt)) for prompt in prompts)
    flops = 2 * parameters * (new + sum(map(len, prompts)))
    return partial(step, args.max_new_tokens), partial(step, 1), new, flops


def _random_ids(draw: random.Random, vocabulary: int, typical: int) -> list[int]:
    """Token ids, their count by half around what is typical."""
    return [draw.randrange(3, vocabulary) for _ in range(draw.randint(max(1, typical // 2), typical * 3 // 2))]


def _matmul_rate(device, dtype) -> float:
    """FLOP/s of a matrix product of this size here, in the quicker type: the ceiling of any training step."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    a, b = a.to(product_type(a)), b.to(product_type(b))
    timer = Timer("a @ b", globals={"a": a, "b": b}, num_threads=torch.get_num_threads())
    return 2 * size**3 / min(timer.timeit(3).mean for _ in range(4))


if __name__ == "__main__":
    command.run(main)
