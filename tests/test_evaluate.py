"""evaluate.py whole: what it keeps, mean ± std over seeds, resuming, probing, and following the adapter (P25)."""

import itertools
import json

import pytest
import torch

import evaluate
from selfrefine.files import lock
from selfrefine.probe import likeliest_letters
from selfrefine.scores import cell, prediction, score, table
from selfrefine.tasks.questions import Question
from selfrefine.teachers import local
from tests.conftest import write_student

SUMS = [{"question": f"What is {a} + 2?", "target": str(a + 2), "id": str(a)} for a in range(5)]
CHOICES = [{"question": "Which is red?", "options": ["a rose", "the sky", "snow"], "target": "A", "id": "r"}]


@pytest.fixture
def questions(tmp_path):
    def write(rows):
        path = tmp_path / "own.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


def flags(student_folder, questions, output, *more):
    return ["--student", student_folder, "--questions", questions, "--output", output, "--device", "cpu", "--dtype",
            "float32", "--max-new-tokens", 8, "--temperature", "1", *more]  # fmt: skip


def test_every_prediction_is_kept_and_scored(command, student_folder, questions, tmp_path, capsys):
    output = tmp_path / "e.json"
    assert command(evaluate, *flags(student_folder, questions(SUMS), output, "--seeds", 0, 1, 2)) == 0
    rows = [json.loads(line) for line in output.with_suffix(".predictions.jsonl").read_text().split("\n") if line]
    assert len(rows) == 5 * 2 * 3
    assert {"task", "id", "prompt", "seed", "target", "text", "read", "rule", "correct", "substring"} <= set(rows[0])
    saved = json.loads(output.read_text())
    (result,) = saved["results"].values()
    assert set(result) == {"standard", "cot"}
    assert {"mean", "std", "runs", "parsed", "substring_mean"} <= set(result["cot"]) and len(result["cot"]["runs"]) == 3
    assert saved["table"] in capsys.readouterr().out


def test_what_is_drawn_from_is_applied_said_and_noted(command, student_folder, questions, tmp_path, capsys):
    """top-k 1 at any temperature is greedy; what was drawn before without a cut goes on without one only."""
    own, texts = questions(SUMS), {}
    for name, more in (("greedy", ("--temperature", 0)), ("k", ("--top-k", 1)), ("p", ("--top-p", 1e-6))):
        assert command(evaluate, *flags(student_folder, own, tmp_path / f"{name}.json", *more)) == 0
        rows = (tmp_path / f"{name}.predictions.jsonl").read_text().split("\n")
        texts[name] = [json.loads(line)["text"] for line in rows if line]
    assert texts["greedy"] == texts["k"] == texts["p"]
    said = capsys.readouterr().out
    assert "temperature 1, top-k 1, top-p off" in said and "the likeliest token each time" in said
    assert json.loads((tmp_path / "k.json").read_text())["settings"]["top_k"] == 1
    output = tmp_path / "before.json"
    assert command(evaluate, *flags(student_folder, own, output, "--top-k", 0, "--top-p", 1)) == 0
    saved = json.loads(output.read_text())
    for name in ("top_k", "top_p"):
        assert saved["settings"].pop(name) is None
    output.write_text(json.dumps(saved))
    assert command(evaluate, *flags(student_folder, own, output)) == 2
    assert "top_k was None, is 50" in capsys.readouterr().err
    assert command(evaluate, *flags(student_folder, own, output, "--top-k", 0, "--top-p", 1)) == 0


def test_stopped_and_started_again_asks_only_what_is_missing(command, student_folder, questions, tmp_path, capsys):
    straight, stopped = tmp_path / "a.json", tmp_path / "b.json"
    own = questions(SUMS)
    for output in (straight, stopped):
        assert command(evaluate, *flags(student_folder, own, output, "--batch-size", 4)) == 0
    kept = stopped.with_suffix(".predictions.jsonl")
    lines = kept.read_text().split("\n")
    kept.write_text("\n".join(lines[3:7]) + '\n{"task": "torn')
    assert command(evaluate, *flags(student_folder, own, stopped, "--batch-size", 5)) == 0  # may be lowered
    assert "4 answers are in" in capsys.readouterr().out
    assert kept.read_bytes() == straight.with_suffix(".predictions.jsonl").read_bytes()
    assert json.loads(stopped.read_text())["results"] == json.loads(straight.read_text())["results"]
    assert command(evaluate, *flags(student_folder, own, stopped, "--seeds", 7)) == 2
    assert "seeds was [0], is [7]" in capsys.readouterr().err


