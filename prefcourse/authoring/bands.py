"""How far the numbers of a notebook move when its seeds do: what the bands of its `within` have to cover.

    python -m prefcourse.authoring.bands notebooks/07_*.ipynb exercises/solutions/07_*.ipynb --seeds 8
    python -m prefcourse.authoring.bands notebooks --table

Run 0 is the notebook as it is. In run k every seed is another one, from wherever it comes: a cell, a default of the
package, `seed=1000 * RUN + k`. A seed becomes random numbers in few places, and it is there that k is added; the names
of stored runs stay what they are. What a subprocess draws does not move. A check that fails does not stop the run: what
each `within` saw, and whether each `check` and `close` held, goes to build/bands/KIND/LESSON/K.json.

A run that is kept is not made again, until the notebook's code, the world or a stored result that it names changes.
The table has for each `within` the mean and sd over the runs and the 95 % interval for one more run,
mean ± t sd √(1 + 1/n), beside the band that the notebook states; ✗ where that does not cover it. A cell's number is
the one that it shows, In [7]. Numbers that come from stored results are the same in all runs: their sd is 0.
"""

import argparse
import hashlib
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
import numpy as np
import torch
from IPython import get_ipython
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from prefcourse import lesson, streams
from prefcourse.authoring.notebooks import execute, find
from prefcourse.comparison.crossed import student_quantile
from prefcourse.preferences import write_whole
from prefcourse.worlds.bundled import data_folder

STEP = 982_451_653  # from run to run: a prime, far from the multiples of seeds by which the package makes further seeds
WATCH = "from prefcourse.authoring import bands\n\nbands.watch({log!r}, {k})"  # becomes the first cell
Run = dict  # notebook, k, fingerprint, seconds, failed: [cell, error], seen: what `watch` notes


# --------------------------------------------------------------------------------------- in the notebook's kernel


def watch(log: str, k: int) -> None:
    """From here on `lesson`'s checks write to the file `log`, a line of JSON each, and seeds are those of run `k`."""
    if k:
        move_seeds(k)
    cells: list[str] = []  # those that have begun: IPython's own count moves on at another moment in each version
    get_ipython().events.register("pre_run_cell", lambda info: cells.append(info.raw_cell))
    for name in ("within", "check", "close"):
        setattr(lesson, name, noted(name, getattr(lesson, name), cells, Path(log)))


def noted(kind: str, test, cells: Sequence[str], log: Path):
    """`test`, one of lesson's checks, which notes what it saw and prints what it would have raised."""
    times: dict[tuple[int, int], int] = {}

    def noting(name, *given, **settings):
        holds = True
        try:
            test(name, *given, **settings)
        except AssertionError as error:
            holds = False
            print(error)
        cell, line = len(cells), sys._getframe(1).f_lineno
        times[cell, line] = times.get((cell, line), 0) + 1  # a loop comes to the same line several times
        seen = {"cell": cell, "line": line, "time": times[cell, line], "kind": kind, "name": name, "holds": holds}
        if kind == "within":
            value, low, high = (float(x) for x in ordered(*given, **settings))
            seen |= {"value": value, "low": low, "high": high}
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(seen) + "\n")

    return noting


def ordered(value, low, high) -> tuple:
    """The arguments of `within` after its name, an Estimate as its value."""
    return getattr(value, "value", value), low, high


def move_seeds(k: int) -> None:
    """Every generator that is seeded with a whole number from here on gets another one: that of run `k`."""
    by, seed_torch, seed_random, seed_numpy = k * STEP, torch.manual_seed, random.seed, np.random.seed
    plain_generator, plain_random, default_rng = torch.Generator, random.Random, np.random.default_rng

    def moved(seed, most: int = 2**63):
        return (seed + by) % most if isinstance(seed, int | np.integer) else seed

    class Generator(plain_generator):
        def manual_seed(self, seed):
            return super().manual_seed(moved(seed))

    class Random(plain_random):
        def seed(self, a=None, version=2):
            super().seed(moved(a), version)

    def rng(seed=None):
        return default_rng([*seed, k] if isinstance(seed, Sequence) else moved(seed))

    torch.Generator, random.Random, np.random.default_rng = Generator, Random, rng
    torch.manual_seed = lambda seed: seed_torch(moved(seed))
    random.seed = lambda a=None, version=2: seed_random(moved(a), version)
    np.random.seed = lambda seed=None: seed_numpy(moved(seed, 2**32))


# ----------------------------------------------------------------------------------------------------- the runs


def fingerprint(notebook: NotebookNode) -> str:
    """Eight letters that name the code, the world, and the stored results whose names stand in the code."""
    code, data = [cell.source for cell in notebook.cells if cell.cell_type == "code"], data_folder()
    named = [p for p in sorted(data.glob("results/*.json")) if any(f'"{p.stem}"' in source for source in code)]
    parts = [json.dumps(code).encode(), *(path.read_bytes() for path in [data / "checksums.json", *named])]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:8]


def file_of(path: Path, k: int, out: Path) -> Path:
    """Where run `k` of the notebook at `path` is kept; a lesson and its solution have the same name, not the kind."""
    folder = path.resolve().parent.name
    return out / {"notebooks": "lessons"}.get(folder, folder) / path.stem / f"{k}.json"


