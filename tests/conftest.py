"""What the tests share: real rows and tokenizers where they are at hand, and small random students."""

import json
import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SELFREFINE_TEST_DATA", ROOT.parent / "shared" / "data"))


def _folder(name: str) -> Path:
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"no {name} folder in {DATA}: set SELFREFINE_TEST_DATA to a folder that has the real data")
    return folder


@pytest.fixture(scope="session")
def benchmarks() -> Path:
    """The folder of real benchmark rows, `<task>/<split>.jsonl`; skips the test where it is absent."""
    return _folder("benchmarks")


@pytest.fixture(scope="session")
def tokenizers() -> Path:
    """The folder of real tokenizers, `llama2/` and `mistral/`; skips the test where it is absent."""
    return _folder("tokenizers")


TINY = {"vocab_size": 320, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer: every text has ids, <s> begins a prompt, </s> ends an answer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<unk>", "<s>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def write_student(folder: Path, family: str = "llama", **changes) -> Path:
    """A random two-layer model of a family, norms and biases off their initial ones and zeros, with its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**TINY, **HEADS, "bos_token_id": 1, "eos_token_id": 2, **changes})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def student_folder(tmp_path_factory) -> Path:
    """A tiny random Llama on disk, with a byte-level tokenizer."""
    return write_student(tmp_path_factory.mktemp("student"))


@pytest.fixture
def student(student_folder):
    """That Llama in NF4, float32 compute, with an adapter whose B is not zero."""
    import torch

    from selfrefine.model.lora import add_lora, lora_layers
    from selfrefine.model.student import load_student

    student = load_student(student_folder, torch.device("cpu"), torch.float32)
    add_lora(student, rank=4, alpha=8, dropout=0.0, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in lora_layers(student).values():
            layer.B.copy_(0.02 * torch.randn(layer.B.shape, generator=generator))
    return student


@pytest.fixture(scope="session")
def tokenizer(student_folder):
    """The tiny Llama's tokenizer."""
    from selfrefine.model.student import load_tokenizer

    return load_tokenizer(student_folder)


@pytest.fixture
def command(monkeypatch):
    """Run a script of this project in this process: `command(module, *arguments)` gives its exit code."""
    import gc
    import signal
    import sys

    from selfrefine.command import run

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def call(module, *arguments) -> int:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            run(module.main)
        code = stopped.value.code
        del stopped
        gc.collect()  # the run's lock is let go, as at the end of a process
        return code

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


COMMON = (
    "--device",
    "cpu",
    "--dtype",
    "float32",
    "--lora-rank",
    "4",
    "--lora-alpha",
    "8",
    "--micro-batch-tokens",
    "256",
)


@pytest.fixture(scope="session")
def demonstrations(tmp_path_factory) -> Path:
    from selfrefine.records import Demonstration, write_records

    rows = [
        Demonstration(
            "Answer the following mathematical question with numerical solution.",
            f"Question: {a} + {b}?\nAnswer: Let's think step by step",
            f"{a} + {b} = {a + b}. The answer is {a + b}.",
            str(a + b),
            task="sums",
            id=f"{a}+{b}",
            teacher="by hand",
        )
        for a in range(5)
        for b in range(4)
    ]
    path = tmp_path_factory.mktemp("data") / "demonstrations.jsonl"
    write_records(path, rows)
    return path


@pytest.fixture(scope="session")
def preferences(tmp_path_factory) -> Path:
    from selfrefine.records import Preference, write_records

    rows = [
        Preference(
            f"Question: {a}?\nAnswer: Let's think step by step", f"It is {a}. " * (1 + a % 3), f"{a + 1}", id=str(a)
        )
        for a in range(20)
    ]
    path = tmp_path_factory.mktemp("data") / "preferences.jsonl"
    write_records(path, rows)
    return path


@pytest.fixture(scope="session")
def instructed(student_folder, demonstrations, tmp_path_factory) -> Path:
    """A phase-1 adapter of two steps."""
    import sys

    import train_it

    output, before = tmp_path_factory.mktemp("instructed") / "it", sys.argv
    sys.argv = ["train_it", *phase_1(student_folder, demonstrations, output), "--max-steps", "2"]
    train_it.main()
    sys.argv = before
    return output


def phase_1(student, demonstrations, output) -> list[str]:
    flags = ["--student", student, "--demonstrations", demonstrations, "--output", output, "--batch-size", 8, *COMMON]
    return [str(flag) for flag in [*flags, "--learning-rate", 1e-2, "--epochs", 3]]


def phase_2(student, adapter, output) -> list[str]:
    flags = ["--student", student, "--adapter", adapter, "--output", output, "--batch-size", 8, *COMMON]
    return [str(flag) for flag in [*flags, "--learning-rate", 1e-3, "--warmup-steps", 2, "--epochs", 3]]


def lines(output: Path, *, timed: bool = True) -> list[dict]:
    """The rows of a run's metrics.jsonl, in order."""
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().split("\n") if line]
    untimed = ("seconds", "reference_seconds")
    return rows if timed else [{k: v for k, v in row.items() if k not in untimed} for row in rows]


def examples(make, tokenizer, records, config, *, chat_template, allowed) -> list:
    """What `examples_of` or `pairs_of` makes of records."""
    from types import SimpleNamespace

    flags = SimpleNamespace(max_dropped=allowed)
    setup = SimpleNamespace(args=flags, tokenizer=tokenizer, config=config, chat_template=chat_template)
    return make(setup, records)