def test_a_first_start_that_is_stopped_notes_its_settings(
    command, student_folder, questions, tmp_path, monkeypatch, capsys
):
    """After two of its answers: other settings are refused, the same go on to what a straight run gives."""
    own, straight, output = questions(SUMS), tmp_path / "a.json", tmp_path / "b.json"
    assert command(evaluate, *flags(student_folder, own, straight)) == 0

    def stopped(*given, **flags):
        yield from itertools.islice(original(*given, **flags), 2)
        raise KeyboardInterrupt

    original = local.sample
    with monkeypatch.context() as patched:
        patched.setattr(local, "sample", stopped)
        assert command(evaluate, *flags(student_folder, own, output)) == 130
    noted = json.loads(output.read_text())
    assert noted["results"] == {} and noted["settings"]["seeds"] == [0]
    assert command(evaluate, *flags(student_folder, own, output, "--seeds", 7)) == 2
    assert "seeds was [0], is [7]" in capsys.readouterr().err
    assert command(evaluate, *flags(student_folder, own, output)) == 0
    assert "2 answers are in" in capsys.readouterr().out
    one, other = (path.with_suffix(".predictions.jsonl").read_bytes() for path in (straight, output))
    assert one == other and json.loads(output.read_text())["results"] == json.loads(straight.read_text())["results"]


