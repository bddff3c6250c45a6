"""What `make test` runs: stages, each as soon as what it needs is done, the longest first, one on each core.

    python3 tests/stages.py                    # all, in a fresh environment; nothing but Python has to be there
    python3 tests/stages.py lint pytest        # those alone, in the environments that are there
    python3 tests/stages.py --list

A stage is single-threaded, so that two at a time use two cores, which is faster than one after the other with two
threads. What it says goes to build/stages and is shown when it is done; the first that fails ends the run.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from shutil import which

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
LOGS = BUILD / "stages"
TESTS, NBGRADER, SITE = (BUILD / f"{name}-venv" / "bin" for name in ("test", "nbgrader", "site"))
COLAB = BUILD / "colab-site"  # Colab's IPython, widgets, numpy and matplotlib, before the environment of the tests
STAND_IN = BUILD / "stand-in"  # a small copy of the world gpt2-imdb
OFFLINE = {  # no network, no progress bars, no traces among a learner's own progress, one thread
    "PYTHONPATH": f"{ROOT / 'tests' / 'offline'}",
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "PREFCOURSE_PROGRESS": f"{BUILD / 'progress.json'}",
    "PREFCOURSE_LABELS": f"{BUILD / 'labels.jsonl'}",
    "PYTHONDONTWRITEBYTECODE": "",  # what `pip` below left uncompiled is compiled once, and not in each process
}  # fmt: skip
ON_COLAB = OFFLINE | {
    "PYTHONPATH": os.pathsep.join([str(COLAB), OFFLINE["PYTHONPATH"]]), "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}  # fmt: skip
COLAB_PACKAGES = (
    "ipywidgets==7.7.1 ipython==7.34.0 ipykernel==6.17.1 ipython_genutils==0.2.0 backcall==0.2.0 pickleshare==0.7.5 "
    "decorator==4.4.2 numpy==2.1.3 matplotlib==3.10.0"
)
PYTEST = f"{TESTS}/pytest -q -p no:cacheprovider"
NBVAL = (  # strictly, cell by cell, in the environment of the tests, each notebook in a process of its own
    f"{TESTS}/python tests/warm_kernels.py -q -p no:cacheprovider --nbval --nbval-current-env "
    "--nbval-cell-timeout 300 --nbval-sanitize-with tests/nbval-sanitize.cfg"
)


def pip(programs: Path) -> str:
    """The command that installs into the environment with these `programs`: uv where there is one, for speed.

    Nothing is compiled beforehand. What is imported gets compiled then, and most of it never is.
    """
    return f"uv pip install -q --python {programs}/python" if which("uv") else f"{programs}/pip install -q --no-compile"


@dataclass(frozen=True)
class Stage:
    """One thing to run. seconds: about how long it takes on one core; the longest of those that may start does."""

    name: str
    seconds: int
    commands: tuple[str, ...]
    needs: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


def stages() -> list[Stage]:
    """All of them."""
    return [*environments(), *unit_tests(), *notebooks(), *elsewhere()]


def stage(name: str, seconds: int, *commands: str, needs: str = "", environment: dict[str, str] = OFFLINE) -> Stage:
    """A stage that needs the stages in `needs`, separated by commas."""
    return Stage(name, seconds, commands, tuple(filter(None, needs.split(", "))), tuple(environment.items()))


def environments() -> list[Stage]:
    """The package is installed as a wheel, not linked: the tests see what its user sees, the bundled data included."""
    python, grader = shlex.quote(sys.executable), NBGRADER.parent
    packages = "import sysconfig; print(sysconfig.get_path('purelib'))"
    ours = TESTS.parent / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    return [
        stage(
            "environment", 99,
            f"rm -rf {TESTS.parent} build/wheel build/lib build/bdist.*", f"{python} -m venv {TESTS.parent}",
            f"{pip(TESTS)} -r requirements.txt -c constraints.txt",
            f"{TESTS}/pip wheel --quiet --no-deps --wheel-dir build/wheel .",
            f"{pip(TESTS)} --no-deps build/wheel/*.whl", "rm -rf build/lib build/bdist.*", environment={},
        ),
        # nbgrader has an environment of its own, which sees that of the tests behind it: torch is not installed twice.
        stage(
            "environments beside it", 40, f"rm -rf {grader} {COLAB}", f"{python} -m venv {grader}",
            f"{pip(NBGRADER)} nbgrader==0.9.6 -c constraints.txt",
            f"{pip(NBGRADER)} --no-deps --target {COLAB} {COLAB_PACKAGES}",
            f'echo {ours} > "$({NBGRADER}/python -c "{packages}")/tests.pth"', environment={},
        ),
        # Before the packages of the tests are there: what a user of the wheel would miss is missed here, too.
        stage("wheel elsewhere", 45, f"{TESTS}/python tests/whole/wheel_elsewhere.py", needs="environment"),
        stage(
            "stand-in", 60, f"rm -rf {STAND_IN}", f"{TESTS}/python tests/stand_in.py {STAND_IN}", needs="environment"
        ),
        stage(
            "test packages", 90, f"{pip(TESTS)} -r tests/requirements.txt -c constraints.txt",
            needs="wheel elsewhere", environment={},
        ),
        # So has the site. It begins with a view of the tests' packages, and pip adds the two dozen that they lack.
        stage(
            "environment of the site", 25, f"rm -rf {SITE.parent}", f"{python} -m venv {SITE.parent}",
            f'echo {ours} > "$({SITE}/python -c "{packages}")/tests.pth"',
            f"{SITE}/python -m pip install -q --no-compile -r docs/requirements.txt",
            needs="test packages", environment={},
        ),
    ]  # fmt: skip


def unit_tests() -> list[Stage]:
    """Ruff and the import contract; pytest; the part of it that Colab's versions could break."""
    return [
        stage(
            "lint", 5, f"{TESTS}/ruff check .", f"{TESTS}/ruff format --check .", f"{TESTS}/lint-imports --no-cache",
            needs="test packages",
        ),
        stage("pytest", 700, f"{PYTEST} --durations=5 tests", needs="test packages"),
        stage(
            "pytest on Colab's versions", 90, f"{PYTEST} -W ignore::DeprecationWarning tests/plots "
            "tests/annotation/test_app.py tests/test_lesson.py tests/checks/test_predictions.py",
            needs="test packages, environments beside it", environment=ON_COLAB,
        ),
    ]  # fmt: skip


