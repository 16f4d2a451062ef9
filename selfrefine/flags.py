"""The flags of the three scripts, each default with its source; no torch is imported, so --help answers at once."""

import argparse
from pathlib import Path

from selfrefine import command, ranks
from selfrefine.command import Parser, above_zero, file, natural, positive, proportion, rate, share
from selfrefine.model import LINEARS
from selfrefine.teachers.flags import add_server_flags


def phase_1(doc: str) -> argparse.Namespace:
    """train_it.py's."""
    parser = Parser(doc)
    command.add_student_flag(parser)
    parser.add_argument("--demonstrations", required=True, nargs="+", type=Path, metavar="FILE", help="JSONL, Table 6")
    parser.add_argument("--epochs", type=positive, default=4, help="§3.2.1")
    parser.add_argument("--learning-rate", type=above_zero, default=2e-5, help="peak, §3.2.1")
    parser.add_argument("--weight-decay", type=rate, default=1e-4, help="AdamW's, §3.2.1")
    parser.add_argument("--warmup-ratio", type=share, default=0.03, help="then cosine, §3.2.1")
    parser.add_argument("--max-steps", type=positive, help="stop after so many optimizer steps")
    held_out = "share of questions to validate on; 0: the paper keeps the last epoch"
    parser.add_argument("--validation-fraction", type=share, default=0.0, help=held_out)
    _add_training_flags(parser, lora_dropout=0.1, batch_size="Alpaca's (Taori et al.); §3.2.1 gives it for DPO only")
    return parser.parse_args()


def phase_2(doc: str) -> argparse.Namespace:
    """train_dpo.py's."""
    parser = Parser(doc)
    command.add_student_flag(parser)
    pi_inst = "phase 1's output, π_inst, whose LoRA rank, α and layers then hold (default: a fresh adapter; Figure 4)"
    parser.add_argument("--adapter", type=Path, metavar="DIR", help=pi_inst)
    source = parser.add_mutually_exclusive_group(required=True)
    sampled = "sample y and ŷ, build the pairs"
    source.add_argument("--demonstrations", nargs="+", type=Path, metavar="FILE", help=sampled)
    source.add_argument("--preferences", type=Path, metavar="FILE", help="use these pairs")
    elsewhere = "y and ŷ made elsewhere: rows of `annotate --prompt both`, asked of this student, served"
    parser.add_argument("--answers", nargs="+", type=Path, metavar="FILE", help=elsewhere)
    side = "DPO_CoT (Eq. 4) or DPO_answer (Eq. 5)"
    parser.add_argument("--preferred", choices=("cot", "answer"), default="cot", help=side)
    t_in = "t ∈ ŷ of Eq. 4: the final answer is the target, or the text contains it"
    parser.add_argument("--matching", choices=("final", "substring"), default="final", help=t_in)
    parser.add_argument("--temperature", type=rate, default=0.1, help="of y and ŷ, C.2")
    command.add_sampling_flags(parser)
    parser.add_argument("--max-new-tokens", type=positive, default=512, help="of y and ŷ; unsaid in the paper")
    parser.add_argument("--sampling-batch-size", type=positive, default=32, help="answers sampled at a time")
    parser.add_argument("--beta", type=above_zero, default=0.1, help="β of Eq. 2, §3.2.1")
    parser.add_argument(
        "--chosen-nll",
        type=rate,
        default=0.0,
        metavar="WEIGHT",
        help="adds so much of −log π_θ(y_w|x̂) per token of y_w to a pair's loss, which keeps y_w likely (Pang et al., "
        "2024); 0 is the paper's",
    )
    parser.add_argument("--learning-rate", type=above_zero, default=1e-6, help="peak, §3.2.1")
    parser.add_argument("--warmup-steps", type=natural, default=100, help="in equal parts to the peak, §3.2.1")
    decay = "after the warm-up: decay to 0, the default of the Hugging Face trainer that §3.2.1 names, or none, as in "
    decay += "the code of Rafailov et al. (which has RMSprop and clips at 10, see --max-grad-norm)"
    parser.add_argument("--schedule", choices=("linear", "constant"), default="linear", help=decay)
    paths = "y and ŷ sampled of each question, a pair each (§1: different reasoning paths; how many is unsaid)"
    parser.add_argument("--answers-per-prompt", type=positive, default=1, metavar="K", help=paths)
    parser.add_argument("--max-steps", type=positive, help="optimizer steps, §3.2.1 (default: 1000)")
    parser.add_argument("--epochs", type=positive, help="passes over the pairs, instead of the step cap")
    held_out = "share of questions that this phase holds out; lowest loss is kept, §3.2.1"
    parser.add_argument("--validation-fraction", type=share, default=0.1, help=held_out)
    _add_training_flags(parser, lora_dropout=0.0, batch_size="§3.2.1")
    args = parser.parse_args()
    if args.preferences and args.fraction:
        parser.error("--fraction is of --demonstrations: leave it out, or leave pairs out of the file")
    if args.preferences and args.answers:
        parser.error("--answers are to the questions of --demonstrations: --preferences has its answers already")
    if args.answers and (args.top_k, args.top_p) != (None, None):
        parser.error("--top-k and --top-p are for sampling here: --answers were sampled elsewhere")
    return args


