"""Both scripts, whole, on a tiny random student on a CPU: what they write, where they start, exact resume."""

import json
import math
import re
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train_dpo
import train_it
from selfrefine import fast
from selfrefine.errors import RunError, UserError
from selfrefine.model.lora import NF4Linear, lora_layers
from selfrefine.runs import Run
from selfrefine.training.batches import Pair
from selfrefine.training.checkpoint import Progress, save_checkpoint
from selfrefine.training.progress import require_start
from selfrefine.training.reference import Reference, reference_log_probs
from tests.conftest import examples, lines, phase_1, phase_2


def same_run(one: Path, other: Path) -> None:
    """Adapters to the bit, best and last, and metrics but for the timings."""
    for name in ("adapter_model.safetensors", "last/adapter_model.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert lines(one, timed=False) == lines(other, timed=False)


def test_phase_1_learns_and_writes_what_it_promises(command, student_folder, demonstrations, tmp_path, capsys):
    output = tmp_path / "run"
    assert command(train_it, *phase_1(student_folder, demonstrations, output), "--validation-fraction", "0.2") == 0
    rows = lines(output)
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 7))  # 16 rows in batches of 8, three epochs
    assert set(steps[0]) == {"step", "loss", "grad_norm", "learning_rate", "tokens", "seconds"}
    assert steps[-1]["loss"] < steps[0]["loss"]
    validations = {row["step"]: row["validation_loss"] for row in rows if "validation_loss" in row}
    assert len(validations) == 6
    best = json.loads(sorted(output.glob("checkpoints/*/progress.json"))[-1].read_text())
    assert best["step"] == 6 and best["best_loss"] == min(validations.values()) == validations[best["best_step"]]
    config = json.loads((output / "config.json").read_text())
    assert config["settings"]["epochs"] == 3 and config["versions"]["torch"] == torch.__version__
    for name in ("adapter_config.json", "adapter_model.safetensors", "last/adapter_model.safetensors"):
        assert (output / name).exists()
    assert "20 demonstrations, 20 kept" in capsys.readouterr().out


def test_phase_1s_first_loss_is_the_formula(command, student_folder, demonstrations, tmp_path):
    """With all rows in one step: Σ −log π(response) / Σ response tokens of the untrained student, by full logits."""
    from selfrefine.model.encoding import encode_prompt, encode_response
    from selfrefine.model.student import load_student, load_tokenizer
    from selfrefine.records import read_demonstrations
    from selfrefine.training.log_probs import masked_log_probs

    flags = [*phase_1(student_folder, demonstrations, tmp_path / "run"), "--max-steps", "1", "--batch-size", "32"]
    assert command(train_it, *flags, "--lora-dropout", "0") == 0
    student, tokenizer = (
        load_student(student_folder, torch.device("cpu"), torch.float32),
        load_tokenizer(student_folder),
    )
    total, tokens = 0.0, 0
    for row in read_demonstrations([demonstrations]):
        prompt = encode_prompt(tokenizer, f"{row.instruction}\n{row.input}", chat_template=False)
        response = [*encode_response(tokenizer, row.output), tokenizer.eos_token_id]
        ids = torch.tensor([[*prompt, *response]])
        mask = torch.arange(ids.shape[1])[None] >= len(prompt)
        with torch.no_grad():
            total -= masked_log_probs(student(input_ids=ids).logits, ids, mask).item()
        tokens += len(response)
    assert lines(tmp_path / "run")[0]["loss"] == pytest.approx(total / tokens, rel=1e-5)