def kept(path: Path, k: int, out: Path) -> Run | None:
    """Run `k` if it is there and made by this code in this world."""
    file = file_of(path, k, out)
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found if found.get("fingerprint") == fingerprint(nbformat.read(path, as_version=4)) else None


def run(path: Path, k: int, timeout: int = 600) -> Run:
    """Execute the notebook with the seeds of run `k`, in a folder of its own for labels and progress.

    Raises nbclient's errors where a cell takes more than `timeout` seconds or the kernel dies.
    """
    notebook, began = nbformat.read(path, as_version=4), time.perf_counter()
    found = {"notebook": path.name, "k": k, "fingerprint": fingerprint(notebook)}
    with tempfile.TemporaryDirectory() as folder:
        log, own = Path(folder) / "seen.jsonl", {"PREFCOURSE_LABELS": "mine.jsonl", "PREFCOURSE_PROGRESS": "done.json"}
        log.touch()
        notebook.cells.insert(0, nbformat.v4.new_code_cell(WATCH.format(log=str(log), k=k)))
        execute(
            notebook, path.parent.resolve(), timeout, True, {name: f"{folder}/{file}" for name, file in own.items()}
        )
        found["seen"] = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    found["failed"] = [
        [cell.execution_count - 1, f"{output.ename}: {output.evalue}"[:200]]
        for cell in notebook.cells
        if cell.cell_type == "code" and "raises-exception" not in cell.metadata.get("tags", [])
        for output in cell.outputs
        if output.output_type == "error"
    ]
    return found | {"seconds": round(time.perf_counter() - began)}


# ---------------------------------------------------------------------------------------------------- the table


def interval(values: Sequence[float]) -> tuple[float, float, float, float]:
    """Mean and sd of `values`, and the 95 % prediction interval for one more of their kind (normal, Student's t)."""
    mean, sd = statistics.fmean(values), statistics.stdev(values)
    half = student_quantile(0.975, len(values) - 1) * sd * math.sqrt(1 + 1 / len(values))
    return mean, sd, mean - half, mean + half


def row(seen: Sequence[Mapping], runs: int) -> str:
    """The line of one `within` or `check`: what it saw in the `runs` in which it was reached."""
    first, held = seen[0], sum(one["holds"] for one in seen)
    where, share = f"[{first['cell']}] {first['name']}", f"held in {held} of {runs}"
    if first["kind"] != "within":
        return f"{'✓' if held == runs else '✗'} {where}: {share}"
    values = [one["value"] for one in seen if math.isfinite(one["value"])]
    band = f"band {first['low']:.4g} to {first['high']:.4g}"
    if len(values) < 2 or len(values) < len(seen):
        return f"{'✓' if held == runs else '✗'} {where}: {band}, {share}; {len(values)} finite values"
    mean, sd, low, high = interval(values)
    covers = held == runs and first["low"] <= low and high <= first["high"]
    said = f"mean {mean:.4g}, sd {sd:.2g}, one more run {low:.4g} to {high:.4g}"
    return f"{'✓' if covers else '✗'} {where}: {band}, {share}; {said}"


def table(runs: Sequence[Run]) -> list[str]:
    """A line for each `within` and `check` and each `close` that failed; then the cells that did not come to an end."""
    found: dict[tuple, list[Mapping]] = {}
    for one in runs:
        for seen in one["seen"]:
            found.setdefault((seen["cell"], seen["line"], seen["kind"], seen["time"]), []).append(seen)
    shown = [seen for seen in found.values() if seen[0]["kind"] != "close" or not all(one["holds"] for one in seen)]
    lines = [row(seen, len(runs)) for seen in sorted(shown, key=lambda seen: (seen[0]["cell"], seen[0]["line"]))]
    return lines + [f"✗ run {one['k']}: [{cell}] {error}" for one in runs for cell, error in one["failed"]]


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 where a run could not be made, 2 where there is no such notebook."""
    parser = argparse.ArgumentParser(prog="python -m prefcourse.authoring.bands", description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", metavar="NOTEBOOK", help="notebooks, or folders of notebooks")
    parser.add_argument("--seeds", type=int, default=8, metavar="K", help="runs of each (default %(default)s)")
    parser.add_argument("--table", action="store_true", help="print what is kept, run nothing")
    parser.add_argument("--out", type=Path, default=Path("build/bands"), help="where runs are kept (%(default)s)")
    parser.add_argument("--timeout", type=int, default=600, metavar="S", help="seconds per cell (default %(default)s)")
    options = parser.parse_args(arguments)
    try:
        paths = find(options.paths)
    except FileNotFoundError as error:
        parser.error(str(error))
    streams.tolerate()
    lost = 0
    for path in paths:
        for k in () if options.table else range(options.seeds):
            if kept(path, k, options.out):
                continue
            try:
                made = run(path, k, options.timeout)
            except (CellTimeoutError, DeadKernelError) as error:
                lost += 1
                print(f"{path}, run {k}: {error}", file=sys.stderr)
                continue
            write_whole(file_of(path, k, options.out), json.dumps(made))
            print(f"{made['seconds']:6} s  {path}  run {k}", flush=True)
        runs = [found for k in range(options.seeds) if (found := kept(path, k, options.out))]
        print(f"\n{path}: {len(runs)} runs", *table(runs), "", sep="\n", flush=True)
    return min(lost, 1)


if __name__ == "__main__":
    raise SystemExit(main())