def evaluation(doc: str) -> argparse.Namespace:
    """evaluate.py's."""
    parser = Parser(doc)
    command.add_student_flag(parser, required=False)
    parser.add_argument("--student-name", metavar="NAME", help="with --server: what the student is called there")
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="from train_it.py or train_dpo.py (default: none)")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--tasks", nargs="+", metavar="T", help="their test questions: obqa csqa piqa siqa gsm8k ...")
    command.add_questions_flag(source)
    forms, tables = ("standard", "cot"), "x (Table 2) and x̂ (Table 3)"
    parser.add_argument("--prompts", nargs="+", choices=forms, default=[*forms], help=tables)
    how = "string matching on a generated answer, or the likeliest option letter (§3.3)"
    parser.add_argument("--method", choices=("generate", "probe"), default="generate", help=how)
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N questions (of each task)")
    parser.add_argument("--seeds", nargs="+", type=natural, default=[0], help="a run of sampling each")
    parser.add_argument("--temperature", type=rate, default=0.1, help="C.2")
    command.add_sampling_flags(parser)
    parser.add_argument("--max-new-tokens", type=positive, default=512, help="unsaid in the paper")
    parser.add_argument("--batch-size", type=positive, default=32, help="answers sampled at a time")
    parser.add_argument("--output", type=file, default=Path("evaluation.json"), metavar="FILE.json", help="results")
    command.add_data_flag(parser)
    command.add_chat_template_flag(parser)
    command.add_plain_flag(parser)
    add_server_flags(parser)
    command.add_machine_flags(parser)
    args = parser.parse_args()
    if bool(args.server) != bool(args.student_name) or bool(args.server) == bool(args.student):
        parser.error("give --student, a model on this machine, or --server URL and --student-name NAME")
    if args.server and args.method == "probe":
        parser.error("--method probe reads a local student's probabilities: give --student in place of --server")
    if args.server:
        default = {"adapter": None, "top_k": None, "top_p": None, "template_arguments": None, "chat_template": "auto"}
        for name, unset in default.items():
            if getattr(args, name) != unset:
                parser.error(f"--{name.replace('_', '-')} is the server's to choose: leave it out")
    return args


def _add_training_flags(parser: Parser, *, lora_dropout: float, batch_size: str) -> None:
    """What both phases take; `batch_size` is the source of that default."""
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="the run folder, adapter at its root")
    kept = "demonstrations to use: those whose answer is right, or all"
    parser.add_argument("--keep", choices=("correct", "all"), default="correct", help=kept)
    c1 = "C.1: use this share of 3000 of the kept demonstrations (default: all of them)"
    parser.add_argument("--fraction", type=proportion, help=c1)
    parser.add_argument("--batch-size", type=positive, default=128, help=f"rows per optimizer step, {batch_size}")
    parser.add_argument("--max-grad-norm", type=above_zero, default=1.0, help="clips gradients; transformers' default")
    between = "steps between validations (default: a tenth of the run)"
    parser.add_argument("--validate-every", type=positive, metavar="STEPS", help=between)
    parser.add_argument("--max-dropped", type=share, default=0.01, help="stop where more of the rows cannot be used")
    command.add_chat_template_flag(parser)
    lora = parser.add_argument_group("LoRA (unsaid in the paper: the cited QLoRA's)")
    lora.add_argument("--lora-rank", type=positive, default=64, help="r")
    lora.add_argument("--lora-alpha", type=positive, default=16, help="α: the adapters count α / r")
    lora.add_argument("--lora-dropout", type=share, default=lora_dropout, help="on the adapters' input")
    layers = "the blocks' layers that get an adapter; PEFT's default for Llama, and the authors' code: q_proj v_proj"
    lora.add_argument("--lora-targets", nargs="+", choices=LINEARS, default=list(LINEARS), metavar="LAYER", help=layers)
    unchanged = "none of these changes the result, but for rounding and which masks dropout draws"
    memory = parser.add_argument_group(f"speed and memory: {unchanged}")
    at_a_time = "tokens, padding included, that go through at a time (default: 2048 on a GPU, 1024 on a CPU)"
    memory.add_argument("--micro-batch-tokens", type=positive, help=at_a_time)
    memory.add_argument("--gradient-checkpointing", action="store_true", help="recompute activations: slower, smaller")
    command.add_plain_flag(memory)
    held = "hold the 4-bit weights in 16 or 32 bits too: faster, larger (default: on a CPU with memory to spare)"
    memory.add_argument("--dequantize-once", action=argparse.BooleanOptionalAction, help=held)
    saving = parser.add_argument_group("saving")
    saving.add_argument("--save-every", type=positive, default=50, metavar="STEPS", help="steps between checkpoints")
    going_on = "go on from the last checkpoint in --output; what torchrun starts again does so unasked"
    saving.add_argument("--resume", action="store_true", default=ranks.RESTARTED, help=going_on)
    saving.add_argument("--dry-run", action="store_true", help="print the plan and stop before any weight is loaded")
    command.add_machine_flags(parser)