def test_pitfall_p6_micro_batches_do_not_change_the_run(command, student_folder, demonstrations, tmp_path):
    """8 rows at a time or one by one: the same losses and gradient norms in float32, without dropout."""
    runs = []
    for budget in ("4096", "1"):
        output = tmp_path / budget
        flags = [
            *phase_1(student_folder, demonstrations, output),
            "--micro-batch-tokens",
            budget,
            "--lora-dropout",
            "0",
        ]
        assert command(train_it, *flags) == 0
        runs.append([(row["loss"], row["grad_norm"]) for row in lines(output)])
    torch.testing.assert_close(torch.tensor(runs[0]), torch.tensor(runs[1]), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("source", ["demonstrations", "preferences"])
def test_phase_2_starts_at_ln_2_and_learns(
    command, student_folder, instructed, demonstrations, request, tmp_path, source
):
    from selfrefine.preferences import has_target
    from selfrefine.records import read_demonstrations

    output = tmp_path / "run"
    flags = [*phase_2(student_folder, instructed, output), f"--{source}", request.getfixturevalue(source)]
    assert command(train_dpo, *flags, "--max-new-tokens", "6", "--temperature", "1", "--save-every", 1) == 0
    rows = lines(output)
    kept = [f"step-{rows[-1]['step'] - before:08d}" for before in (1, 0)]  # the last two
    assert sorted(path.name for path in (output / "checkpoints").iterdir()) == kept
    first = next(row for row in rows if row["step"] == 1)
    assert first["loss"] == torch.tensor(2.0).log().item() and first["margin"] == 0.0  # exactly, in float32
    assert first["chosen_change"] == first["rejected_change"] == 0.0
    assert rows[0]["reference_seconds"] > 0
    made = output / "preferences.jsonl"
    trained_on = made if made.exists() else flags[-1]
    assert rows[0]["pairs"] + rows[0]["validation_pairs"] == Path(trained_on).read_bytes().count(b"\n")
    assert rows[0]["validation_pairs"] > 0
    wanted = {"step", "loss", "grad_norm", "learning_rate", "tokens", "seconds", "margin", "accuracy"}
    assert wanted | {"chosen_logp", "rejected_logp"} <= set(first)
    validations = [row["validation_loss"] for row in rows if "validation_loss" in row]
    assert validations[-1] < math.log(2)
    if source == "demonstrations":
        pairs = [json.loads(line) for line in (output / "preferences.jsonl").read_text().split("\n") if line]
        taught = {row.id: row for row in read_demonstrations([demonstrations])}
        assert len(taught) == len(pairs) == 20
        for pair in pairs:  # Eq. 4: random text of 6 tokens is the target now and then
            row = taught.pop(pair["id"])
            assert pair["chosen_from"] == ("teacher" if pair["chosen"] == row.output else "student")
            assert has_target(row, pair["chosen"], "final")  # so do the teacher's, all right here


def test_pitfall_p8_phase_2_continues_the_adapter_and_leaves_its_reference_unmoved(
    command, student_folder, instructed, preferences, tmp_path
):
    """P8: after 9 steps the policy has moved; the reference is still what phase 1's adapter gives."""
    from selfrefine.model.adapter import load_adapter
    from selfrefine.model.student import fingerprint, load_student, load_tokenizer, read_config
    from selfrefine.records import read_preferences
    from selfrefine.tasks.splits import hold_out
    from selfrefine.training.examples import pairs_of
    from selfrefine.training.log_probs import pair_log_probs

    before, output = (instructed / "adapter_model.safetensors").read_bytes(), tmp_path / "run"
    flags = [*phase_2(student_folder, instructed, output), "--preferences", preferences, "--validation-fraction", "0"]
    assert command(train_dpo, *flags) == 0
    assert len(lines(output)) == 1 + 9
    assert (instructed / "adapter_model.safetensors").read_bytes() == before
    moved = load_file(output / "adapter_model.safetensors")
    assert all(
        not torch.equal(tensor, moved[name])
        for name, tensor in load_file(instructed / "adapter_model.safetensors").items()
    )

    student, tokenizer = (
        load_student(student_folder, torch.device("cpu"), torch.float32),
        load_tokenizer(student_folder),
    )
    load_adapter(student, instructed, fingerprint(student_folder))
    rows, _ = hold_out(read_preferences(preferences), 0, 0)
    sides = examples(pairs_of, tokenizer, rows, read_config(student_folder), chat_template=False, allowed=0)
    reference = load_file(output / "reference.safetensors")
    for index, pair in enumerate(sides):
        with torch.no_grad():
            alone = torch.cat(pair_log_probs(student.eval(), [pair]))
        kept = torch.stack([reference["chosen"][index], reference["rejected"][index]])
        torch.testing.assert_close(alone, kept, rtol=1e-5, atol=1e-4)


def test_pitfall_p8_phase_2_stops_where_the_reference_is_another_student(
    command, student_folder, instructed, preferences, tmp_path, monkeypatch, capsys
):
    """If the reference were the bare base (a common fault), step 0 would not be at ln 2: the run stops and says so."""
    from selfrefine.model.lora import lora_layers

    def of_the_base(student, *arguments, **others):
        for layer in lora_layers(student).values():
            layer.scaling = 0.0
        got = original(student, *arguments, **others)
        for layer in lora_layers(student).values():
            layer.scaling = 2.0
        return got

    original = train_dpo.reference_log_probs
    monkeypatch.setattr(train_dpo, "reference_log_probs", of_the_base)
    flags = [*phase_2(student_folder, instructed, tmp_path / "run"), "--preferences", preferences]
    assert command(train_dpo, *flags) == 1
    assert "should be ln 2" in capsys.readouterr().err
    assert not (tmp_path / "run/adapter_model.safetensors").exists()


def test_several_answers_a_prompt_make_several_pairs_of_one_question(
    command, student_folder, instructed, demonstrations, tmp_path, capsys
):
    flags = [*phase_2(student_folder, instructed, tmp_path / "run"), "--demonstrations", demonstrations]
    flags += ["--answers-per-prompt", 2, "--max-new-tokens", 6, "--temperature", 1]
    assert command(train_dpo, *flags, "--dry-run") == 0
    assert "15 steps of 8 rows, 3 epochs of 40" in capsys.readouterr().out
    assert command(train_dpo, *flags, "--max-steps", 1) == 0
    rows = [json.loads(line) for line in (tmp_path / "run/preferences.jsonl").read_text().split("\n") if line]
    assert len({(row["id"], row["sample"]) for row in rows}) == len(rows) > 30
    assert {row["sample"] for row in rows} == {0, 1} and len({row["id"] for row in rows}) == 20
    answers = (tmp_path / "run/answers.jsonl").read_text().split("\n")
    assert sum(len(json.loads(line)["key"]) == 4 for line in answers if line) == len(answers) // 2 == 40
    assert command(train_dpo, *flags, "--max-steps", 1, "--resume", "--answers-per-prompt", 3) == 2
    assert "answers_per_prompt was 2, is 3" in capsys.readouterr().err
    for cut in (("--top-k", 1), ("--top-p", 1e-6)):  # then every sample is the likeliest, and each pair there twice
        assert command(train_dpo, *flags, *cut, "--max-steps", 1, "--output", tmp_path / cut[0]) == 0
        assert "the same pair again 20" in capsys.readouterr().out


def test_how_answers_are_drawn_is_what_the_flags_say(
    command, student_folder, instructed, demonstrations, tmp_path, monkeypatch
):
    given = {}

    def sampled(*_, **how):
        given.update(how)
        raise UserError("seen")

    monkeypatch.setattr(train_dpo, "sample_answers", sampled)
    flags = [*phase_2(student_folder, instructed, tmp_path / "run"), "--demonstrations", demonstrations]
    how = {"--temperature": 0.7, "--top-k": 7, "--top-p": 0.8, "--max-new-tokens": 5, "--sampling-batch-size": 3}
    how |= {"--answers-per-prompt": 2, "--seed": 4}
    assert command(train_dpo, *flags, *(word for flag in how.items() for word in flag)) == 2
    names = ("temperature", "top_k", "top_p", "max_new_tokens", "batch_size", "samples", "seed")
    assert [given[name] for name in names] == list(how.values()) and given["chat_template"] is False


def test_the_schedule_is_what_the_flag_says(command, student_folder, instructed, preferences, tmp_path):
    """Peak 1e-3, two steps of warm-up: then the rate stays, or falls to 0 at step 4."""
    for schedule, rates in (("constant", [0.5, 1, 1, 1]), ("linear", [0.5, 1, 1, 0.5])):
        flags = [*phase_2(student_folder, instructed, tmp_path / schedule), "--preferences", preferences]
        assert command(train_dpo, *flags, "--schedule", schedule, "--max-steps", 4) == 0
        logged = [row["learning_rate"] for row in lines(tmp_path / schedule) if "loss" in row]
        assert logged == pytest.approx([1e-3 * rate for rate in rates])


@pytest.mark.parametrize("phase", [1, 2])
def test_dropout_is_a_function_of_seed_and_step(
    command, student_folder, instructed, demonstrations, preferences, tmp_path, monkeypatch, phase
):
    """All that is drawn from torch's own generator, so that no random state needs saving."""
    seeds = []
    monkeypatch.setattr(torch, "manual_seed", seeds.append)
    script, flags = train_it, phase_1(student_folder, demonstrations, tmp_path / "run")
    if phase == 2:
        script, flags = train_dpo, phase_2(student_folder, instructed, tmp_path / "run")
        flags += ["--preferences", str(preferences)]
    assert command(script, *flags, "--seed", 3, "--max-steps", 2) == 0
    assert seeds == [3 * 1_000_003, 3 * 1_000_003 + 1]


@pytest.mark.parametrize(("steps", "at"), [(3, [1, 2, 3]), (21, [*range(2, 21, 2), 21])])
@pytest.mark.parametrize("phase", [1, 2])
def test_a_run_validates_ten_times_unless_told_otherwise(
    command, student_folder, instructed, demonstrations, preferences, tmp_path, phase, steps, at
):
    script, flags = train_it, phase_1(student_folder, demonstrations, tmp_path / "run")
    if phase == 2:
        script, flags = train_dpo, phase_2(student_folder, instructed, tmp_path / "run")
        flags += ["--preferences", str(preferences)]
    assert command(script, *flags, "--validation-fraction", 0.2, "--epochs", 21, "--max-steps", steps) == 0
    assert [row["step"] for row in lines(tmp_path / "run") if "validation_loss" in row] == at


def test_phase_2_goes_on_with_the_layers_that_phase_1_adapted(
    command, student_folder, demonstrations, preferences, tmp_path
):
    """q and v alone, as in the authors' code: no other layer gets an adapter in either phase."""
    first = [*phase_1(student_folder, demonstrations, tmp_path / "it"), "--max-steps", 1]
    assert command(train_it, *first, "--lora-targets", "v_proj", "q_proj") == 0
    second = [*phase_2(student_folder, tmp_path / "it", tmp_path / "sr"), "--preferences", preferences]
    assert command(train_dpo, *second, "--max-steps", 1) == 0
    for run in ("it", "sr"):
        names = load_file(tmp_path / run / "adapter_model.safetensors")
        assert {name.split(".")[-3] for name in names} == {"q_proj", "v_proj"} and len(names) == 2 * 2 * 2
        config = json.loads((tmp_path / run / "adapter_config.json").read_text())
        assert config["target_modules"] == ["q_proj", "v_proj"]


def test_both_phases_hold_out_the_same_questions(
    command, student_folder, instructed, demonstrations, tmp_path, monkeypatch
):
    """Same share, same seed; two teachers answered each question, no row has an id, and a third of the pairs is lost:
    what phase 2 validates on, phase 1 did not train on, and the other way round."""
    from selfrefine import preferences
    from selfrefine.tasks import splits

    rows = [json.loads(line) for line in demonstrations.read_text().split("\n") if line]
    twice = [{**row, "output": f"{row['output']}{end}"} for row in rows for end in ("", " ")]
    anonymous = [{name: row[name] for name in ("instruction", "input", "output", "target")} for row in twice]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in anonymous))
    sides, hold_out, build_pairs = [], splits.hold_out, preferences.build_pairs

    def seen(*arguments, **others):
        both = hold_out(*arguments, **others)
        sides.append([{row.asked for row in side} for side in both])
        return both

    def losing(*arguments, **others):
        pairs, counts = build_pairs(*arguments, **others)
        return [pair for index, pair in enumerate(pairs) if index % 6 > 1], counts

    monkeypatch.setattr("selfrefine.training.examples.hold_out", seen)
    monkeypatch.setattr(train_dpo, "build_pairs", losing)
    common = ["--demonstrations", tmp_path / "mine.jsonl", "--validation-fraction", 0.3, "--max-steps", 1, "--seed", 5]
    first = phase_1(student_folder, demonstrations, tmp_path / "it")
    assert command(train_it, *first, *common) == 0
    second = phase_2(student_folder, instructed, tmp_path / "sr")
    assert command(train_dpo, *second, *common, "--max-new-tokens", 4) == 0
    (trained, validated), (trained_2, validated_2) = sides
    assert len(validated) == 6 and len(trained) == 14
    assert validated_2 and validated_2 <= validated and trained_2 <= trained


