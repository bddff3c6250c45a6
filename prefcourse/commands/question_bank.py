"""The questions with options as a bank for a learning platform: GIFT (Moodle), QTI 1.2 (Canvas and others), or JSON.

    write("questions.gift", questions())

Each wrong option keeps its hint, which the platform shows as feedback. The options stand in the order of the source;
let the platform shuffle them.
"""

import json
import re
import zipfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree as ET

from prefcourse import checks

QTI = "http://www.imsglobal.org/xsd/ims_qtiasiv1p2"
PACKAGE = "http://www.imsglobal.org/xsd/imscp_v1p1"
RIGHT = "This is right."
WITH_A_FIGURE = {"three_logs"}  # is about a figure of its notebook, and cannot be asked without


def questions(notebooks: Sequence[str] = ()) -> list[dict]:
    """The questions of the exercise notebooks, all by default: notebook, name, points, question, options.

    Left out are those about a figure.

    An option has text, right, and feedback. Raises ValueError for a notebook that there is not.
    """
    return [
        {
            "notebook": number,
            "name": check.name,
            "points": check.points,
            "question": " ".join((check.reference.__doc__ or "").split()),
            "options": [
                {"text": text, "right": hint is None, "feedback": RIGHT if hint is None else hint}
                for text, hint in check.options.items()
            ],
        }
        for number in notebooks or checks.NUMBERS
        for check in checks.of_notebook(number).values()
        if isinstance(check, checks.Choice) and check.name not in WITH_A_FIGURE
    ]


def as_json(bank: Sequence[dict]) -> bytes:
    """The bank as a JSON list."""
    return (json.dumps(list(bank), ensure_ascii=False, indent=1) + "\n").encode()


def as_gift(bank: Sequence[dict]) -> bytes:
    """The bank in Moodle's GIFT, a category for each notebook."""
    parts, category = [], None
    for row in bank:
        if row["notebook"] != category:
            category = row["notebook"]
            parts.append(f"$CATEGORY: prefcourse/{category}")
        lines = [f"::{category} {row['name']}::{_escaped(row['question'])} {{"]
        for option in row["options"]:
            mark = "=" if option["right"] else "~"
            lines.append(f"\t{mark}{_escaped(option['text'])}#{_escaped(option['feedback'])}")
        parts.append("\n".join([*lines, "}"]))
    return ("\n\n".join(parts) + "\n").encode()


def _escaped(text: str) -> str:
    """GIFT gives a meaning to ~ = # { } : and to the backslash."""
    return re.sub(r"([~=#{}:\\])", r"\\\1", " ".join(text.split()))


def as_qti(bank: Sequence[dict]) -> bytes:
    """The bank as a QTI 1.2 package, a zip with a manifest and one file of items: what Canvas imports."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as package:
        for name, root in (("imsmanifest.xml", _manifest()), ("questions.xml", _items(bank))):
            entry = zipfile.ZipInfo(name)  # with a fixed date, so that the same questions are the same bytes
            package.writestr(entry, ET.tostring(root, encoding="UTF-8", xml_declaration=True))
    return file.getvalue()


def _manifest() -> ET.Element:
    root = ET.Element("manifest", {"identifier": "prefcourse", "xmlns": PACKAGE})
    ET.SubElement(root, "organizations")
    resources = ET.SubElement(root, "resources")
    resource = ET.SubElement(resources, "resource", {"identifier": "questions", "type": "imsqti_xmlv1p2"})
    ET.SubElement(resource, "file", {"href": "questions.xml"})
    return root


def _items(bank: Sequence[dict]) -> ET.Element:
    root = ET.Element("questestinterop", {"xmlns": QTI})
    test = ET.SubElement(root, "assessment", {"ident": "prefcourse", "title": "prefcourse"})
    section = ET.SubElement(test, "section", {"ident": "root_section"})
    for row in bank:
        _item(section, row)
    return root


def _item(section: ET.Element, row: dict) -> None:
    """One question: what is asked, which answer scores, and the feedback to each."""
    ident = f"{row['notebook']}-{row['name']}"
    item = ET.SubElement(section, "item", {"ident": ident, "title": f"{row['notebook']} {row['name']}"})
    fields = ET.SubElement(ET.SubElement(item, "itemmetadata"), "qtimetadata")
    for label, entry in (("question_type", "multiple_choice_question"), ("points_possible", str(row["points"]))):
        field = ET.SubElement(fields, "qtimetadatafield")
        ET.SubElement(field, "fieldlabel").text = label
        ET.SubElement(field, "fieldentry").text = entry
    presentation = ET.SubElement(item, "presentation")
    _text(presentation, row["question"])
    given = ET.SubElement(presentation, "response_lid", {"ident": "answer", "rcardinality": "Single"})
    choices = ET.SubElement(given, "render_choice", {"shuffle": "Yes"})
    processing = ET.SubElement(item, "resprocessing")
    outcomes = ET.SubElement(processing, "outcomes")
    ET.SubElement(outcomes, "decvar", {"maxvalue": "100", "minvalue": "0", "varname": "SCORE", "vartype": "Decimal"})
    for number, option in enumerate(row["options"], start=1):
        label = f"{ident}-{number}"
        _text(ET.SubElement(choices, "response_label", {"ident": label}), option["text"])
        condition = ET.SubElement(processing, "respcondition", {"continue": "Yes"})
        ET.SubElement(ET.SubElement(condition, "conditionvar"), "varequal", {"respident": "answer"}).text = label
        if option["right"]:
            ET.SubElement(condition, "setvar", {"action": "Set", "varname": "SCORE"}).text = "100"
        ET.SubElement(condition, "displayfeedback", {"feedbacktype": "Response", "linkrefid": f"{label}-fb"})
    for number, option in enumerate(row["options"], start=1):
        feedback = ET.SubElement(item, "itemfeedback", {"ident": f"{ident}-{number}-fb"})
        _text(ET.SubElement(feedback, "flow_mat"), option["feedback"])


def _text(parent: ET.Element, text: str) -> None:
    ET.SubElement(ET.SubElement(parent, "material"), "mattext", {"texttype": "text/plain"}).text = text


FORMATS: dict[str, Callable[[Sequence[dict]], bytes]] = {"gift": as_gift, "qti": as_qti, "json": as_json}
ENDINGS = {"gift": ".gift.txt", "qti": ".zip", "json": ".json"}


def write(path: str | Path, bank: Sequence[dict], form: str) -> Path:
    """Write `bank` in one of FORMATS. Raises ValueError for another format."""
    if form not in FORMATS:
        raise ValueError(f"the format must be one of {', '.join(FORMATS)}, got {form!r}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(FORMATS[form](bank))
    return path
