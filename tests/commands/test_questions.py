"""The question bank: each format holds every question with its one right answer and all hints, and can be read back."""

import json
import re
import zipfile
from xml.etree import ElementTree as ET

import pytest

from prefcourse import checks
from prefcourse.__main__ import main
from prefcourse.commands import question_bank

NAMES = {"q": question_bank.QTI, "p": question_bank.PACKAGE}


@pytest.fixture(scope="module")
def bank():
    return question_bank.questions()


def written(tmp_path, form, *more):
    path = tmp_path / "bank"
    assert main(["questions", "--format", form, "--output", str(path), *more]) == 0
    return path


def test_every_question_has_one_right_answer_and_a_hint_to_each_other(bank):
    choices = [c for n in checks.NUMBERS for c in checks.of_notebook(n).values() if isinstance(c, checks.Choice)]
    assert len(bank) == len(choices) - len(question_bank.WITH_A_FIGURE) >= 14
    for row in bank:
        assert sum(option["right"] for option in row["options"]) == 1 and len(row["options"]) >= 3
        assert row["question"].endswith(("?", "…")) and row["points"] >= 1
        assert all(len(option["feedback"]) > 10 for option in row["options"])


def test_json(bank, tmp_path, capsys):
    path = written(tmp_path, "json")
    assert json.loads(path.read_text(encoding="utf-8")) == bank
    assert f"{len(bank)} questions in {path}" in capsys.readouterr().out


def parsed(text):
    """A reader of GIFT, as Moodle documents it: category lines, then ::name::question {answers}."""
    found, plain = [], re.compile(r"\\([~=#{}:\\])")
    for part in text.strip().split("\n\n"):
        if part.startswith("$CATEGORY: "):
            continue
        name, question, answers = re.fullmatch(
            r"::((?:\\.|[^:\\])*)::((?:\\.|[^{\\])*) \{\n(.*)\n\}", part, re.S
        ).groups()
        options = []
        for line in answers.split("\n"):
            mark, option, feedback = re.fullmatch(r"\t([=~])((?:\\.|[^#\\])*)#((?:\\.|[^#\\])*)", line).groups()
            options.append(
                {"text": plain.sub(r"\1", option), "right": mark == "=", "feedback": plain.sub(r"\1", feedback)}
            )
        found.append((name, plain.sub(r"\1", question), options))
    return found


def test_gift_is_read_back_with_all_its_signs(bank, tmp_path):
    found = parsed(written(tmp_path, "gift").read_text(encoding="utf-8"))
    assert found == [(f"{row['notebook']} {row['name']}", row["question"], row["options"]) for row in bank]
    strange = [{"notebook": "00", "name": "x", "points": 1, "question": "a = {b} ~ c: #1?", "options": [
        {"text": "~=#{}:", "right": True, "feedback": "back\\slash"}, {"text": "no", "right": False, "feedback": "a:b"},
    ]}]  # fmt: skip
    assert parsed(question_bank.as_gift(strange).decode()) == [("00 x", strange[0]["question"], strange[0]["options"])]


def test_qti_is_a_package_whose_right_answers_score(bank, tmp_path):
    with zipfile.ZipFile(written(tmp_path, "qti")) as package:
        manifest, items = (ET.fromstring(package.read(name)) for name in ("imsmanifest.xml", "questions.xml"))
    assert manifest.find(".//p:file", NAMES).get("href") == "questions.xml"
    assert manifest.find(".//p:resource", NAMES).get("type") == "imsqti_xmlv1p2"
    found = items.findall(".//q:item", NAMES)
    assert [item.get("ident") for item in found] == [f"{row['notebook']}-{row['name']}" for row in bank]
    for item, row in zip(found, bank, strict=True):
        texts = [t.text for t in item.findall("q:presentation//q:mattext", NAMES)]
        assert texts == [row["question"], *(option["text"] for option in row["options"])]
        labels = [label.get("ident") for label in item.findall(".//q:response_label", NAMES)]
        scoring = [c for c in item.findall(".//q:respcondition", NAMES) if c.find("q:setvar", NAMES) is not None]
        (right,) = (c.find(".//q:varequal", NAMES).text for c in scoring)
        assert row["options"][labels.index(right)]["right"]
        assert [f.text for f in item.findall("q:itemfeedback//q:mattext", NAMES)] == [
            option["feedback"] for option in row["options"]
        ]
        shown = {c.get("linkrefid") for c in item.findall(".//q:displayfeedback", NAMES)}
        assert shown == {f.get("ident") for f in item.findall("q:itemfeedback", NAMES)}
    assert question_bank.as_qti(bank) == question_bank.as_qti(bank)  # the same bytes


def test_one_notebook_and_wrong_words(tmp_path, capsys):
    path = written(tmp_path, "json", "--notebook", "06", "--notebook", "07")
    assert {row["notebook"] for row in json.loads(path.read_text(encoding="utf-8"))} == {"06", "07"}
    for more, message in (
        (["--format", "csv"], "must be one of gift, qti, json"),
        (["--notebook", "6"], "no checks for"),
    ):
        assert main(["questions", "--output", str(tmp_path / "x"), *more]) == 2
        assert message in capsys.readouterr().err