def test_a_run_that_held_out_other_questions_is_refused_and_one_that_held_out_none_goes_on(
    command, student_folder, instructed, demonstrations, preferences, tmp_path, capsys
):
    """As a run was described before: no `hold_out`, which was by id, and none of the flags that came since."""
    since = ("hold_out", "lora_targets", "schedule", "answers_per_prompt", "chosen_nll", "top_k", "top_p")
    for script, share, code in ((train_it, 0.2, 2), (train_it, 0, 0), (train_dpo, 0, 0)):
        output = tmp_path / f"{script.__name__} {share}"
        flags = phase_1(student_folder, demonstrations, output)
        if script is train_dpo:
            flags = [*phase_2(student_folder, instructed, output), "--preferences", preferences]
        flags += ["--max-steps", "1", "--validation-fraction", str(share)]
        assert command(script, *flags) == 0
        config = json.loads((output / "config.json").read_text())
        config["settings"] = {name: value for name, value in config["settings"].items() if name not in since}
        (output / "config.json").write_text(json.dumps(config))
        assert command(script, *flags, "--resume") == code
    assert "hold_out was None, is \"by the prompt's text" in capsys.readouterr().err
    assert command(train_dpo, *flags, "--resume", "--schedule", "constant") == 2
    assert command(train_dpo, *flags, "--resume", "--chosen-nll", "0.1") == 2
    assert "chosen_nll was 0.0, is 0.1" in capsys.readouterr().err


