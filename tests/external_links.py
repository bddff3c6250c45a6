"""Do the addresses of others in lessons, exercises and texts still answer? Weekly on GitHub, or by hand.

    python tests/external_links.py            # exit 1, and each dead address with the files that have it
    python tests/external_links.py --list     # the addresses alone, nobody is asked

An address is dead if it cannot be reached three times, or answers 404, 410 or another error. Publishers that keep
programs out (401, 403, 429, 503) have answered: they are listed, not failed. Nothing but Python is needed.
"""

import argparse
import json
import re
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACES = ("*.md", "docs/**/*.md", "data/*.md", "exercises/*.md", ".github/*.md", "notebooks/*.ipynb",
          "exercises/solutions/*.ipynb")  # fmt: skip
ADDRESS = re.compile(r"https?://[^\s<>\"'`\\\]|{}]+")
NOBODY = re.compile(r"//(localhost|127\.|[\w.-]*example\.)|OWNER[/.]")  # a reader's own machine, examples, unpublished
GUARDED = {401, 403, 418, 429, 503, 999}
BROWSER = {"User-Agent": "Mozilla/5.0 (link check of a course, once a week)", "Accept": "*/*"}


def prose(path: Path) -> str:
    """The text of a file; of a notebook, its Markdown."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    return text


def addresses(text: str) -> list[str]:
    """Every address in it, once, without the sentence's marks behind it and without #fragments."""
    found = []
    for address in ADDRESS.findall(text):
        address = address.rstrip(".,;:!?*_")
        while address.endswith(")") and address.count(")") > address.count("("):  # Markdown's, not the address's
            address = address[:-1].rstrip(".,;:!?*_")
        if not NOBODY.search(address):
            found.append(address.partition("#")[0])
    return list(dict.fromkeys(found))


def everywhere(root: Path) -> dict[str, list[str]]:
    """Address → the files that have it."""
    found = {}
    for path in sorted(path for pattern in PLACES for path in root.glob(pattern)):
        for address in addresses(prose(path)):
            found.setdefault(address, []).append(path.relative_to(root).as_posix())
    return found


def answer(address: str, tries: int = 3, pause: float = 5.0, timeout: float = 20.0) -> str:
    """Nothing if it answers, "guarded" with the status if it keeps programs out, else why it counts as dead."""
    why = ""
    for attempt in range(tries):
        for method in ("HEAD", "GET"):  # some do not know HEAD
            try:
                with urllib.request.urlopen(
                    urllib.request.Request(address, headers=BROWSER, method=method), timeout=timeout
                ):
                    return ""
            except urllib.error.HTTPError as error:
                why = f"guarded ({error.code})" if error.code in GUARDED else f"HTTP {error.code}"
            except (OSError, ValueError) as error:  # no such host, no certificate, no time
                why = f"{type(error).__name__}: {error}"
                break
        if why in ("HTTP 404", "HTTP 410"):
            break
        if attempt + 1 < tries:
            time.sleep(pause)
    return why


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 if an address is dead."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the clone (default: the one this lies in)")
    parser.add_argument("--list", action="store_true", help="print the addresses, and ask nobody")
    parser.add_argument("--pause", type=float, default=5.0, help="seconds between tries (default: 5)")
    options = parser.parse_args(arguments)
    found = everywhere(options.root)
    if options.list:
        print("\n".join(found))
        return 0
    with ThreadPoolExecutor(8) as pool:
        said = dict(zip(found, pool.map(lambda address: answer(address, pause=options.pause), found), strict=True))
    for address, why in said.items():
        if why:
            print(f"{why:20} {address}  in {', '.join(found[address])}")
    dead = [address for address, why in said.items() if why and not why.startswith("guarded")]
    print(f"addresses asked: {len(found)}, dead: {len(dead)}")
    return 1 if dead else 0


if __name__ == "__main__":
    sys.exit(main())
