"""The package as it is installed: complete, with its data, without dependencies of its own."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def names(path):
    """The packages that a requirements file names, with what it asks of each."""
    lines = [line.split("#")[0].strip() for line in (ROOT / path).read_text(encoding="utf-8").splitlines()]
    found = [re.fullmatch(r"([A-Za-z0-9._-]+)(.*)", line) for line in lines if line and not line.startswith("-")]
    return {match[1].lower().replace("_", "-"): match[2] for match in found}


def test_every_package_of_the_clone_is_in_the_wheel():
    inside = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "prefcourse").rglob("__init__.py")}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == inside | {"prefcourse.data"}


def test_the_package_has_no_dependencies_of_its_own():
    assert PROJECT["project"]["dependencies"] == []


def test_uv_installs_what_pip_installs():
    groups = PROJECT["dependency-groups"]
    for group, path in (("course", "requirements.txt"), ("test", "tests/requirements.txt")):
        here = [line for line in groups[group] if isinstance(line, str)]
        assert dict(re.fullmatch(r"([A-Za-z0-9._-]+)(.*)", line).groups() for line in here) == names(path), path
    assert groups["test"][0] == {"include-group": "course"}


def test_the_lowest_versions_are_the_lower_bounds():
    """`make lowest` runs the unit tests with exactly these."""
    wanted = names("requirements.txt") | names("tests/requirements.txt")
    bounds = {name: re.match(r"[>=]=([0-9.]+)", range_)[1] for name, range_ in wanted.items()}
    lowest = {name: SpecifierSet(version) for name, version in names("tests/lowest.txt").items()}
    assert set(lowest) == set(bounds) - {"trl"}  # installed on its own, see the Makefile
    assert [name for name, version in lowest.items() if bounds[name] not in version] == []
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"trl{wanted['trl']}\n" in makefile


def test_constraints_are_exact_versions_of_everything_required():
    constraints = names("constraints.txt")
    assert all(re.fullmatch(r"==[0-9][0-9A-Za-z.]*", version) for version in constraints.values()), constraints
    assert set(names("requirements.txt")) | set(names("tests/requirements.txt")) <= set(constraints)


def test_the_site_is_built_with_exact_versions():
    """Its own environment, on the constraints of the others: what both have is the same."""
    versions = names("docs/requirements.txt")
    assert "sphinx" in versions and all(re.fullmatch(r"==[0-9][0-9A-Za-z.]*", version) for version in versions.values())
    assert "-c ../constraints.txt\n" in (ROOT / "docs" / "requirements.txt").read_text(encoding="utf-8")


def test_the_pinned_versions_take_the_oldest_python_that_we_promise():
    """Debian 12 has Python 3.11.2, and a package that wants 3.11.5 cannot be installed there."""
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=") + ".0"
    refused = []
    for name, pinned in names("constraints.txt").items():
        try:
            facts = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # pinned for another system, or for an environment of its own
        if facts["Version"].partition("+")[0] != pinned.removeprefix("=="):
            continue  # this environment is one of other versions, the lowest say
        wanted = facts.get("Requires-Python")
        if wanted and oldest not in SpecifierSet(wanted):
            refused.append(f"{name} wants Python {wanted}")
    assert not refused


def test_torch_is_bounded_above():
    assert re.fullmatch(r">=\S+,<\S+", names("requirements.txt")["torch"])