def test_without_an_adapter_the_bare_student_is_the_reference(command, student_folder, preferences, tmp_path, capsys):
    flags = phase_2(student_folder, "-", tmp_path / "run")
    del flags[2:4]
    assert command(train_dpo, *flags, "--preferences", preferences, "--max-steps", "2") == 0
    assert "bare student is the reference" in capsys.readouterr().out
    assert lines(tmp_path / "run")[1]["margin"] == 0.0


class Killed(Exception):
    """Stands for a SIGKILL: nothing after it runs."""


@pytest.mark.parametrize("point", ["between", "mid-step", "mid-write"])
@pytest.mark.parametrize("phase", [1, 2])
def test_pitfall_p11_resumed_is_straight_to_the_bit(
    command, student_folder, demonstrations, instructed, tmp_path, monkeypatch, capsys, phase, point
):
    """P11: stopped at step 5 (of 6 or 9), between steps, before the optimizer steps or inside a checkpoint's write."""
    from selfrefine.training import checkpoint, progress

    def flags(output):
        if phase == 1:
            return [
                *phase_1(student_folder, demonstrations, output),
                "--validation-fraction",
                "0.2",
                "--save-every",
                "2",
            ]
        sampling = ["--demonstrations", str(demonstrations), "--max-new-tokens", "6", "--temperature", "1"]
        return [*phase_2(student_folder, instructed, output), *sampling, "--save-every", "2"]

    module = train_it if phase == 1 else train_dpo
    assert command(module, *flags(tmp_path / "straight")) == 0

    def dies(original, count):
        calls = iter(range(count))

        def call(*arguments, **named):
            if next(calls, None) is None:
                raise Killed
            return original(*arguments, **named)

        return call

    with monkeypatch.context() as patched, pytest.raises(Killed):
        target, name, count = {
            "between": (progress.Metrics, "write", 9),
            "mid-step": (torch.nn.utils, "clip_grad_norm_", 4),
            "mid-write": (checkpoint, "write_whole", 3),
        }[point]
        patched.setattr(target, name, dies(getattr(target, name), count))
        command(module, *flags(tmp_path / "killed"))
    assert command(module, *flags(tmp_path / "killed"), "--resume") == 0
    assert re.search(r"resuming after step [24] from ", capsys.readouterr().out)  # and not all over again
    same_run(tmp_path / "straight", tmp_path / "killed")


def test_a_draft_that_a_kill_left_is_written_over(tmp_path):
    (tmp_path / "checkpoints/draft/state.safetensors").mkdir(parents=True)
    parameters = {"A": torch.nn.Parameter(torch.ones(2))}
    save_checkpoint(tmp_path, parameters, torch.optim.AdamW(parameters.values()), Progress(step=3))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]


def test_resume_falls_back_to_the_checkpoint_before_a_broken_one(
    command, student_folder, demonstrations, tmp_path, capsys
):
    flags = [*phase_1(student_folder, demonstrations, tmp_path / "run"), "--save-every", "2"]
    assert command(train_it, *flags) == 0
    newest = max((tmp_path / "run/checkpoints").iterdir())
    (newest / "state.safetensors").write_bytes(b"half")
    expected = (tmp_path / "run/adapter_model.safetensors").read_bytes()
    assert command(train_it, *flags, "--resume") == 0
    said = capsys.readouterr()
    assert "is broken" in said.err and "resuming after step" in said.out
    assert (tmp_path / "run/adapter_model.safetensors").read_bytes() == expected


def test_resume_refuses_what_changed_and_starts_afresh_where_there_is_nothing(
    command, student_folder, demonstrations, tmp_path, capsys
):
    flags = phase_1(student_folder, demonstrations, tmp_path / "run")
    assert command(train_it, *flags, "--resume", "--max-steps", "2") == 0
    assert "starting afresh" in capsys.readouterr().out
    assert command(train_it, *flags, "--max-steps", "2") == 2
    assert "--resume" in capsys.readouterr().err
    assert command(train_it, *flags, "--resume", "--max-steps", "2", "--learning-rate", "1") == 2
    assert "learning_rate was 0.01, is 1.0" in capsys.readouterr().err
    other = tmp_path / "other.jsonl"
    other.write_text("".join(demonstrations.read_text().splitlines(keepends=True)[1:]))
    flags[flags.index("--demonstrations") + 1] = str(other)
    assert command(train_it, *flags, "--resume", "--max-steps", "2") == 2
    told = capsys.readouterr().err
    assert "the rows of --demonstrations, --answers or --preferences changed" in told
    assert not re.search(r"[0-9a-f]{64}", told)