def notebooks() -> list[Stage]:
    """Every notebook with our versions; with Colab's three lessons, and the solutions, which run every check."""
    lessons = [
        stage(f"lesson {path.stem[:2]}", 60, f"{NBVAL} {path.relative_to(ROOT)}", needs="test packages")
        for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
    ]
    both = "test packages, environments beside it"
    quick = "notebooks/00*.ipynb notebooks/02*.ipynb notebooks/06*.ipynb"
    return [
        *lessons,
        stage("solutions", 150, f"{NBVAL} exercises/solutions", needs="test packages"),
        stage("student copies", 100, f"{NBVAL} exercises/*.ipynb", needs="test packages"),
        stage("solutions on Colab", 150, f"{NBVAL} exercises/solutions", needs=both, environment=ON_COLAB),
        stage("lessons on Colab", 70, f"{NBVAL} {quick}", needs=both, environment=ON_COLAB),
    ]


def elsewhere() -> list[Stage]:
    """Every lesson that loads a world, on the stand-in and a device that is as strict as a GPU; the site; nbgrader."""
    run = f"{PYTEST} tests/whole/lessons_elsewhere.py -k"
    parts = {"00 to 03": "00 or 01 or 02 or 03", "04 to 07": "04 or 05 or 06 or 07", "08 to 10": "08 or 09 or 10"}
    named = " or ".join(parts.values())
    parts["from 11"] = f"not ({named})"
    return [
        stage("pretended GPU", 6, f"{PYTEST} tests/pretend_gpu.py", needs="test packages"),
        *(
            stage(f"elsewhere {name}", 130, f"{run} 'in_another_world and ({words})'", needs="test packages, stand-in")
            for name, words in parts.items()
        ),
        stage("site", 60, f"{PYTEST} tests/whole/site_in_browser.py", needs="test packages, environment of the site"),
        stage(
            "nbgrader", 75, f"{NBGRADER}/python -m pytest -q -p no:cacheprovider tests/whole/nbgrader_end_to_end.py",
            needs="test packages, environments beside it",
        ),
    ]  # fmt: skip


