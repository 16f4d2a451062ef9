"""A student with its adapter as one 16-bit model folder, for transformers, vLLM and llama.cpp's converter.

The base is the 4-bit one, dequantised: over its values, errors of quantisation included, the adapter was trained and
evaluated. The merged weights W + (α/r) B A are computed in float32 and rounded once. What an adapter adds at the
paper's learning rates is finer than 16 bits: most weights come out as they were. It is not lost, as the others move by
more than they should, and the errors have no direction: the command says how much of the change is there.
"""

import argparse
import shutil
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from selfrefine import command
from selfrefine.errors import UserError
from selfrefine.model.adapter import load_adapter, read_settings
from selfrefine.model.lora import LoRALinear, NF4Linear
from selfrefine.model.student import Student, find, fingerprint, load_student, read_config

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def main() -> None:
    args = _parse()
    folder, dtype = find(args.student), DTYPES[args.dtype]
    config = read_config(folder)
    read_settings(args.adapter)
    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise UserError(f"--output {args.output} is there already and not empty: choose another place.")
    student_id = fingerprint(folder)
    student = load_student(folder, torch.device("cpu"), torch.float32)
    load_adapter(student, args.adapter, student_id)

    weights, left = merged(student, dtype)
    args.output.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():  # the tokenizer in all its files, the chat template, how to generate
        kept = path.suffix in (".json", ".jinja", ".model", ".txt") and not path.name.endswith(".index.json")
        if kept and path.name != "config.json":
            shutil.copy(path, args.output / path.name)
    save_torch_state_dict(weights, args.output)
    config.dtype = dtype
    config.save_pretrained(args.output)  # last: without it the folder is no model yet
    print(f"{args.output}: {len(weights)} tensors in {args.dtype}, with {left:.1%} of what the adapter adds")


@torch.no_grad()
def merged(student: Student, dtype: torch.dtype) -> tuple[dict[str, Tensor], float]:
    """Every tensor by the name that the bare model gives it, rounded to `dtype`; and the share of what the adapter
    adds that is in them: ⟨round(W + ΔW) − round(W), ΔW⟩ / ‖ΔW‖² over all adapted layers."""
    tensors, along, added = {}, 0.0, 0.0
    layers = {path: layer for path, layer in student.named_modules() if isinstance(layer, LoRALinear | NF4Linear)}
    layers = {path: layer for path, layer in layers.items() if path.removesuffix(".base") == path}  # an adapter's own
    for path, layer in layers.items():
        base = layer.base if isinstance(layer, LoRALinear) else layer
        W = base.dequantize().float()  # (out, in)
        whole = W
        if base is not layer:
            delta = layer.scaling * (layer.B @ layer.A)  # (out, in) float32: ΔW = (α/r) B A
            whole = W + delta
            along += ((whole.to(dtype).float() - W.to(dtype).float()) * delta).sum().item()
            added += delta.square().sum().item()
        tensors[f"{path}.weight"] = whole.to(dtype)
        if base.bias is not None:
            tensors[f"{path}.bias"] = base.bias.to(dtype)
    inside = tuple(f"{path}." for path in layers)
    others = {name: p.to(dtype) for name, p in student.named_parameters() if not name.startswith(inside)}
    return tensors | others, along / added


def _parse() -> argparse.Namespace:
    parser = command.Parser(__doc__)
    command.add_student_flag(parser)
    parser.add_argument("--adapter", type=Path, required=True, metavar="DIR", help="from train_it.py or train_dpo.py")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the new model folder")
    told = "bfloat16 is eight times as coarse; take it for models whose activations float16 cannot hold"
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help=told)
    return parser.parse_args()


if __name__ == "__main__":
    command.run(main)
