"""Reading demonstrations and pairs: what is accepted survives a round trip, the rest is one sentence with its line."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfrefine.errors import UserError
from selfrefine.preferences import x, x_cot
from selfrefine.records import (
    Demonstration,
    Preference,
    is_standard,
    read_demonstrations,
    read_preferences,
    to_line,
    write_records,
)

GOOD = {"instruction": "i", "input": "q Let's think step by step", "output": "7", "target": "7", "task": "t", "id": "1"}
PAIR = {"prompt": "p", "chosen": "c", "rejected": "r", "id": "1"}


def write(path, *rows):
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_own_demonstrations_need_the_triple_and_a_target_only(tmp_path):
    (row,) = read_demonstrations([write(tmp_path / "own.jsonl", {k: GOOD[k] for k in list(GOOD)[:4]})])
    assert row == Demonstration("i", GOOD["input"], "7", "7", id="own.jsonl line 1")


def test_numbers_as_targets_and_ids_are_text(tmp_path):
    (row,) = read_demonstrations([write(tmp_path / "f", GOOD | {"target": 7, "id": 3, "extra": None})])
    assert (row.target, row.id) == ("7", "3")


def test_a_byte_order_mark_windows_lines_and_odd_separators(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n")
    assert len(read_demonstrations([path])) == 1
    odd = GOOD | {"output": "a\u2028b\u0085c\x0cd\re"}
    path.write_text(json.dumps(odd, ensure_ascii=False) + "\n", encoding="utf-8", newline="")
    assert read_demonstrations([path])[0].output == odd["output"]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (b'{"instruction": "i"', "line 2 is not JSON"),
        (b"[1]", "line 2 is not a JSON object"),
        (b"\xff\xfe", "line 2 is not UTF-8"),
        (b"[" * 100_000, "line 2 is not JSON"),
        ({**GOOD, "target": None}, "line 2 has no 'target'"),
        ({**GOOD, "output": 7}, "line 2: output must be text, not 7"),
        ({**GOOD, "target": " "}, "line 2: target is empty"),
        ({**GOOD, "target": True}, "line 2: target must be text"),
        ({**GOOD, "options": "ab"}, "line 2: options must be a list"),
        ({**GOOD, "correct": "yes"}, "line 2: correct must be true or false"),
        ({**GOOD, "id": "2", "output": "a\0b"}, "line 2: output has a NUL"),
        (b'{"instruction":"i","input":"q","output":"\\ud800","target":"7"}', "line 2: output has a NUL or half"),
        (GOOD, "line 2 repeats"),
        ({**GOOD, "output": "8"}, "line 2 has the id of"),
    ],
)
def test_a_bad_line_is_one_sentence(tmp_path, second, said):
    with pytest.raises(UserError, match=said) as error:
        read_demonstrations([write(tmp_path / "f.jsonl", GOOD, second)])
    assert "f.jsonl" in str(error.value) and "\n" not in str(error.value)


def test_a_json_array_is_read_as_rows(tmp_path):
    """Indented or not, with the row in the complaint and never an advice to remove a line."""
    path = tmp_path / "f.json"
    path.write_text(json.dumps([GOOD, GOOD | {"id": "2"}], indent=2))
    assert [row.id for row in read_demonstrations([path])] == ["1", "2"]
    path.write_text(json.dumps([PAIR]))
    assert read_preferences(path) == [Preference("p", "c", "r", id="1")]
    for content, said in (
        (json.dumps([GOOD, GOOD | {"target": " "}]), "row 2: target is empty"),
        (json.dumps([GOOD, 7]), "row 2 is not a JSON object"),
        ("[" + json.dumps(GOOD) + ",", "f.json is not JSON"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=said) as error:
            read_demonstrations([path])
        assert "remove the line" not in str(error.value)


def test_an_indented_object_is_a_row(tmp_path):
    path = tmp_path / "f.json"
    for indented in (json.dumps(GOOD, indent=2), "\ufeff" + json.dumps(GOOD, indent=2).replace("\n", "\r\n")):
        path.write_bytes(indented.encode())
        assert [row.id for row in read_demonstrations([path])] == ["1"]
    path.write_text(json.dumps({"data": [GOOD]}, indent=2))
    with pytest.raises(UserError, match="row 1 has no 'instruction'"):
        read_demonstrations([path])


@pytest.mark.parametrize(("name", "reader"), [("f.csv", "read_csv"), ("f.CSV", "read_csv"), ("f.xlsx", "read_excel")])
def test_a_table_is_named_with_its_conversion(tmp_path, name, reader):
    (tmp_path / name).write_text("instruction,input,output,target\n")
    with pytest.raises(UserError, match=rf"pandas\.{reader}\('.*/{name}'\)\.to_json\('.*/{name}\.jsonl'"):
        read_demonstrations([tmp_path / name])


@pytest.mark.parametrize("empty", [{"input": ""}, {"input": None}, {"input": " \n"}, {}])
def test_alpacas_questions_without_input_are_the_whole_prompt(tmp_path, empty):
    """x is the question, x̂ the question with the trigger, in one line."""
    row = {"instruction": "How many?", "output": "Two. The answer is 2.", "target": "2", **empty}
    (read,) = read_demonstrations([write(tmp_path / "f", row)])
    assert (x(read), x_cot(read)) == ("How many?", "How many? Let's think step by step")


CHAT = [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Two."}]
SHAREGPT = [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "Two."}]
PARTS = [{"type": "image", "text": None}, {"type": "text", "text": "How many?"}]
PARTS = [{"role": "user", "content": PARTS}, CHAT[1]]
TURNS = {"prompt": CHAT[:1], "completion": CHAT[1:]}  # TRL's, and as texts


@pytest.mark.parametrize(
    "chat",
    [
        {"messages": CHAT},
        {"conversations": SHAREGPT},
        {"messages": PARTS},
        TURNS,
        {"prompt": "How many?", "completion": "Two."},
    ],
    ids=["openai", "sharegpt", "parts", "turns", "texts"],
)
def test_chats_of_one_question_are_demonstrations(tmp_path, chat):
    (row,) = read_demonstrations([write(tmp_path / "f", chat | {"target": "2"})])
    assert (row.instruction, row.input, row.output) == ("", "How many?", "Two.")
    (kept,) = read_demonstrations([write(tmp_path / "f", chat | GOOD)])  # the triple is there
    assert (kept.input, kept.output) == (GOOD["input"], GOOD["output"])
    system = {"role": "system", "content": "Be brief."}
    for said in ({"messages": [system, *CHAT]}, {"messages": [system | {"role": "developer"}, *CHAT]}):
        assert read_demonstrations([write(tmp_path / "f", said | {"target": "2"})])[0].instruction == "Be brief."
    (row,) = read_demonstrations([write(tmp_path / "f", chat | {"system": "Be brief.", "target": "2"})])
    assert (row.instruction, row.input) == ("Be brief.", "How many?")
    with pytest.raises(UserError, match="line 1 has no 'target', the right answer"):
        read_demonstrations([write(tmp_path / "f", chat)])


@pytest.mark.parametrize(
    ("chat", "said"),
    [
        ([*CHAT, *CHAT], "line 1 is a chat of other turns than one user's and one assistant's"),
        (CHAT[:1], "other turns"),
        ([CHAT[1], CHAT[0]], "line 1 is a chat in which a text of the user should stand where 'assistant' does"),
        ([{"role": "user", "content": None}, CHAT[1]], "a text of the user"),
        (["How many?", "Two."], "a text of the user"),
        ({"role": "user"}, "no 'instruction'"),
    ],
)
def test_other_chats_are_one_sentence(tmp_path, chat, said):
    with pytest.raises(UserError, match=said):
        read_demonstrations([write(tmp_path / "f", {"messages": chat, "target": "2"})])


@pytest.mark.parametrize(
    "pair",
    [
        {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": [{"role": "assistant", "content": "3"}]},
        {"chosen": CHAT, "rejected": [CHAT[0], {"role": "assistant", "content": "3"}]},
        {"prompt": "How many?", "chosen": CHAT, "rejected": [CHAT[0], {"role": "assistant", "content": "3"}]},
        {"prompt": CHAT[:1], "chosen": "Two.", "rejected": "3"},
        {"chosen": CHAT, "rejected": "3"},
        {"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": {"from": "gpt", "value": "3"}},
    ],
    ids=["explicit", "implicit", "both", "half", "one side", "sharegpt"],
)
def test_conversational_pairs_are_pairs(tmp_path, pair):
    (row,) = read_preferences(write(tmp_path / "f", pair))
    assert (row.prompt, row.chosen, row.rejected) == ("How many?", "Two.", "3")


def test_what_the_system_says_in_the_sides_is_of_the_prompt(tmp_path):
    sides = {"chosen": [{"role": "system", "content": "Be brief."}, *CHAT], "rejected": "3"}
    for asked in ({}, {"prompt": "How many?"}, {"prompt": CHAT[:1]}, {"prompt": sides["chosen"][:2]}):
        (row,) = read_preferences(write(tmp_path / "f", asked | sides))
        assert row.prompt == "Be brief.\nHow many?"


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ({"chosen": CHAT, "rejected": [{"role": "user", "content": "Why?"}, CHAT[1]]}, "answer different prompts"),
        ({"prompt": "Why?", "chosen": CHAT, "rejected": CHAT}, "answer different prompts"),
        ({"prompt": CHAT[:1], "chosen": 5, "rejected": "3"}, "a text of the assistant"),
        ({"chosen": [*CHAT, *CHAT], "rejected": [*CHAT, *CHAT]}, "other turns"),
        (
            {"prompt": "p", "chosen": CHAT[:1], "rejected": CHAT[:1]},
            "a text of the assistant should stand where 'user'",
        ),
        ({"prompt": "p", "chosen": [], "rejected": []}, "a text of the assistant"),
    ],
)
def test_other_conversational_pairs_are_one_sentence(tmp_path, pair, said):
    with pytest.raises(UserError, match=said):
        read_preferences(write(tmp_path / "f", pair))


def test_pairs_of_one_prompt_may_share_its_id_and_no_others(tmp_path):
    others = [PAIR | {"rejected": "s"}, PAIR | {"sample": 1}]
    assert len(read_preferences(write(tmp_path / "f", PAIR, *others))) == 3
    with pytest.raises(UserError, match=r"line 3 repeats .* line 2 \('1'\)"):
        read_preferences(write(tmp_path / "f", PAIR, others[0], others[0]))
    with pytest.raises(UserError, match=r"line 3 has the id of .* line 1 \('1'\)"):
        read_preferences(write(tmp_path / "f", PAIR, others[0], PAIR | {"prompt": "q"}))


@pytest.mark.parametrize("ids", ["12", [1.5], [-1], [True]])
def test_token_ids_are_ids(tmp_path, ids):
    with pytest.raises(UserError, match="chosen_ids must be a list of token ids"):
        read_preferences(write(tmp_path / "f", PAIR | {"chosen_ids": ids}))


def test_the_same_question_at_x_and_at_x_hat_and_by_two_teachers_is_no_repetition(tmp_path):
    rows = [GOOD, GOOD | {"input": "q"}, GOOD | {"teacher": "other"}]
    assert [is_standard(row) for row in read_demonstrations([write(tmp_path / "f", *rows)])] == [False, True, False]


def test_rows_without_ids_of_files_of_one_name_are_not_taken_for_each_other(tmp_path):
    own = {name: GOOD[name] for name in ("instruction", "input", "output", "target")}
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "own.jsonl", own, own | {"target": folder})
    with pytest.raises(UserError, match="give them ids of their own"):
        read_demonstrations([tmp_path / "a/own.jsonl", tmp_path / "b/own.jsonl"])
    with pytest.raises(UserError, match="repeats"):
        read_demonstrations([tmp_path / "a/own.jsonl", tmp_path / "a/own.jsonl"])


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_rows_is_one_sentence(tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(UserError, match="no rows"):
        read_demonstrations([tmp_path / "f"])


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_demonstrations([tmp_path / "nowhere"])


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
NAMED = TEXT.filter(str.strip)
DEMONSTRATIONS = st.builds(
    Demonstration,
    instruction=NAMED,
    input=NAMED,
    output=TEXT,
    target=NAMED,
    task=TEXT,
    id=NAMED,
    teacher=TEXT,
    question=TEXT,
    options=st.lists(TEXT, max_size=5).map(tuple),
    read=st.none() | NAMED,
    correct=st.none() | st.booleans(),
    ended=st.booleans(),
)
IDS = st.none() | st.lists(st.integers(0, 2**31), max_size=9).map(tuple)
PREFERENCES = st.builds(
    Preference,
    prompt=NAMED,
    chosen=TEXT,
    rejected=TEXT,
    id=NAMED,
    target=TEXT,
    chosen_from=st.sampled_from(["student", "teacher"]),
    chosen_ids=IDS,
    rejected_ids=IDS,
    chosen_ended=st.booleans(),
    rejected_ended=st.booleans(),
)


def check_round_trip(path, records, read):
    """What is written is read back as it was."""
    write_records(path, records)
    assert read(path) == records


def check_reading(path, line):
    """Whatever a line holds: rows that can be written again as they are, or a sentence; never a traceback."""
    path.write_bytes(line + b"\n")
    for read in (lambda: read_demonstrations([path]), lambda: read_preferences(path)):
        try:
            records = read()
        except UserError as error:
            assert str(error) and "\n" not in str(error)
        else:
            assert all(json.loads(to_line(record)) for record in records)


SOME_DEMONSTRATIONS = st.lists(
    DEMONSTRATIONS, min_size=1, max_size=4, unique_by=lambda r: (r.task, r.id, r.teacher, is_standard(r))
)
SOME_PREFERENCES = st.lists(PREFERENCES, min_size=1, max_size=4, unique_by=lambda r: (r.task, r.id))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
LINES = st.binary(max_size=200) | st.dictionaries(
    st.sampled_from([*GOOD, *PAIR, "options", "chosen_ids", "messages", "conversations"]), JSON
).map(lambda row: json.dumps(row).encode())
AMOUNTS = [pytest.param(200, id="some"), pytest.param(10_000, id="many", marks=pytest.mark.long)]


@pytest.mark.parametrize("amount", AMOUNTS)
def test_demonstrations_survive_a_round_trip(tmp_path, amount):
    @settings(max_examples=amount, deadline=None)
    @given(SOME_DEMONSTRATIONS)
    def check(records):
        check_round_trip(tmp_path / "f", records, lambda path: read_demonstrations([path]))

    check()


@pytest.mark.parametrize("amount", AMOUNTS)
def test_preferences_survive_a_round_trip(tmp_path, amount):
    @settings(max_examples=amount, deadline=None)
    @given(SOME_PREFERENCES)
    def check(records):
        check_round_trip(tmp_path / "f", records, read_preferences)

    check()


@pytest.mark.parametrize("amount", AMOUNTS)
def test_anything_else_is_one_sentence(tmp_path, amount):
    @settings(max_examples=amount, deadline=None)
    @given(LINES)
    def check(line):
        check_reading(tmp_path / "f", line)

    check()
