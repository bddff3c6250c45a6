"""Two writers fight for one file of labels and are killed again and again: python tests/soak_labels.py --kills 200.

What must hold: each label that a writer reported is in the file, under its id, with that writer's text; no id twice,
none left out; and the file can be read. `tests/annotation/test_labels.py` does it with a few kills.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from prefcourse.annotation import labels

ROOT = Path(labels.__file__).resolve().parents[2]
WRITER = """
import random, sys, time
path, name, root = sys.argv[1:]
sys.path.insert(0, root)
from prefcourse.annotation.labels import LabelFile
texts = {"prompt": "I have", "response_a": " a cat." * 40, "response_b": " no cat.", "label": "A", "annotator": name}
while True:
    try:
        file = LabelFile(path)
    except BlockingIOError:
        time.sleep(0.001)
        continue
    for _ in range(random.randrange(1, 60)):
        print(file.append(texts)["id"], flush=True)
    file.close()
"""
STARTED = 60  # seconds within which a writer reports a label, on a machine with much else to do


def contend(folder: Path, kills: int, seed: int = 0) -> int:
    """Kill one of two writers `kills` times; returns how many labels they reported. AssertionError if one is lost."""
    rng, path, writers = random.Random(seed), folder / "l.jsonl", {}

    def start(turn: int) -> subprocess.Popen:
        with open(folder / f"writer-{turn}", "wb") as said:
            return subprocess.Popen([sys.executable, "-S", "-c", WRITER, path, str(turn), ROOT], stdout=said)

    try:
        for turn in range(kills + 2):
            writers[turn] = start(turn)
            if len(writers) > 2:
                until = time.monotonic() + STARTED
                while not any((folder / f"writer-{number}").stat().st_size for number in writers):
                    assert time.monotonic() < until, f"no writer reported a label in {STARTED} s"
                    time.sleep(0.01)
                time.sleep(rng.uniform(0.02, 0.12))
                unlucky = rng.choice(list(writers))
                writers[unlucky].kill()
                assert writers.pop(unlucky).wait() < 0  # killed by us, not stopped by an error
    finally:
        for writer in writers.values():
            writer.kill()
            writer.wait()
    found = {record["id"]: record["annotator"] for record in labels.read_labels(path)}
    assert list(found) == list(range(1, len(found) + 1))
    reported = 0
    for said in folder.glob("writer-*"):
        for line in said.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                assert found[int(line)] == said.name.removeprefix("writer-")
                reported += 1
    assert reported <= len(found) <= reported + kills + 2  # at most the one that was being written each time
    labels.LabelFile(path).close()  # the locks went with the processes
    return reported


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        print(f"{args.kills} kills, {contend(Path(place), args.kills, args.seed)} labels reported, none lost")