def test_a_run_goes_on_with_a_student_that_moved(command, student_folder, demonstrations, tmp_path, capsys):
    """Its weights are compared, not the folder's name."""
    flags = phase_1(student_folder, demonstrations, tmp_path / "run")
    assert command(train_it, *flags, "--max-steps", "1") == 0
    moved = shutil.copytree(student_folder, tmp_path / "moved")
    assert command(train_it, *flags, "--max-steps", "1", "--student", moved, "--resume") == 0
    assert "resuming after step 1" in capsys.readouterr().out


def test_micro_batches_have_the_tokens_that_are_asked_for(
    command, student_folder, demonstrations, tmp_path, monkeypatch
):
    seen, original = set(), train_it.micro_batches
    monkeypatch.setattr(train_it, "micro_batches", lambda *given: seen.add(given[2]) or original(*given))
    flags = [*phase_1(student_folder, demonstrations, tmp_path / "run"), "--max-steps", 1, "--micro-batch-tokens", 77]
    assert command(train_it, *flags) == 0
    assert seen == {77}


def test_activations_are_recomputed_where_it_is_asked(command, student_folder, demonstrations, tmp_path, monkeypatch):
    asked, load = [], train_it.load

    def loaded(*setup):
        student, adapter = load(*setup)
        asked.append(student.is_gradient_checkpointing)
        return student, adapter

    monkeypatch.setattr(train_it, "load", loaded)
    for name, flag in (("not", ()), ("so", ("--gradient-checkpointing",))):
        flags = phase_1(student_folder, demonstrations, tmp_path / name)
        assert command(train_it, *flags, "--max-steps", 1, *flag) == 0
    assert asked == [False, True]


@pytest.mark.parametrize(("free", "flag", "held"), [(2**40, (), 1), (2**40, ("--plain",), 0), (0, (), 0)])
def test_weights_are_held_dequantised_by_default_where_there_is_room(
    command, student_folder, demonstrations, tmp_path, monkeypatch, capsys, free, flag, held
):
    """But on the plain path, which is for readers."""
    monkeypatch.setattr("selfrefine.training.plan.free_memory", lambda device: free)
    assert command(train_it, *phase_1(student_folder, demonstrations, tmp_path / "run"), "--dry-run", *flag) == 0
    assert capsys.readouterr().out.count("the same dequantised") == held


@pytest.mark.parametrize(("fraction", "kept"), [((), 20), (("--fraction", 0.5), 10)])
def test_a_fraction_is_of_the_demonstrations_that_are_kept(
    command, student_folder, demonstrations, tmp_path, capsys, fraction, kept
):
    flags = phase_1(student_folder, demonstrations, tmp_path / "run")
    assert command(train_it, *flags, "--dry-run", *fraction) == 0
    said = capsys.readouterr().out
    assert f"20 demonstrations, {kept} kept" in said and f"epochs of {kept};" in said


def test_a_dry_run_prints_the_plan_and_writes_nothing(command, student_folder, demonstrations, tmp_path, capsys):
    """6 steps of cosine, one of warm-up: 1 + Σ ½(1 + cos πs/5) = 1 + 3 = 4 times the peak of 0.01."""
    flags = phase_1(student_folder, demonstrations, tmp_path / "run")
    assert command(train_it, *flags, "--batch-size", "10", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "6 steps of 10 rows, 3 epochs of 20" in said and "sum to 0.04" in said and "GiB" in said
    assert "times α/r = 8/4: 0.08" in said and "48 GB" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("phase", [1, 2])
def test_a_signal_just_after_the_step_asked_for_one_costs_no_step(
    command, student_folder, demonstrations, instructed, preferences, tmp_path, monkeypatch, phase
):
    """It is seen a step later: nothing ever leaves without a checkpoint."""

    class Late(Run):
        come = None

        @property
        def requested(self):
            before, metrics = self.come, tmp_path / "run/metrics.jsonl"
            if metrics.exists() and "grad_norm" in metrics.read_text():
                self.come = 15
            return before

        @requested.setter
        def requested(self, _):
            pass

    monkeypatch.setattr(train_it, "Run", Late)
    monkeypatch.setattr(train_dpo, "Run", Late)
    script, flags = train_it, phase_1(student_folder, demonstrations, tmp_path / "run")
    if phase == 2:
        script, flags = train_dpo, phase_2(student_folder, instructed, tmp_path / "run")
        flags += ["--preferences", str(preferences)]
    assert command(script, *flags, "--save-every", "1000") == 143
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000002"]


def test_holding_the_weights_dequantised_changes_no_bit(
    command, student_folder, demonstrations, preferences, tmp_path, capsys, monkeypatch
):
    """A CPU's default against its opposite, in both phases, with dropout in phase 1."""
    holds = []

    def load(setup, student_id):
        student, adapter = original(setup, student_id)
        holds.append(all(layer.dense is not None for layer in student.modules() if isinstance(layer, NF4Linear)))
        return student, adapter

    original = train_it.load
    monkeypatch.setattr(train_it, "load", load)
    monkeypatch.setattr(train_dpo, "load", load)
    for held in ("--dequantize-once", "--no-dequantize-once"):
        instructed = tmp_path / f"it{held}"
        assert command(train_it, *phase_1(student_folder, demonstrations, instructed), held) == 0
        flags = phase_2(student_folder, instructed, tmp_path / f"dpo{held}")
        assert command(train_dpo, *flags, "--preferences", preferences, held) == 0
        assert capsys.readouterr().out.count("the same dequantised") == (2 if held == "--dequantize-once" else 0)
        assert holds == [held == "--dequantize-once"] * 2
        holds.clear()
    for phase in ("it", "dpo"):
        same_run(tmp_path / f"{phase}--dequantize-once", tmp_path / f"{phase}--no-dequantize-once")


def test_another_students_adapter_is_refused_before_anything_is_written(
    command, student_folder, instructed, preferences, tmp_path, capsys
):
    from tests.conftest import write_student

    other = write_student(tmp_path / "other", num_hidden_layers=1)
    assert command(train_dpo, *phase_2(other, instructed, tmp_path / "run"), "--preferences", preferences) == 2
    assert "another student" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_file_of_the_users_is_not_written_over(command, student_folder, demonstrations, tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"mine": 1}')
    assert command(train_it, *phase_1(student_folder, demonstrations, tmp_path)) == 2
    assert "config.json is not of a run" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == '{"mine": 1}'


def test_a_run_that_got_nowhere_does_not_block_its_folder(command, student_folder, demonstrations, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text('{"settings": {"epochs": 77}}')
    assert command(train_it, *phase_1(student_folder, demonstrations, tmp_path / "run"), "--max-steps", "1") == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--demonstrations", "nowhere.jsonl"], "nowhere.jsonl cannot be read"),
        (["--demonstrations", "WRONG"], "--keep all"),
        (["--student", "./nowhere"], "no such folder"),
        (["--epochs", "0"], "--epochs"),
        (["--learning-rate", "nan"], "--learning-rate"),
        (["--learning-rate", "0"], "--learning-rate"),
        (["--max-grad-norm", "0"], "--max-grad-norm"),
        (["--seed", "99999999999999"], "--seed"),
        (["--learning-rates", "1"], "--learning-rates"),
        (["--device", "cuda:77"], "--device"),
        (["--lora-targets", "q_proj", "w_proj"], "--lora-targets"),
        (["--output", "/proc/nowhere"], "--output"),
    ],
)
def test_bad_input_is_one_sentence(command, student_folder, demonstrations, tmp_path, capsys, change, said):
    rows = [json.loads(line) | {"target": "99"} for line in demonstrations.read_text().split("\n") if line]
    (tmp_path / "wrong.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    change = [str(tmp_path / "wrong.jsonl") if word == "WRONG" else word for word in change]
    assert command(train_it, *phase_1(student_folder, demonstrations, tmp_path / "run"), *change) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "Traceback" not in error and "\n" not in error


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda log_probs: log_probs.sum() * math.nan, "the loss is nan"),
        (lambda log_probs: math.nan - log_probs.sum(), "the loss is nan"),
        (
            lambda log_probs: (log_probs - log_probs.detach()).sum().sqrt(),
            "the loss is 0.0 and the gradient's norm nan",
        ),
    ],
)  # d√u/du at u = 0 is infinite
def test_pitfall_p19_a_loss_or_gradient_that_is_not_finite_stops_before_the_optimizer(
    command, student_folder, demonstrations, tmp_path, monkeypatch, capsys, broken, said
):
    """P19: the run names the step's rows and leaves no adapter of NaN behind; a finite loss may have the gradient."""
    monkeypatch.setattr(train_it, "instruction_loss", broken)
    assert command(train_it, *phase_1(student_folder, demonstrations, tmp_path / "run")) == 1
    error = capsys.readouterr().err
    assert said in error and "+" in error
    assert not (tmp_path / "run/adapter_model.safetensors").exists()


