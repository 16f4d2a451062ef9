"""Pre-trains the pocket student: `python -m selfrefine.pocket.pretrain --output DIR --minutes N --seed 0`.

A small Llama on the documents of `corpus.py`, its products in bfloat16, its weights in float32. Hidden matrices
are trained by Muon, the embedding and the norms by AdamW; the learning rate is flat after a warm-up and falls
linearly over the last 40 % of the time. The student in `student/` was made by this script; its README.md says
with which flags, and what came of it.
"""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selfrefine import command
from selfrefine.pocket.corpus import document
from selfrefine.training.batches import Example, collate

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
VOCABULARY = 1024
LEARNING_RATE, WARMUP_STEPS, DECAY_SHARE = 5e-3, 60, 0.4
DOCUMENTS_PER_STEP, STEPS_PER_BUCKET = 32, 32
PROMPT_WEIGHT = 0.15  # of a prompt token's loss; a response token has 1
PROMPT_END = 8  # a prompt's last tokens have none: it is not the student's to say which way it is asked


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with every digit a token of its own, trained on 20000 documents."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    how = {"vocab_size": VOCABULARY, "special_tokens": [BOS, EOS, PAD], "show_progress": False}
    trainer = trainers.BpeTrainer(**how, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(("\n".join(document(seed, index)) for index in range(20000)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A 1 M parameter Llama; every linear layer's sides are multiples of 64, NF4's block."""
    shape = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 4, "max_position_embeddings": 512, "tie_word_embeddings": True}
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **shape, **special))


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless batches (ids, weights), both (documents, longest), of documents of like length."""
    shuffler = torch.Generator().manual_seed(seed)
    size = DOCUMENTS_PER_STEP * STEPS_PER_BUCKET
    for bucket in itertools.count():
        pairs = [document(seed, bucket * size + index) for index in range(size)]
        prompts = tokenizer([prompt for prompt, _ in pairs])["input_ids"]
        responses = tokenizer([response for _, response in pairs], add_special_tokens=False)["input_ids"]
        rows = sorted(zip(prompts, responses, strict=True), key=lambda row: len(row[0]) + len(row[1]))
        for step in torch.randperm(STEPS_PER_BUCKET, generator=shuffler).tolist():
            yield _pad(rows[step * DOCUMENTS_PER_STEP : (step + 1) * DOCUMENTS_PER_STEP], tokenizer)


def _pad(rows: list[tuple[list[int], list[int]]], tokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of (prompt ids, response ids) to ids and loss weights; right padding needs no mask."""
    batch = collate([Example(prompt, [*response, tokenizer.eos_token_id]) for prompt, response in rows], "cpu")
    weights = batch.response.float()
    for row, (prompt, _) in enumerate(rows):
        weights[row, : max(0, len(prompt) - PROMPT_END)] = PROMPT_WEIGHT
    return batch.ids, weights


def rate(step: int, elapsed: float) -> float:
    """The learning rate's share at a step and a share of the time: warm-up, flat, linear decay."""
    return min(1.0, (step + 1) / WARMUP_STEPS, (1 - elapsed) / DECAY_SHARE)


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, minutes: float, seed: int) -> dict:
    """Trains for `minutes`; returns steps, tokens and the last 200 steps' mean loss (weighted, nats)."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=LEARNING_RATE, weight_decay=0.0, betas=(0.9, 0.95)),
    ]
    start, tokens, losses = time.monotonic(), 0, []
    progress = tqdm(total=round(minutes * 60), unit="s", mininterval=5)
    for step, (ids, weights) in enumerate(batches(tokenizer, seed)):
        elapsed = (time.monotonic() - start) / (minutes * 60)
        if elapsed >= 1:
            break
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=ids[:, :-1]).logits
        loss = cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
        loss = (loss * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * rate(step, elapsed)
            optimizer.step()
            optimizer.zero_grad()
        tokens += int((weights > 0).sum())
        losses = [*losses[-199:], loss.item()]
        progress.n = round(elapsed * minutes * 60)
        progress.set_postfix(step=step, tokens=tokens, loss=f"{sum(losses) / len(losses):.4f}", refresh=step % 100 == 0)
    return {"steps": step, "tokens": tokens, "loss": sum(losses) / len(losses)}


def main() -> None:
    parser = command.Parser(__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the student")
    parser.add_argument("--minutes", type=float, default=28, metavar="N", help="training time")
    parser.add_argument("--seed", type=command.natural, default=0, help="of the corpus and the initial weights")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer(args.seed)
    model = build_model(tokenizer)
    print(f"{model.num_parameters()} parameters")
    print(train(model, tokenizer, args.minutes, args.seed))
    model.to(torch.bfloat16).save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)


if __name__ == "__main__":
    command.run(main)
