"""Both phases once more, from the formulas alone: float64, one sequence at a time, nothing of selfrefine's.

The student is transformers' own; bitsandbytes rounds its linears to NF4, hooks add LoRA, autograd takes the gradient
of the whole step's loss, and clipping, AdamW and the schedules stand below as their papers write them.
"""

import math
from pathlib import Path

import bitsandbytes.functional as nf4
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM


class Plain:
    """π_θ: x Wᵀ + (α/r) x Aᵀ Bᵀ in every linear layer of the blocks, W rounded to NF4. A and B by PEFT's names."""

    def __init__(self, folder: Path, rank: int, alpha: float, seed: int = 0, adapter: dict[str, Tensor] | None = None):
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float64, attn_implementation="eager"
        ).requires_grad_(False)
        self.parameters: dict[str, Tensor] = {}
        generator = torch.Generator().manual_seed(seed)
        for path, linear in self.model.named_modules():
            if not isinstance(linear, nn.Linear) or path == "lm_head":
                continue
            codes, scales = nf4.quantize_4bit(linear.weight.float(), quant_type="nf4", compress_statistics=True)
            linear.weight.copy_(nf4.dequantize_4bit(codes, scales))
            bound = linear.in_features**-0.5  # Kaiming's uniform at a = √5, as LoRA's authors draw A
            A = torch.empty(rank, linear.in_features).uniform_(-bound, bound, generator=generator)
            B = torch.zeros(linear.out_features, rank)
            names = [f"base_model.model.{path}.lora_{side}.weight" for side in "AB"]
            for name, drawn in zip(names, (A, B), strict=True):
                value = adapter[name] if adapter else drawn
                self.parameters[name] = value.double().clone().requires_grad_()
            linear.register_forward_hook(self._lora(names, alpha / rank))

    def _lora(self, names: list[str], scaling: float):
        def add(_, inputs, output: Tensor) -> Tensor:
            A, B = (self.parameters[name] for name in names)
            return output + scaling * (inputs[0] @ A.T @ B.T)

        return add

    def logits(self, ids: list[int]) -> Tensor:
        """(T, V): what follows each token of one sequence."""
        return self.model(input_ids=torch.tensor([ids])).logits[0]

    def log_prob(self, prompt: list[int], response: list[int]) -> Tensor:
        """log π_θ(y | x) = Σ_t log π_θ(w_t | x, w_1 … w_{t−1})."""
        log_softmax = self.logits([*prompt, *response]).log_softmax(dim=-1)
        return sum(log_softmax[len(prompt) + t - 1, word] for t, word in enumerate(response))

    @torch.no_grad()
    def answer(self, prompt: list[int], temperature: float, uniforms: list[float], end: int) -> tuple[list[int], bool]:
        """y ~ π_θ(· | x): each token is where the cumulative distribution passes a uniform number; whether it ended."""
        words: list[int] = []
        for uniform in uniforms:
            scores = self.logits([*prompt, *words])[-1]
            if temperature:
                passed = (scores / temperature).softmax(dim=-1).cumsum(dim=-1) > uniform
            word = int(passed.int().argmax() if temperature else scores.argmax())
            if word == end:
                return words, True
            words.append(word)
        return words, False

    def snapshot(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.parameters.items()}


class AdamW:
    """Loshchilov and Hutter (2019) with transformers' β and ε; gradients clipped at norm `clip` over all of them."""

    def __init__(self, parameters: dict[str, Tensor], decay: float, clip: float):
        self.parameters, self.decay, self.clip, self.t = parameters, decay, clip, 0
        self.m = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.v = {name: torch.zeros_like(p) for name, p in parameters.items()}

    def step(self, loss: Tensor, rate: float) -> float:
        """θ ← θ − η λ θ − η m̂ / (√v̂ + ε); gives the gradient's norm before clipping."""
        gradients = dict(zip(self.parameters, torch.autograd.grad(loss, self.parameters.values()), strict=True))
        norm = math.sqrt(sum(g.square().sum().item() for g in gradients.values()))
        self.t += 1
        for name, g in gradients.items():
            g = g * min(1.0, self.clip / norm)
            self.m[name] = 0.9 * self.m[name] + 0.1 * g
            self.v[name] = 0.999 * self.v[name] + 0.001 * g * g
            m, v = self.m[name] / (1 - 0.9**self.t), self.v[name] / (1 - 0.999**self.t)
            with torch.no_grad():
                self.parameters[name] -= rate * (self.decay * self.parameters[name] + m / (v.sqrt() + 1e-8))
        return norm


def rates(peak: float, steps: int, warmup: int, shape: str) -> list[float]:
    """A linear warm-up whose first step is one `warmup`-th of the peak; then the shape, towards 0 after the last."""
    after = {
        "cosine": lambda done: 0.5 + 0.5 * math.cos(math.pi * done),
        "linear": lambda done: 1 - done,
        "constant": lambda done: 1.0,
    }[shape]
    return [
        peak * ((step + 1) / warmup if step < warmup else after((step - warmup) / (steps - warmup)))
        for step in range(steps)
    ]


def order(rows: int, batch_size: int, epochs: int, seed: int) -> list[list[int]]:
    """The rows of each step: every epoch is a permutation of its own, its last step may be smaller."""
    steps = []
    for epoch in range(epochs):
        mixed = torch.randperm(rows, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).tolist()
        steps += [mixed[begin : begin + batch_size] for begin in range(0, rows, batch_size)]
    return steps


def nll(student: Plain, rows: list[tuple]) -> Tensor:
    """L_inst (§2.1) of (prompt, response) rows, per response token."""
    return -sum(student.log_prob(*row) for row in rows) / sum(len(response) for _, response in rows)


def dpo(student: Plain, rows: list[tuple], reference: list[tuple], beta: float, weight: float = 0) -> dict[str, Tensor]:
    """Eqs. 1 and 2 of (x̂, y_w, y_l) rows and log π_inst of their two sides; each is a mean over the rows.

    `weight` times the NLL of y_w by its length |y_w| is added, as Pang et al. (2024) do; the paper adds none.
    """
    chosen = torch.stack([student.log_prob(prompt, w) for prompt, w, _ in rows])
    rejected = torch.stack([student.log_prob(prompt, l) for prompt, _, l in rows])  # noqa: E741
    chosen_change = chosen - torch.stack([w for w, _ in reference])
    rejected_change = rejected - torch.stack([l for _, l in reference])  # noqa: E741
    margin = beta * chosen_change - beta * rejected_change  # Eq. 2
    nll = torch.stack([-log_prob / len(w) for log_prob, (_, w, _) in zip(chosen, rows, strict=True)])
    told = {
        "loss": -torch.log(1 / (1 + torch.exp(-margin))) + weight * nll,  # Eq. 1
        "chosen_nll": nll,
        "margin": margin,
        "accuracy": (margin > 0).double(),
        "chosen_logp": chosen,
        "rejected_logp": rejected,
        "chosen_change": chosen_change,
        "rejected_change": rejected_change,
    }
    return {name: values.mean() for name, values in told.items()}