class Pool:
    """Runs stages, as many at a time as there are cores."""

    def __init__(self, waiting: list[Stage]):
        self.waiting, self.cores = list(waiting), os.cpu_count() or 1
        self.running: dict[subprocess.Popen, tuple[Stage, float]] = {}
        self.took: dict[str, float] = {}

    def run(self) -> str | None:
        """Run all; the name of the stage that failed, or None."""
        asked = {stage.name for stage in self.waiting}  # what was not asked for is taken to be there
        try:
            while self.waiting or self.running:
                left = asked - set(self.took)
                ready = [stage for stage in self.waiting if not left.intersection(stage.needs)]
                for found in sorted(ready, key=lambda s: -self.path(s))[: self.cores - len(self.running)]:
                    self.start(found)
                if failed := self.wait():
                    return failed
            return None
        finally:
            for process in self.running:
                os.killpg(process.pid, signal.SIGTERM)

    def path(self, stage: Stage) -> int:
        """Seconds from the start of `stage` to the end of the longest chain of stages that wait for it."""
        return stage.seconds + max((self.path(s) for s in self.waiting if stage.name in s.needs), default=0)

    def start(self, stage: Stage) -> None:
        """Start its commands, one after the other, in a process group of their own."""
        self.waiting.remove(stage)
        with open(log(stage), "w", encoding="utf-8") as out:
            process = subprocess.Popen(
                ["bash", "-e", "-c", "\n".join(stage.commands)], cwd=ROOT, env=os.environ | dict(stage.environment),
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.running[process] = (stage, time.monotonic())

    def wait(self) -> str | None:
        """Wait until one of them ends, and show what it said; its name if it failed."""
        while not (ended := [process for process in self.running if process.poll() is not None]):
            time.sleep(0.2)
        for process in ended:
            stage, began = self.running.pop(process)
            self.took[stage.name] = time.monotonic() - began
            print(f"\n== {stage.name}: {self.took[stage.name]:.0f} s", flush=True)
            print(log(stage).read_text(errors="replace", encoding="utf-8").rstrip(), flush=True)
            if process.returncode:
                return stage.name
        return None


def log(stage: Stage) -> Path:
    """Where a stage's output goes."""
    LOGS.mkdir(parents=True, exist_ok=True)
    return LOGS / f"{stage.name.replace(' ', '-')}.log"


def main() -> int:
    """The command line; 1 if a stage failed."""
    sys.stdout.reconfigure(errors="replace")  # pytest and the checks say ✓
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="STAGE", help="run these alone (default: all)")
    parser.add_argument("--list", action="store_true", help="print the names of the stages, and run none")
    args = parser.parse_args()
    there = stages()
    names = [stage.name for stage in there]
    if args.list:
        print("\n".join(names))
        return 0
    if unknown := [name for name in args.names if name not in names]:
        parser.error(f"no stage {', '.join(unknown)}; --list has their names")
    pool, began = Pool([s for s in there if not args.names or s.name in args.names]), time.monotonic()
    failed = pool.run()
    print(f"\n{len(pool.took)} stages on {pool.cores} cores in {time.monotonic() - began:.0f} s:")
    for name, seconds in pool.took.items():
        print(f"  {name:28} {seconds:4.0f} s{'   FAILED' if name == failed else ''}")
    print(f"FAILED at: {failed}" if failed else "all stages passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