def test_a_pair_whose_gradient_is_not_finite_stops_phase_2_too(
    command, student_folder, instructed, preferences, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(train_dpo, "dpo_loss", lambda margin: (margin - margin.detach()).sqrt())
    flags = [*phase_2(student_folder, instructed, tmp_path / "run"), "--preferences", preferences]
    assert command(train_dpo, *flags) == 1
    assert "the loss is 0.0 and the gradient's norm nan" in capsys.readouterr().err


def test_all_that_is_wrong_with_a_folder_is_told_at_once(tmp_path):
    """A run that is there, with other settings, on a disk with too little room: one message, before any weight."""
    with Run(tmp_path, {"epochs": 4}, resume=False, disk=0):
        (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(UserError) as error, Run(tmp_path, {"epochs": 5}, resume=False, disk=2**60):
        pass
    for said in ("already holds a run", "epochs was 4, is 5", "MiB free"):
        assert said in str(error.value)


def test_a_folder_in_use_is_refused(command, student_folder, demonstrations, tmp_path, capsys):
    from selfrefine.files import lock

    held = lock(tmp_path / "run/.lock")
    assert command(train_it, *phase_1(student_folder, demonstrations, tmp_path / "run")) == 2
    assert "another process is writing there" in capsys.readouterr().err
    held.release()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("metrics.jsonl", "{}\nnot JSON\n", "metrics.jsonl line 2 is not JSON"),
        ("config.json", '{"settings": [1]}', "config.json is missing or broken"),
    ],
)
def test_a_run_folder_that_something_wrote_in_is_one_sentence(
    command, student_folder, demonstrations, tmp_path, capsys, file, content, said
):
    import subprocess
    import sys

    flags = [*phase_1(student_folder, demonstrations, tmp_path / "run"), "--max-steps", "1"]
    assert subprocess.run([sys.executable, train_it.__file__, *flags], capture_output=True).returncode == 0
    (tmp_path / "run" / file).write_text(content)
    assert command(train_it, *flags, "--resume") == 2
    assert said in capsys.readouterr().err


def test_pairs_are_not_thinned_out_without_a_word(command, student_folder, instructed, preferences, tmp_path, capsys):
    flags = [*phase_2(student_folder, instructed, tmp_path / "run"), "--preferences", preferences, "--fraction", "0.5"]
    assert command(train_dpo, *flags) == 2
    assert "--fraction is of --demonstrations" in capsys.readouterr().err


def kept_reference(student, pairs, groups, path, *, after_each=lambda: None, scored=None) -> Reference:
    """`reference_log_probs` by the fast path; the sizes of the micro-batches go to `scored`."""

    def counted(student, pairs):
        if scored is not None:
            scored.append(len(pairs))
        return fast.pair_log_probs(student, pairs)

    return reference_log_probs(student, pairs, groups, path, pair_log_probs=counted, after_each=after_each)