def test_what_is_in_the_output_is_not_emptied(command, student_folder, questions, tmp_path, monkeypatch, capsys):
    """Finished results started again and stopped while loading; and a file that is not of an evaluation."""
    output, own = tmp_path / "e.json", questions(SUMS)
    assert command(evaluate, *flags(student_folder, own, output)) == 0
    before = json.loads(output.read_text())["results"]
    with monkeypatch.context() as stopped:
        stopped.setattr("selfrefine.teachers.local.load_student", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert command(evaluate, *flags(student_folder, own, output)) == 130
    assert before and json.loads(output.read_text())["results"] == before
    (tmp_path / "mine.json").write_text('{"my": "file"}')
    assert command(evaluate, *flags(student_folder, own, tmp_path / "mine.json")) == 2
    assert "choose another --output" in capsys.readouterr().err
    assert (tmp_path / "mine.json").read_text() == '{"my": "file"}'


def test_an_output_in_use_is_refused(command, student_folder, questions, tmp_path, capsys):
    held = lock(tmp_path / "e.predictions.jsonl")
    assert command(evaluate, *flags(student_folder, questions(SUMS), tmp_path / "e.json")) == 2
    assert "another process is writing there" in capsys.readouterr().err
    held.release()


def test_predictions_can_be_read_as_they_stand(command, student_folder, questions, tmp_path):
    """Letters of all languages are in the file themselves."""
    own = questions([{"question": "Où est la Tour Eiffel ?", "target": "à Paris", "id": "é"}])
    assert command(evaluate, *flags(student_folder, own, tmp_path / "e.json")) == 0
    assert '"target": "à Paris"' in (tmp_path / "e.predictions.jsonl").read_text(encoding="utf-8")


def test_an_evaluation_that_answered_nothing_does_not_block_its_output(command, student_folder, questions, tmp_path):
    output = tmp_path / "e.json"
    long = questions([{"question": "long " * 200, "target": "1"}])
    assert command(evaluate, *flags(student_folder, long, output)) == 2
    assert command(evaluate, *flags(student_folder, questions(SUMS), output, "--seeds", 7)) == 0
    (tmp_path / "empty.json").touch()
    assert command(evaluate, *flags(student_folder, questions(SUMS), tmp_path / "empty.json")) == 0


def test_a_question_that_changed_is_not_given_its_old_answer(command, student_folder, questions, tmp_path, capsys):
    assert command(evaluate, *flags(student_folder, questions(SUMS), tmp_path / "e.json")) == 0
    changed = questions([SUMS[0] | {"target": "99"}, *SUMS[1:]])
    assert command(evaluate, *flags(student_folder, changed, tmp_path / "e.json")) == 2
    assert "another question than 0 is now" in capsys.readouterr().err
    assert command(evaluate, *flags(student_folder, questions(SUMS[1:]), tmp_path / "e.json")) == 0


def test_pitfall_p25_the_same_seed_twice_is_the_same_file(command, student_folder, questions, tmp_path):
    own, texts = questions(SUMS), []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert command(evaluate, *flags(student_folder, own, tmp_path / f"{name}.json", "--seeds", seed)) == 0
        rows = (tmp_path / f"{name}.predictions.jsonl").read_text().split("\n")
        texts.append([json.loads(row)["text"] for row in rows if row])
    assert texts[0] == texts[1] != texts[2]


def test_probing_takes_the_likeliest_letter(command, student_folder, tokenizer, student, questions, tmp_path):
    """By full logits: argmax over the options of log π(letter | prompt), one token each for this tokenizer."""
    output = tmp_path / "e.json"
    probe = ("--method", "probe", "--seeds", 0, 1)  # which draws nothing: once is enough
    assert command(evaluate, *flags(student_folder, questions(CHOICES), output, *probe)) == 0
    rows = [json.loads(line) for line in output.with_suffix(".predictions.jsonl").read_text().split("\n") if line]
    assert len(rows) == 2 and all(row["read"] in "ABC" for row in rows)
    prompts = [tokenizer(text).input_ids for text in ("Choices:\nAnswer:", "x")]
    for index, letter in likeliest_letters(student, tokenizer, prompts, [3, 2], ()):
        with torch.no_grad():
            logits = student(input_ids=torch.tensor([prompts[index]])).logits[0, -1]
        letters = "ABC"[: [3, 2][index]]
        assert letter == max(letters, key=lambda x: logits[tokenizer(x, add_special_tokens=False).input_ids[0]].item())


def test_probing_reads_whole_batches(student, tokenizer, monkeypatch):
    """Five prompts two by two, longest first: a batch that is all done is left out, one done in part read as it was."""
    monkeypatch.setattr("selfrefine.probe.READ", 2)
    prompts = [[1, *range(5, 6 + n)] for n in (3, 1, 9, 4, 2)]
    straight = dict(likeliest_letters(student, tokenizer, prompts, [3, 2, 4, 2, 3], ()))
    resumed = dict(likeliest_letters(student, tokenizer, prompts, [3, 2, 4, 2, 3], {0, 2, 3}))
    assert [*straight] == [2, 3, 0, 4, 1] and [*resumed] == [0, 4, 1]
    assert resumed == {index: straight[index] for index in resumed}


def test_probing_a_head_with_a_bias_is_refused(command, questions, tmp_path, capsys):
    folder = write_student(tmp_path / "model", "phi", pad_token_id=0)
    assert command(evaluate, *flags(folder, questions(CHOICES), tmp_path / "e.json", "--method", "probe")) == 2
    assert "has a bias" in capsys.readouterr().err


def test_probing_needs_options(command, student_folder, questions, tmp_path, capsys):
    assert command(evaluate, *flags(student_folder, questions(SUMS), tmp_path / "e.json", "--method", "probe")) == 2
    assert "--method generate" in capsys.readouterr().err


@pytest.mark.parametrize(("family", "code"), [("gpt2", 0), ("gemma2", 2)])
def test_baselines_of_other_families_are_evaluated_unquantised(command, questions, tmp_path, capsys, family, code):
    """GPT-2 is sampled as transformers loads it; Gemma 2 caps its logits, which sampling here would not: refused."""
    shapes = {"gpt2": {"n_embd": 128, "n_layer": 2, "n_head": 4}, "gemma2": {"head_dim": 32}}
    folder = write_student(tmp_path / "model", family, **shapes[family])
    assert command(evaluate, *flags(folder, questions(SUMS), tmp_path / "e.json")) == code
    said = capsys.readouterr()
    assert "gpt2 model is evaluated in torch.float32" in said.out if code == 0 else "serve it" in said.err


@pytest.mark.parametrize("method", ["generate", "probe"])
def test_a_prompt_beyond_the_context_is_one_sentence(command, student_folder, questions, tmp_path, capsys, method):
    own = questions([{"question": "long " * 200, "target": "A", "options": ["a", "b"], "id": "x"}])
    assert command(evaluate, *flags(student_folder, own, tmp_path / "e.json", "--method", method)) == 2
    assert "question x has" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--output", "."], "names no file"),
        (["--output", ""], "names no file"),
        (["--device", "cpu:5"], "--device cpu:5"),
        (["--max-new-tokens", "9" * 20], "--max-new-tokens"),
        (["--student", "x" * 300], "x" * 300),
    ],
)
def test_bad_flags_are_one_sentence(command, student_folder, questions, tmp_path, capsys, change, said):
    assert command(evaluate, *flags(student_folder, questions(SUMS), tmp_path / "e.json", *change)) in (1, 2)
    error = capsys.readouterr().err.strip()
    assert said in error and "Traceback" not in error and "\n" not in error


