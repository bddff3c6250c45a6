"""What a terminal, a pipe and a notebook see while something runs."""

import os
import re
import select
import subprocess
import sys
import time

import pytest

from prefcourse import terminal
from prefcourse.preferences import write_rows
from prefcourse.terminal import Bar, doing, styled

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")


@pytest.fixture
def command(tiny_gpt2, tokenizer, pairs, tmp_path):
    """The line of a short run of `train`, to which a test adds how many steps."""
    tiny_gpt2().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_rows(tmp_path / "pairs.jsonl", pairs)
    return [
        sys.executable, "-m", "prefcourse", "train", "--data", str(tmp_path / "pairs.jsonl"), "--model",
        str(tmp_path / "model"), "--batch-size", "6", "--every", "2", "--lr", "1e-4", "--output", str(tmp_path / "out"),
    ]  # fmt: skip


class Terminal:
    """A program in a terminal of its own, 100 letters wide; `text` is all that it has written."""

    def __init__(self, line, **environment):
        import fcntl
        import pty
        import struct
        import termios

        env = {k: v for k, v in os.environ.items() if k not in ("TQDM_DISABLE", "NO_COLOR")}
        self.end, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        self.program = subprocess.Popen(
            line, stdin=other, stdout=other, stderr=other, start_new_session=True,
            env=env | {"TERM": "xterm-256color"} | environment,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that ^C is a signal
        )  # fmt: skip
        os.close(other)
        self.text = ""

    def read(self, until=None, seconds=240.0):
        """Read until the text has `until`, or to the end."""
        stop = time.monotonic() + seconds
        while time.monotonic() < stop and not (until and re.search(until, self.text)):
            if select.select([self.end], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self.end, 65536).decode("utf-8", "replace")
                except OSError:  # the program has ended
                    break
        return self.text

    def key(self, letters):
        os.write(self.end, letters.encode())

    def close(self):
        self.read()
        os.close(self.end)
        return self.program.wait(timeout=60)


def test_the_first_word_comes_before_what_takes_seconds_is_imported():
    code = "import sys, prefcourse.commands.cli; print({'torch', 'transformers', 'numpy', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.slow
def test_a_pipe_gets_plain_lines(command):
    done = subprocess.run([*command, "--steps", "4"], capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert "\x1b" not in done.stdout and "\r" not in done.stdout
    assert lines[0] == "loading torch and transformers ..."
    steps = [n for n, line in enumerate(lines) if re.match(r"step \d/4: loss ", line)]
    trained = lines.index(next(line for line in lines if re.fullmatch(r"trained for 4 steps in \d+ seconds?", line)))
    assert len(steps) == 3 and steps[-1] < trained and lines[trained + 1] == "sampling before and after ..."


@pytest.mark.slow
@pytest.mark.posix
@pytest.mark.parametrize("colour", [True, False])
def test_a_terminal_gets_bars_and_colours_unless_it_wants_none(command, colour):
    seen = Terminal([*command, "--steps", "200"], **({} if colour else {"NO_COLOR": "1"}))
    text = seen.read(until="loading torch")
    assert "trained" not in text and seen.close() == 0
    assert bool(COLOUR.search(seen.text)) == colour
    assert re.search(r"train \d+/200 · 0:0\d:\d\d left · loss \d", seen.text)
    assert "step 199/200: loss" in seen.text and "sampling before and after" in seen.text
    assert seen.text.rindex("\x1b[?25h") > seen.text.rindex("\x1b[?25l")  # the cursor is back


@pytest.mark.slow
@pytest.mark.posix
def test_ctrl_c_is_one_line_that_says_what_is_kept(command, tmp_path):
    seen = Terminal([*command, "--steps", "5000", "--checkpoint-every", "2"])
    seen.read(until=r"step 6/5000")
    before = len(seen.text)
    seen.key("\x03")
    assert seen.close() == 130
    said = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.text[before:]).replace("\r", "\n")
    assert "Traceback" not in said and said.count("interrupted") == 1
    last = " ".join(said[said.index("prefcourse train: interrupted") :].split())
    assert last.endswith("the same line with --resume goes on.") and "checkpoints has what was trained so far" in last
    assert seen.text.rindex("\x1b[?25h") > seen.text.rindex("\x1b[?25l")


@pytest.mark.posix
def test_a_reader_who_leaves_is_no_error():
    """As `| head -1` does."""
    program = subprocess.Popen(
        [sys.executable, "-m", "prefcourse", "doctor"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        encoding="utf-8", env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert program.stdout.readline().startswith("python ")
    program.stdout.close()
    assert program.stderr.read() == "" and program.wait() == 141


def test_a_bar_in_a_notebook_is_a_display_that_is_emptied(monkeypatch, capsys):
    import IPython.display

    shown = []

    class Handle:
        def update(self, what):
            shown.append(what.data)

    monkeypatch.delenv("TQDM_DISABLE")
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    monkeypatch.setattr(terminal, "_notebook", lambda: True)
    monkeypatch.setattr(terminal, "SOME_TIME", 0.0)
    monkeypatch.setattr(IPython.display, "display", lambda what, display_id: shown.append(what.data) or Handle())
    for item in (bar := Bar(range(3), "tra<in")):
        bar.note = f"loss {item}"
    assert shown[-1] == "" and len(shown) == 4 and "tra&lt;in 0/3" in shown[0]
    assert 'value="2" max="3"' in shown[2] and "tra&lt;in 2/3 · 0:00:00 left · loss 1" in shown[2]
    assert capsys.readouterr() == ("", "")
    with pytest.raises(KeyError):
        for _ in Bar(range(3), "x"):
            raise KeyError


def test_a_log_gets_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.delenv("TQDM_DISABLE")
    assert list(Bar(range(3), "x")) == [0, 1, 2] and capsys.readouterr().out == ""  # in a program: silent
    monkeypatch.setattr(Bar, "seconds", 1e-9)
    assert list(Bar(range(3), "x")) == [0, 1, 2]
    assert capsys.readouterr().out.splitlines() == ["x 0/3", "x 1/3 · 0:00:00 left", "x 2/3 · 0:00:00 left"]
    assert list(Bar(range(3), "x", shown=False)) == [0, 1, 2] and capsys.readouterr().out == ""
    assert list(Bar(range(3), "x", logged=False)) == [0, 1, 2] and capsys.readouterr().out == ""


def test_where_nobody_looks_there_is_no_colour(capsys):
    assert styled("well", "green") == "well"
    with doing("measuring"):
        pass
    assert capsys.readouterr().out == "measuring ...\n"