def same_reference(one: Reference, other: Reference) -> None:
    for side in ("chosen", "rejected"):
        torch.testing.assert_close(getattr(one, side), getattr(other, side), rtol=0, atol=0, equal_nan=True)


def test_pitfall_p9_a_stale_reference_is_not_used(student, tmp_path):
    """P9: kept log-probabilities are taken for the same token ids only, and are those that were computed; a broken
    file is computed again; pairs that no step needs are NaN, never 0."""
    pairs = [Pair([1, 5 + i], [7, 8, 2], [9, 2]) for i in range(4)]
    path, groups = tmp_path / "reference.safetensors", [[[2, 0]], [[3]]]
    state = torch.get_rng_state()
    begin = time.perf_counter()
    first = kept_reference(student, pairs, groups, path)
    assert 0 < first.seconds < time.perf_counter() - begin
    assert torch.equal(torch.get_rng_state(), state)
    assert first.chosen.isnan().tolist() == [False, True, False, False]
    kept = kept_reference(student, pairs, groups, path, scored=(scored := []))
    assert kept.seconds == first.seconds and not scored
    same_reference(kept, first)
    changed = [*pairs[:3], Pair([1, 8], [7, 8, 2], [10, 2])]
    other = kept_reference(student, changed, groups, path)
    assert other.rejected[3] != first.rejected[3] and other.rejected[2] == first.rejected[2]
    path.write_bytes(path.read_bytes()[:40])
    same_reference(kept_reference(student, changed, groups, path), other)


def test_the_reference_is_scored_without_dropout_and_gradient(student, tmp_path):
    """Whatever state the student is in: two passes agree, and nothing hangs on a graph."""
    pairs = [Pair([1, 5 + i], [7, 8, 2], [9, 2]) for i in range(4)]
    calm = kept_reference(student.eval(), pairs, [[[0, 1], [2, 3]]], tmp_path / "calm.safetensors")
    for layer in lora_layers(student).values():
        layer.dropout = 0.5
    restless = kept_reference(student.train(), pairs, [[[0, 1], [2, 3]]], tmp_path / "restless.safetensors")
    same_reference(restless, calm)
    assert not restless.chosen.requires_grad


@pytest.mark.parametrize(("dtype", "off", "fine"), [("float32", 1.2e-6, 9e-7), ("bfloat16", 6e-3, 4.5e-3)])
def test_pitfall_p8_a_start_that_is_not_at_ln_2_stops(dtype, off, fine):
    """A loss off by more than its type's rounding, or a margin by twice that, is another reference's."""
    dtype = getattr(torch, dtype)
    require_start(math.log(2) + fine, -2 * fine, dtype)
    for loss, margin in ((math.log(2) + off, 0.0), (math.log(2) - off, 0.0), (math.log(2), 2 * off)):
        with pytest.raises(RunError, match="the reference is not the student"):
            require_start(loss, margin, dtype)


def test_the_reference_goes_on_where_it_was_stopped_but_not_in_other_micro_batches(student, tmp_path):
    """Stopped in the second of three groups: the first is taken from the file, the others are computed, and all is
    what a straight pass gives. In other micro-batches, where the last bits may differ, all is done again."""
    pairs = [Pair([1, 5 + i], [7, 8, 2], [9, 2]) for i in range(6)]
    groups, path, scored = [[[2], [0]], [[3, 5]], [[4]]], tmp_path / "reference.safetensors", []
    straight = kept_reference(student, pairs, groups, tmp_path / "straight.safetensors")

    def stop_in_the_second():
        if sum(scored) == 4:
            raise SystemExit

    with pytest.raises(SystemExit):
        kept_reference(student, pairs, groups, path, after_each=stop_in_the_second, scored=scored)
    scored.clear()
    same_reference(kept_reference(student, pairs, groups, path, scored=scored), straight)
    assert scored == [2, 1]
    scored.clear()
    kept_reference(student, pairs, [[[2, 0]], *groups[1:]], path, scored=scored)
    assert scored == [2, 2, 1]


def test_a_signal_while_the_reference_is_computed_ends_the_run_there(
    command, student_folder, instructed, preferences, tmp_path, monkeypatch
):
    """SIGTERM in its first micro-batch: 143 before a step is taken."""
    import os
    import signal

    def scored(student, pairs):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(student, pairs)

    original = fast.pair_log_probs
    flags = [*phase_2(student_folder, instructed, tmp_path / "run"), "--preferences", preferences, "--max-steps", "2"]
    monkeypatch.setattr(fast, "pair_log_probs", scored)
    assert command(train_dpo, *flags) == 143
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_pitfall_p10_displacement_is_logged_and_warned_of(
    command, student_folder, instructed, preferences, tmp_path, capsys
):
    """P10: the loss sees the difference alone; the run logs both sides' change and warns where y_w's is a fall."""
    from selfrefine.training.progress import displacement

    fallen = displacement({"chosen_change": -0.5, "rejected_change": -9.0})
    assert "warning" in fallen and "log π(y_w|x̂) changed by -0.500" in fallen and "less likely" in fallen
    for change in (0.5, 0.0):
        assert "warning" not in displacement({"chosen_change": change, "rejected_change": -9.0})
    flags = [*phase_2(student_folder, instructed, tmp_path / "run"), "--preferences", preferences]
    assert command(train_dpo, *flags) == 0
    rows = lines(tmp_path / "run")
    last = [row for row in rows if "validation_loss" in row][-1]
    assert f"log π(y_w|x̂) changed by {last['validation_chosen_change']:+.3f}" in capsys.readouterr().out
    for row in (row for row in rows if "margin" in row):  # Eq. 2 of the means: β (change of y_w − change of y_l)
        assert row["margin"] == pytest.approx(0.1 * (row["chosen_change"] - row["rejected_change"]), abs=1e-4)