@pytest.mark.parametrize(
    "line",
    ['{"x": 1}', '{"task": ["q"], "id": "0", "prompt": "cot", "seed": 0}', '{"task": "a", "id": "0", "correct": true}'],
)
def test_predictions_that_are_none_are_one_sentence(command, student_folder, questions, tmp_path, capsys, line):
    assert command(evaluate, *flags(student_folder, questions(SUMS), tmp_path / "e.json")) == 0
    (tmp_path / "e.predictions.jsonl").write_text(line + "\n")
    assert command(evaluate, *flags(student_folder, questions(SUMS), tmp_path / "e.json")) == 2
    assert "line 1 was not written by evaluate.py" in capsys.readouterr().err


def test_outputs_that_differ_behind_a_dot_are_different_files(command, student_folder, questions, tmp_path):
    own = questions(SUMS[:1])
    for name in ("lr1e-4.b0.1", "lr1e-4.b0.5.json"):
        assert command(evaluate, *flags(student_folder, own, tmp_path / name)) == 0
    expected = {f"lr1e-4.b0.{n}{kind}" for n in (1, 5) for kind in (".json", ".predictions.jsonl")}
    assert expected == {path.name for path in tmp_path.glob("lr*")}


def test_an_adapter_in_the_current_folder_has_its_name(
    command, student_folder, instructed, questions, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(instructed)
    assert command(evaluate, *flags(student_folder, questions(SUMS[:1]), tmp_path / "e.json", "--adapter", ".")) == 0
    said = capsys.readouterr().out
    assert f"| {instructed.name}, x |" in said and "Baseline" not in said


def answered(correct: list[bool], seed: int) -> list[dict]:
    question = Question("sums", "q", "1+1?", "2")
    return [prediction(question, "cot", seed, "The answer is 2." if c else "Who knows?", True) for c in correct]


def test_scores_by_hand():
    """Seeds of 50 % and 100 % of two answers: mean 75, sample std √1250 = 35.36, 3 of 4 answers parsed."""
    rows = [*answered([True, False], 0), *answered([True, True], 1)]
    result = score(rows)["sums"]["cot"]
    assert result["runs"] == [50.0, 100.0] and result["mean"] == 75.0 and result["parsed"] == 75.0
    assert result["std"] == pytest.approx(35.3553, abs=1e-4)
    assert result["substring_mean"] == 75.0
    assert result["item_stderr"] == pytest.approx((75 * 25 / 2) ** 0.5)


def test_the_share_of_cut_answers_stands_below_the_accuracy():
    """One of four answers at x̂ was cut, none at x: a line for x̂ alone."""
    question = Question("sums", "q", "1+1?", "2")
    rows = [prediction(question, "cot", 0, "The answer is 2.", ended) for ended in (True, True, False, True)]
    results = score([*rows, prediction(question, "standard", 0, "2", True)])
    assert results["sums"]["cot"]["cut"] == 25.0
    assert table(results, None).split("\n")[3:] == [
        "| Baseline CoT | 100.0 |",
        "| Baseline CoT: cut at --max-new-tokens (%) | 25.0 |",
    ]


def test_a_single_run_prints_no_spread():
    results = score(answered([True], 0))
    assert results["sums"]["cot"]["std"] is None
    assert table(results, None) == "| accuracy (%) | sums |\n|---|---|\n| Baseline CoT | 100.0 |"
    assert cell(75.0, 35.36) == "75.0 ± 35.4"
