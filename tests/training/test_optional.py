"""A package that cannot be used: whether it is not there, or there and unfit, with the reason and the remedy."""

import importlib.metadata
import sys
from pathlib import Path

import pytest

from prefcourse.commands.cli import main
from prefcourse.training import lora, optional

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """pretend(package, version, code): from now on `import package` runs `code`."""

    def put(package, version, code):
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(code, encoding="utf-8")
        facts = tmp_path / f"{package}-{version}.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Name: {package}\nVersion: {version}\n", encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)

    return put


OLD = "from transformers import NoSuchCache\n"


def test_a_peft_that_is_too_old_is_not_said_to_be_missing(pretend, tiny_gpt2):
    pretend("peft", "0.17.1", OLD)
    with pytest.raises(ImportError, match=r"^LoRA needs peft\. peft 0\.17\.1 is installed but does not work") as error:
        lora.add_lora(tiny_gpt2())
    assert "cannot import name 'NoSuchCache'" in str(error.value) and "not installed" not in str(error.value)
    assert 'pip install --upgrade "peft>=' in str(error.value) and "\n" not in str(error.value)


def test_doctor_says_so_too(pretend, capsys):
    pretend("peft", "0.17.1", OLD)
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "peft 0.17.1 is installed but does not work here (ImportError: cannot import name 'NoSuchCache'" in said
    assert said.endswith("Something is missing or does not work: see above.\n")


def test_one_that_is_not_there(monkeypatch, tiny_gpt2):
    monkeypatch.setitem(sys.modules, "peft", None)  # which Python takes for a module that cannot be found
    with pytest.raises(ImportError, match=r"LoRA needs peft\. peft is not installed: pip install peft$"):
        lora.add_lora(tiny_gpt2())


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import no_such_package",
            "odd 2.0 needs no_such_package, which is not installed: pip install no_such_package",
        ),
        ("raise RuntimeError('two\\nlines')", "odd 2.0 is installed but does not work here (RuntimeError: two lines)"),
        ("", None),
    ],
)
def test_the_reason_is_the_package_s_own(pretend, code, said):
    pretend("odd", "2.0", code)
    found = optional.trouble("odd")
    assert found == said if said is None else found.startswith(said)


def test_a_package_without_papers(pretend, monkeypatch):
    pretend("odd", "2.0", "1 / 0")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: (_ for _ in ()).throw(
        importlib.metadata.PackageNotFoundError(name)))  # fmt: skip
    assert optional.trouble("odd").startswith("odd of an unknown version is installed but")


def test_the_versions_named_are_those_of_the_tests():
    lines = (ROOT / "tests" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert {f"{name}>={version}" for name, version in optional.LOWEST.items()} <= set(lines)
