"""Both scripts, whole, against `tests/oracle.py`: every number that they log and every adapter that they save."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

import evaluate
import train_dpo
import train_it
from selfrefine.records import Demonstration, Preference, write_records
from selfrefine.sampling import Sampled, row_seed
from selfrefine.tasks.splits import hold_out
from tests import oracle
from tests.conftest import lines, write_student

RANK, ALPHA, EOS = 4, 8, 2
COMMON = ("--device", "cpu", "--dtype", "float32", "--micro-batch-tokens", 200, "--lora-rank", RANK)
COMMON += ("--lora-alpha", ALPHA, "--lora-dropout", 0, "--keep", "all", "--seed", 3)
TRIGGER = "Let's think step by step"
WORDS = "an answer is a banana and another one or two that ran on"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tiny Llama with a tokenizer that merges "an", so that ids may be others than those of their own text."""
    folder = write_student(tmp_path_factory.mktemp("student"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["an"] = len(tokenizer["model"]["vocab"])
    tokenizer["model"]["merges"] = [["a", "n"]]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def encode(text: str) -> list[int]:
    """Ids by hand: bytes in the alphabet's order behind <unk> <s> </s>, "an" merged."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    spelled = "".join(part for part, _ in ByteLevel(add_prefix_space=False).pre_tokenize_str(text))
    return [3 + len(letters) if part == "an" else 3 + letters.index(part) for part in merged(spelled)]


def merged(text: str) -> list[str]:
    parts = list(text)
    while (at := next((i for i in range(len(parts) - 1) if parts[i : i + 2] == ["a", "n"]), None)) is not None:
        parts[at : at + 2] = ["an"]
    return parts


def demonstrations() -> list[Demonstration]:
    """14 rows of unequal lengths; one answer was cut at the teacher's limit, so it has no end token."""
    rows = [
        Demonstration("Answer.", f"Question: {n}?\nAnswer: go", WORDS[: 4 + 7 * n % 40], "1", id=str(n))
        for n in range(14)
    ]
    return [replace(row, ended=row.id != "5") for row in rows]


def preferences() -> list[Preference]:
    """13 pairs of unequal lengths: sampled ids that their text does not give back, ids of another text, cut sides."""
    rows = [
        Preference(
            f"Question: {n}?\nAnswer: go", WORDS[: 3 + 11 * n % 40] + "!", WORDS[n : n + 2 + 5 * n % 30], id=str(n)
        )
        for n in range(13)
    ]
    split = [part for letter in rows[9].chosen for part in encode(letter)]
    rows[9] = replace(rows[9], chosen_ids=tuple(split))
    assert split != encode(rows[9].chosen)
    split = [part for letter in rows[4].rejected for part in encode(letter)]
    rows[4] = replace(rows[4], rejected_ids=(*split, EOS), rejected_ended=False)
    rows[2] = replace(rows[2], chosen_ended=False)
    rows[7] = replace(rows[7], rejected_ids=(9, 9))  # another tokenizer's: the text counts
    return rows


def close(got: float, expected: float, rel=3e-5, absolute=3e-5) -> bool:
    return got == pytest.approx(float(expected), rel=rel, abs=absolute)


def unlike(rows: list, share: float, change) -> tuple[list, list, list]:
    """All rows, those to train on and those held out; the latter changed, so that to learn is to get worse on them."""
    ids = {row.id for row in hold_out(rows, share, 3)[1]}
    rows = [change(row) if row.id in ids else row for row in rows]
    return rows, *hold_out(rows, share, 3)


def backwards(row: Demonstration) -> Demonstration:
    return replace(row, output=row.output.upper()[::-1])


def swapped(row: Preference) -> Preference:
    sides = [row.rejected, row.chosen, row.rejected_ids, row.chosen_ids, row.rejected_ended, row.chosen_ended]
    names = ("chosen", "rejected", "chosen_ids", "rejected_ids", "chosen_ended", "rejected_ended")
    return replace(row, **dict(zip(names, sides, strict=True)))


def same_move(saved: dict, expected: dict, start: dict) -> None:
    """The adapter moved as the reference's did: to 1e-3 of the move, for A and B apart."""
    for side in ("lora_A", "lora_B"):
        names = [name for name in expected if side in name]
        assert set(saved) == set(expected)
        apart = math.sqrt(sum((saved[n].double() - expected[n]).square().sum().item() for n in names))
        move = math.sqrt(sum((expected[n] - start[n]).square().sum().item() for n in names))
        assert move > 1e-3 and apart < 1e-3 * move, (side, apart, move)


def kept(output, place: str = ".") -> dict:
    return load_file(output / place / "adapter_model.safetensors")


def check(output, student, optimizer, rates, batches, loss_of, validate, validate_every, start, named) -> None:
    """Go the reference's way step by step beside the run's log; then compare what the run saved."""
    logged = [row for row in lines(output) if "loss" in row]
    validated = {row["step"]: row for row in lines(output) if "validation_loss" in row}
    assert [row["step"] for row in logged] == list(range(1, len(rates) + 1))
    best, best_loss = None, math.inf
    for step, (rows, rate, row) in enumerate(zip(batches, rates, logged, strict=True), start=1):
        told = loss_of(rows)
        norm = optimizer.step(told["loss"], rate)
        for name, value in told.items():
            assert close(row[name], value.item()), (step, name)
        assert close(row["grad_norm"], norm, rel=2e-4), (step, norm)
        assert row["learning_rate"] == pytest.approx(rate, rel=1e-9)
        assert row["tokens"] == sum(named[index] for index in rows)
        if step % validate_every == 0 or step == len(rates):
            with torch.no_grad():
                told = validate()
            for name, value in told.items():
                assert close(validated[step][f"validation_{name}"], value.item()), (step, name)
            if told["loss"] < best_loss:
                best, best_loss, best_step = student.snapshot(), told["loss"], step
    assert set(validated) == {*range(validate_every, len(rates) + 1, validate_every), len(rates)}
    same_move(kept(output, "last"), student.snapshot(), start)
    same_move(kept(output), best, start)
    assert best_step < len(rates), "the lowest validation loss is the last: the root adapter shows nothing"
    by_loss = min(validated, key=lambda step: logged[step - 1]["loss"])
    assert by_loss != best_step, "validation and training agree on the best: the root adapter shows nothing"


@pytest.mark.parametrize("path", [[], ["--plain"]], ids=["fast", "plain"])
@pytest.mark.parametrize(("decay", "clip", "batch"), [(0.5, 0.7, 5), (1e-4, 1e9, 4)])
def test_phase_1(command, folder, tmp_path, decay, clip, batch, path):
    """Unequal rows, a short last step, decay, clipping, warm-up and cosine, validation, and which adapter is kept."""
    rows, train, held = unlike(demonstrations(), 0.2, backwards)
    write_records(tmp_path / "rows.jsonl", rows)
    flags = ("--student", folder, "--demonstrations", tmp_path / "rows.jsonl", "--output", tmp_path / "run", *COMMON)
    flags += ("--batch-size", batch, "--epochs", 4, "--learning-rate", 2e-2, "--warmup-ratio", 0.2)
    flags += ("--weight-decay", decay, "--max-grad-norm", clip)
    assert command(train_it, *flags, *path, "--validation-fraction", 0.2, "--validate-every", 2) == 0

    assert len(train) == 11 and len(held) == 3
    ids = {
        row.id: ([1, *encode(f"{row.instruction}\n{row.input}")], [*encode(row.output), *[EOS] * row.ended])
        for row in rows
    }
    student = oracle.Plain(folder, RANK, ALPHA, seed=3)
    start = student.snapshot()
    batches = oracle.order(11, batch, 4, seed=3)
    assert len(batches[math.ceil(11 / batch) - 1]) < batch
    steps = len(batches)
    check(
        tmp_path / "run",
        student,
        oracle.AdamW(student.parameters, decay, clip),
        oracle.rates(2e-2, steps, math.ceil(0.2 * steps), "cosine"),
        batches,
        lambda rows: {"loss": oracle.nll(student, [ids[train[row].id] for row in rows])},
        lambda: {"loss": oracle.nll(student, [ids[row.id] for row in held])},
        2,
        start,
        [sum(map(len, ids[row.id])) for row in train],
    )


@pytest.mark.parametrize("path", [[], ["--plain"]], ids=["fast", "plain"])
@pytest.mark.parametrize(
    ("beta", "clip", "batch", "nll"), [(0.1, 1e9, 5, None), (0.5, 1.5, 4, None), (0.1, 1e9, 5, 0.05)]
)
def test_phase_2(command, folder, tmp_path, beta, clip, batch, nll, path):
    """From an adapter that is not zero: β, clipping, no decay, warm-up and decay, a short last step, what is scored;
    and --chosen-nll."""
    start = trained(folder, tmp_path / "it")
    rows, train, held = unlike(preferences(), 0.3, swapped)
    write_records(tmp_path / "rows.jsonl", rows)
    flags = ("--student", folder, "--adapter", tmp_path / "it", "--preferences", tmp_path / "rows.jsonl")
    flags += ("--output", tmp_path / "run", *COMMON, "--batch-size", batch, "--epochs", 3, "--learning-rate", 2e-3)
    flags += ("--warmup-steps", 3, "--max-grad-norm", clip, "--beta", beta)
    flags += ("--chosen-nll", nll) if nll else ()
    assert command(train_dpo, *flags, *path, "--validation-fraction", 0.3, "--validate-every", 2) == 0

    ids = {row.id: sides(row) for row in rows}
    student = oracle.Plain(folder, RANK, ALPHA, adapter=start)
    with torch.no_grad():  # log π_inst, before anything moves
        frozen = {key: (student.log_prob(x, w), student.log_prob(x, l)) for key, (x, w, l) in ids.items()}  # noqa: E741
    start = student.snapshot()
    batches = oracle.order(len(train), batch, 3, seed=3)
    assert len(batches[-1]) < batch

    def loss_of(rows: list[Preference]) -> dict:
        return oracle.dpo(student, [ids[row.id] for row in rows], [frozen[row.id] for row in rows], beta, nll or 0)

    check(
        tmp_path / "run",
        student,
        oracle.AdamW(student.parameters, 0.0, clip),
        oracle.rates(2e-3, len(batches), 3, "linear"),
        batches,
        lambda rows: loss_of([train[row] for row in rows]),
        lambda: loss_of(held),
        2,
        start,
        [2 * len(ids[row.id][0]) + len(ids[row.id][1]) + len(ids[row.id][2]) for row in train],
    )


def sides(row: Preference) -> tuple[list[int], list[int], list[int]]:
    """(x̂, y_w, y_l) as ids: the sampled ones where they spell the text, one end token where the side ended."""
    responses = []
    for text, ids, ended in (
        (row.chosen, row.chosen_ids, row.chosen_ended),
        (row.rejected, row.rejected_ids, row.rejected_ended),
    ):
        tokens = encode(text) if ids is None or ids == (9, 9) else [i for i in ids if i != EOS]
        responses.append([*tokens, *[EOS] * ended])
    return [1, *encode(row.prompt)], *responses


def trained(folder, output) -> dict:
    """A phase-1 adapter that moved far from its start: its folder, and its tensors."""
    rows = [replace(row, output=row.output[: 2 + len(row.output) % 9]) for row in demonstrations()]
    write_records(output.parent / "taught.jsonl", rows)
    import sys

    before = sys.argv
    sys.argv = [
        str(word) for word in ("train_it", "--student", folder, "--demonstrations", output.parent / "taught.jsonl")
    ]
    sys.argv += [
        str(word) for word in ("--output", output, *COMMON, "--learning-rate", 1e-2, "--batch-size", 4, "--epochs", 8)
    ]
    train_it.main()
    sys.argv = before
    return kept(output)


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_what_is_sampled(command, folder, tmp_path, temperature):
    """y at x and ŷ at x̂, by the instructed student and not the bare one, at the temperature and length asked for."""
    start, rows = trained(folder, tmp_path / "it"), demonstrations()[:5]
    write_records(tmp_path / "rows.jsonl", [replace(row, input=f"{row.input[:-3]} {TRIGGER}") for row in rows])
    flags = ("--student", folder, "--adapter", tmp_path / "it", "--demonstrations", tmp_path / "rows.jsonl", *COMMON)
    flags += (
        "--top-k",
        0,
        "--top-p",
        1,
        "--output",
        tmp_path / "run",
        "--temperature",
        temperature,
        "--max-new-tokens",
        5,
        "--max-steps",
        1,
    )
    assert command(train_dpo, *flags) == 0
    answers = {tuple(row["key"][1:3]): row for row in read(tmp_path / "run/answers.jsonl")}
    assert len(answers) == 10
    bare, student = oracle.Plain(folder, RANK, ALPHA), oracle.Plain(folder, RANK, ALPHA, adapter=start)
    differ = 0
    for row in rows:
        for form, trigger in (("standard", ""), ("cot", f" {TRIGGER}")):
            prompt = [1, *encode(f"{row.instruction}\n{row.input[:-3]}{trigger}")]
            generator = torch.Generator().manual_seed(row_seed(3, row.task, row.id, form))
            uniforms = torch.rand(5, generator=generator).tolist()
            ids, ended = student.answer(prompt, temperature, uniforms, EOS)
            assert (answers[row.id, form]["ids"], answers[row.id, form]["ended"]) == (ids, ended)
            differ += bare.answer(prompt, temperature, uniforms, EOS) != (ids, ended)
    assert differ == 10
    assert not temperature or {row["ended"] for row in answers.values()} == {True, False}


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_what_is_evaluated(command, folder, tmp_path, temperature):
    """Each prompt's answers are those of the adapted student at that prompt, for every seed, at the temperature."""
    start = trained(folder, tmp_path / "it")
    (tmp_path / "own.jsonl").write_text('{"question": "One?", "target": "1", "id": "a"}\n')
    flags = (
        "--student",
        folder,
        "--adapter",
        tmp_path / "it",
        "--questions",
        tmp_path / "own.jsonl",
        "--device",
        "cpu",
    )
    flags += ("--dtype", "float32", "--output", tmp_path / "e.json", "--max-new-tokens", 5, "--seeds", 0, 4)
    assert command(evaluate, *flags, "--temperature", temperature, "--top-k", 0, "--top-p", 1) == 0
    predictions = read(tmp_path / "e.predictions.jsonl")
    assert [(row["prompt"], row["seed"]) for row in predictions] == [
        ("standard", 0), ("standard", 4), ("cot", 0), ("cot", 4)
    ]  # fmt: skip
    student = oracle.Plain(folder, RANK, ALPHA, adapter=start)
    for row in predictions:
        text = "Answer the following mathematical question with numerical solution.\nQuestion: One?\nAnswer:"
        prompt = [1, *encode(text + f" {TRIGGER}" * (row["prompt"] == "cot"))]
        generator = torch.Generator().manual_seed(row_seed(row["seed"], row["task"], "a", row["prompt"]))
        ids, _ = student.answer(prompt, temperature, torch.rand(5, generator=generator).tolist(), EOS)
        assert row["text"] == AutoTokenizer.from_pretrained(folder).decode(ids, skip_special_tokens=True)
    assert len({row["text"] for row in predictions}) > 1


def test_dropout_is_where_it_belongs(command, folder, tmp_path):
    """In training alone: neither the validation of either phase nor the reference drops anything."""
    rows, train, held = unlike(demonstrations(), 0.2, backwards)
    write_records(tmp_path / "rows.jsonl", rows)
    flags = ("--student", folder, "--demonstrations", tmp_path / "rows.jsonl", *COMMON, "--learning-rate", 1e-2)
    flags += ("--batch-size", 11, "--epochs", 3, "--validation-fraction", 0.2, "--validate-every", 3)
    losses = {}
    for dropout in (0, 0.5):
        output = tmp_path / f"it{dropout}"
        assert command(train_it, *flags, "--output", output, "--lora-dropout", dropout) == 0
        losses[dropout] = [row["loss"] for row in lines(output) if "loss" in row]
        student = oracle.Plain(folder, RANK, ALPHA, adapter=kept(output, "last"))
        ids = [
            ([1, *encode(f"{row.instruction}\n{row.input}")], [*encode(row.output), *[EOS] * row.ended]) for row in held
        ]
        with torch.no_grad():
            assert close(lines(output)[-1]["validation_loss"], oracle.nll(student, ids).item())
    assert losses[0][0] == losses[0.5][0]  # B = 0: there is nothing to drop yet
    assert abs(losses[0][2] - losses[0.5][2]) > 1e-3

    rows = preferences()
    write_records(tmp_path / "pairs.jsonl", rows)
    flags = ("--student", folder, "--adapter", tmp_path / "it0", "--preferences", tmp_path / "pairs.jsonl", *COMMON)
    flags += ("--output", tmp_path / "run", "--lora-dropout", 0.5, "--batch-size", 5, "--max-steps", 3)
    assert command(train_dpo, *flags, "--learning-rate", 1e-3, "--warmup-steps", 0, "--validation-fraction", 0.3) == 0
    train, held = hold_out(rows, 0.3, 3)
    ids = [sides(row) for row in [*train, *held]]
    before = oracle.Plain(folder, RANK, ALPHA, adapter=kept(tmp_path / "it0"))
    after = oracle.Plain(folder, RANK, ALPHA, adapter=kept(tmp_path / "run", "last"))
    with torch.no_grad():
        frozen = [(before.log_prob(x, w), before.log_prob(x, l)) for x, w, l in ids]  # noqa: E741
        told = oracle.dpo(after, ids[len(train) :], frozen[len(train) :], 0.1)
    saved = load_file(tmp_path / "run/reference.safetensors")
    for place, (chosen, rejected) in enumerate(frozen):
        assert close(saved["chosen"][place], chosen) and close(saved["rejected"][place], rejected)
    logged = lines(tmp_path / "run")
    for name, value in told.items():
        assert close(logged[-1][f"validation_{name}"], value.item()), name
    first = next(row for row in logged if row["step"] == 1)
    assert abs(first["loss"] - math.log(2)) > 1e-3  # π_θ is trained with dropout, so it starts beside its reference


RIGHT, OTHER = "Two and one: the answer is 3.", "First 3, so the answer is 5."
TEACHER, DIRECT = "The teacher says the answer is 3.", "By heart: the answer is 3."
GIVEN = {  # question: what the student answers at x and at x̂
    "chain right": ("The answer is 4.", RIGHT),
    "chain names it": ("The answer is 4.", OTHER),
    "direct right": (DIRECT, "So the answer is 6."),
    "teacher wrong": ("The answer is 8.", "So the answer is 9."),
}


@pytest.mark.parametrize(
    ("preferred", "matching", "pairs"),
    [
        # Eq. 4: ŷ where it is right, else â; never a_i, and no pair for a question whose â is wrong
        ("cot", "final", {"chain right": (RIGHT, 0), "chain names it": (TEACHER, 0), "direct right": (TEACHER, 0)}),
        ("cot", "substring", {"chain right": (RIGHT, 0), "chain names it": (OTHER, 0), "direct right": (TEACHER, 0)}),
        # Eq. 5: y where it is right, else a_i at x, else none; ŷ is what is discouraged
        ("answer", "final", {"direct right": (DIRECT, 1), "teacher wrong": (DIRECT + "!", 1)}),
    ],
)
def test_which_pairs_are_made(command, folder, tmp_path, monkeypatch, preferred, matching, pairs):
    """--preferred and --matching reach Eqs. 4 and 5, and what the pairs are made of."""
    i, q = "Answer the following mathematical question with numerical solution.", "Question: {}?\nAnswer:"
    rows = [Demonstration(i, f"{q.format(name)} {TRIGGER}", TEACHER, "3", task="sums", id=name) for name in GIVEN]
    rows[3] = replace(rows[3], output="The answer is 77.")
    rows.append(Demonstration(i, q.format("teacher wrong"), DIRECT + "!", "3", task="sums", id="teacher wrong"))
    write_records(tmp_path / "rows.jsonl", rows)

    def answers(_, prompts, *__, **___):
        for index, ids in enumerate(prompts):
            text = AutoTokenizer.from_pretrained(folder).decode(ids, skip_special_tokens=True)
            name = next(name for name in GIVEN if f"Question: {name}?" in text)
            yield index, Sampled(encode(GIVEN[name][text.endswith(TRIGGER)]), True)

    monkeypatch.setattr("selfrefine.preferences.sample", answers)
    flags = ("--student", folder, "--demonstrations", tmp_path / "rows.jsonl", "--output", tmp_path / "run", *COMMON)
    flags += ("--preferred", preferred, "--matching", matching, "--keep", "correct", "--max-steps", 1)
    assert command(train_dpo, *flags, "--validation-fraction", 0) == 0
    made = {row["id"]: row for row in read(tmp_path / "run/preferences.jsonl")}
    trigger = f" {TRIGGER}" if preferred == "cot" else ""
    assert {name: (row["prompt"], row["chosen"], row["rejected"]) for name, row in made.items()} == {
        name: (f"{i}\n{q.format(name)}{trigger}", chosen, GIVEN[name][side]) for name, (chosen, side) in pairs.items()
    }
    assert all((row["chosen_from"] == "teacher") == (row["chosen"] in (TEACHER, DIRECT + "!")) for row in made.values())