@pytest.mark.parametrize(
    ("losses", "best"),
    [([3.0, 1.0, 2.0], 2), ([math.nan, 5.0, math.nan], 2), ([1.0, 1.0, 0.5], 3), ([1.0, 1.0], 1), ([math.nan], None)],
)
def test_pitfall_p12_the_best_is_the_lowest_and_never_nan(losses, best):
    progress = Progress()
    for progress.step, loss in enumerate(losses, start=1):
        progress.improves(loss)
    assert progress.best_step == best


def test_pitfall_p12_the_adapter_at_the_root_is_the_one_of_the_lowest_loss(
    command, student_folder, demonstrations, tmp_path, monkeypatch
):
    """P12: with validation losses of 3, 1, 2 the root holds step 2's adapter, `last` step 3's."""
    original = Progress.improves
    monkeypatch.setattr(Progress, "improves", lambda self, _: original(self, [3.0, 1.0, 2.0][self.step - 1]))
    flags = [*phase_1(student_folder, demonstrations, tmp_path), "--output", tmp_path / "run", "--save-every", "1"]
    assert command(train_it, *flags, "--max-steps", "3", "--validation-fraction", "0.2") == 0
    for name, step in (("", 2), ("last", 3)):
        saved = load_file(tmp_path / "run" / name / "adapter_model.safetensors")
        state = load_file(tmp_path / f"run/checkpoints/step-{step:08d}/state.safetensors")
        assert all(torch.equal(tensor, state[key.removeprefix("base_model.model.")]) for key, tensor in saved.items())


def test_pitfall_p23_the_vocabulary_is_never_resized(command, student_folder, demonstrations, tmp_path):
    """P23: no token is added, nothing of the student's folder is touched, the adapter holds LoRA tensors only."""
    before = {path.name: path.read_bytes() for path in student_folder.iterdir()}
    flags = [*phase_1(student_folder, demonstrations, tmp_path / "run"), "--max-steps", "1"]
    assert command(train_it, *flags) == 0
    assert {path.name: path.read_bytes() for path in student_folder.iterdir()} == before
    assert all(".lora_" in name for name in load_file(tmp_path / "run/adapter_model.safetensors"))


def test_real_rows_and_the_real_llama_2_tokenizer(command, benchmarks, tokenizers, tmp_path, capsys):
    """GSM8K's human-written rationales as demonstrations, chat template and all: both phases, then evaluation."""
    import re
    import shutil

    import evaluate
    from selfrefine.records import Demonstration, write_records
    from selfrefine.tasks.prompts import instruction, task_input
    from selfrefine.tasks.splits import questions
    from tests.conftest import write_student

    folder = write_student(tmp_path / "llama", vocab_size=32000, max_position_embeddings=2048)
    for path in (tokenizers / "llama2").iterdir():
        shutil.copy(path, folder)
    answers = [
        json.loads(line)["answer"] for line in (benchmarks / "gsm8k/train.jsonl").read_text().split("\n") if line
    ]
    by_target = {answer.split("#### ")[1]: answer.split("#### ")[0] for answer in answers}
    rows = [
        Demonstration(
            instruction(q),
            task_input(q, cot=True),
            re.sub(r"<<.*?>>", "", by_target[q.target]) + f"The answer is {q.target}.",
            q.target,
            task=q.task,
            id=q.id,
        )
        for q in questions("gsm8k", "train", 0, benchmarks)
        if q.target in by_target
    ][:12]
    write_records(tmp_path / "demonstrations.jsonl", rows)
    common = ("--student", folder, "--batch-size", 6, "--epochs", 1, "--device", "cpu", "--lora-rank", 4)
    data = ("--demonstrations", tmp_path / "demonstrations.jsonl")
    assert command(train_it, *common, *data, "--output", tmp_path / "it", "--learning-rate", 1e-3) == 0
    assert "12 demonstrations, 12 kept" in capsys.readouterr().out
    assert json.loads((tmp_path / "it/selfrefine.json").read_text())["chat_template"] is True
    sampling = ("--max-new-tokens", 8, "--output", tmp_path / "sr")
    assert command(train_dpo, *common, *data, *sampling, "--adapter", tmp_path / "it") == 0
    first = next(row for row in lines(tmp_path / "sr") if row["step"] == 1)
    assert abs(first["loss"] - math.log(2)) < 5e-3
    asked = ("--tasks", "gsm8k", "multiarith", "--limit", 3, "--data", benchmarks, "--max-new-tokens", 8)
    flags = ("--student", folder, "--adapter", tmp_path / "sr", "--output", tmp_path / "e.json", "--device", "cpu")
    assert command(evaluate, *flags, *asked) == 0
    assert set(json.loads((tmp_path / "e.json").read_text())["results"]) == {"gsm8k", "multiarith"}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_phases_on_a_gpu(command, student_folder, demonstrations, tmp_path, dtype):
    """The same scripts on cuda: step 0 of phase 2 at ln 2, both losses fall."""
    machine = ("--device", "cuda", "--dtype", dtype)
    assert command(train_it, *phase_1(student_folder, demonstrations, tmp_path / "it"), *machine) == 0
    flags = [*phase_2(student_folder, tmp_path / "it", tmp_path / "sr"), "--demonstrations", demonstrations]
    assert command(train_dpo, *flags, *machine, "--max-new-tokens", 6) == 0
    losses = [row["loss"] for row in lines(tmp_path / "it")]
    assert losses[-1] < losses[0]
    losses = [row["loss"] for row in lines(tmp_path / "sr") if "loss" in row]
    assert abs(losses[0] - math.log(2)) < (1e-6 if dtype == "float32" else 5e-3) and losses[-1] < losses[0]
