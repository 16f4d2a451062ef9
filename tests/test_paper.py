"""The published tables, cell by cell against the paper's text where it is at hand."""

import re

import pytest

from selfrefine import paper
from tests.conftest import DATA

ACCURACY = re.compile(r"(\d\d\.\d) ?((?:±\.?\d?)*)")


@pytest.fixture(scope="module")
def text() -> str:
    path = DATA.parent / "paper.txt"
    if not path.is_file():
        pytest.skip(f"no {path}: the text of arXiv 2405.00402, pages in order, as a PDF reader extracts it")
    return path.read_text(encoding="utf-8")


def printed(text: str) -> list[str]:
    """The accuracies of a passage as printed, and "-" for each empty cell; glued cells ("67.3±.584.6±.3") parted."""
    found = re.finditer(ACCURACY.pattern + r"|(?<=\s)-(?!\S)", text)
    return [match[1] + match[2] if match[1] else "-" for match in found]


@pytest.mark.parametrize(
    ("table", "title"), [(paper.TABLE_1, "Table 1"), (paper.TABLE_10, "Table 10"), (paper.TABLE_11, "Table 11")]
)
def test_tables_1_10_and_11(text, table, title):
    end = text.index(f"{title}: Evaluation")
    body = text[text.rindex("Trained on Teacher", 0, end) : end].split("MultiArith", 1)[1]
    baselines, trained = body.split("OBQAInstruction-tuning", 1)
    lines = [line for line in (baselines + "OBQAInstruction-tuning" + trained).split("\n") if line.strip()]
    assert len(lines) == len(table) == 20
    for line, ((trained_on, method), cells) in zip(lines, table.items(), strict=True):
        values = printed(line)
        if not trained_on:  # the teacher's column of a baseline is "-"
            assert line.startswith(method + " - ")
            values = values[1:]
        assert [cell.printed if cell else "-" for cell in cells.values()] == values
        assert method.lower() in line.lower()
        if method == paper.INSTRUCTED:
            assert line.startswith(paper.TITLES[trained_on])


def test_table_5(text):
    body = text[text.index("Benchmarks Llama-2-70 GPT-3.5 Mixtral7x8") : text.index("Table 5: Accuracy")]
    names = {"OpenBook": "obqa", "CommonSesnse": "csqa", "Social": "siqa", "Physical": "piqa", "GSM8K": "gsm8k"}
    names["MultiArith"] = "multiarith"
    for split, part in zip(("train", "test"), body.split("Training\n")[1].split("Testing\n"), strict=True):
        for line in filter(str.strip, part.split("\n")):
            ours = paper.TABLE_5[split, names[line.split()[0]]]
            columns = [(teacher, prompt) for teacher in paper.TEACHERS for prompt in ("standard", "cot")]
            assert [ours[column].printed for column in columns] == printed(line)
    assert len(paper.TABLE_5) == 12


def test_the_gaps_of_4_1(text):
    """In the order of the text: in-family QA and MWP, out-family QA and MWP."""
    passage = " ".join(text[text.index("In the in-family, where students") :].split())
    said = re.match(
        r".*?from (\d\.\d) points on average in question-answering \(QA\) tasks and (\d\.\d) points on average in math "
        r"word problems \(MWP\) tasks\. Meanwhile, in the out- ?family alignment, the performances vary by (\d\.\d) on "
        r"the QA and (\d\.\d) on the MWP",
        passage,
    )
    assert [float(gap) for gap in said.groups()] == [gap for of in paper.GAPS.values() for gap in of.values()]
    assert list(paper.GAPS) == ["in-family", "out-family"] and all(
        list(of) == ["QA", "MWP"] for of in paper.GAPS.values()
    )
    assert sorted(sum(paper.KINDS.values(), ())) == sorted(paper.TASKS)


def test_table_8(text):
    body = text[text.index("OBQA CSQA PIQA SIQA GSM8K MultiArith\nclasses") : text.index("Table 8:")]
    classes, train, test = (
        re.search(pattern, body)[1].replace("∗", " ").split()
        for pattern in (r"classes (.*)", r"Training\n# examples for (.*)", r"Test\n# examples for (.*)")
    )
    splits = [paper.TABLE_8[task] for task in paper.TASKS]
    assert [str(split["classes"] or "-") for split in splits] == classes
    assert [str(split["train"]) for split in splits] == train
    assert [str(split["test"]) for split in splits] == test


def test_tables_13_and_14(text):
    body = text[text.index("Model Llama2-70b Mixtral8x7b GPT-3.5") : text.index("Table 13:")]
    for line in body.strip().split("\n")[1:]:
        row, *values = re.fullmatch(r"(\D+?) ([\d.]+) ([\d.]+) ([\d.]+)", line).groups()
        teachers = ("llama-2-70b", "mixtral-8x7b", "gpt-3.5")
        assert [paper.TABLE_13["", row][teacher].printed for teacher in teachers] == values
    body = text[text.index("Model Llama2-7b Llama2-13b Mistral-7b") : text.index("Table 14:")]
    lines = body.strip().split("\n")[1:]
    assert len(lines) == len(paper.TABLE_14)
    for line, ((family, row), cells) in zip(lines, paper.TABLE_14.items(), strict=True):
        assert [cell.printed for cell in cells.values()] == line.split()[-3:]
        assert row.removeprefix("+ ").split()[0] in line
        assert family == "" or row != paper.INSTRUCTED or line.startswith(family)


def test_what_is_broken_in_print_has_no_deviation():
    tables = (paper.TABLE_1, paper.TABLE_10, paper.TABLE_11, paper.TABLE_5)
    cells = [cell for table in tables for row in table.values() for cell in row.values() if cell]
    broken = [cell for cell in cells if cell.broken]
    assert [cell.printed for cell in broken] == ["65.2±.", "85.8±.2±.3", "66.9", "97.4±3"]
    assert [cell.mean for cell in broken] == [65.2, 85.8, 66.9, 97.4]
    assert all(re.fullmatch(r"\d\d\.\d±\.\d", cell.printed) for cell in cells if not cell.broken)
    assert paper.cell("53.6±.2") == paper.Published(53.6, 0.2, "53.6±.2")


def test_cross_self_refine_has_an_empty_diagonal_and_nothing_else_is_empty():
    for table in (paper.TABLE_1, paper.TABLE_10, paper.TABLE_11):
        empty = {(row, task) for row, cells in table.items() for task, cell in cells.items() if cell is None}
        assert empty == {((task, paper.CROSS), task) for task in paper.TASKS}
