"""Notebook kernels that are forked from a process in which the libraries are already imported. Linux only.

    python tests/warm_kernels.py -q --nbval --nbval-current-env notebooks      # for `pytest -q --nbval ...`

A kernel spends four seconds of CPU on importing torch, transformers and matplotlib, and `make test` starts about 85 of
them. Here the first kernel of a pytest process starts a server, which imports those libraries and then forks for every
kernel. So each notebook still has a process of its own, in which nothing has happened but these imports: it holds
nothing of prefcourse, no thread, no socket, no shell.

Only the Popen with which jupyter_client starts a kernel is replaced. The forked process becomes a child of this one, in
a session of its own, with the environment, the folder and the files that Popen was given: signals, exit codes and the
kernel's eye on its parent are those of any kernel. Libraries read the environment when they are imported, so there is
one server for each environment. A kernel that cannot be forked is started as usual, and pytest's last lines tell why.

What still differs: kernels of one server hash strings alike; no matplotlibrc is read in a notebook's folder; a module
that a lesson forgot to import may be there already. `make notebooks` starts its kernels as usual.
"""

import ctypes
import importlib
import inspect
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from typing import ClassVar

# What every lesson has imported when its set-up is done, less what needs a running kernel (the inline backend).
LIBRARIES = ["ipykernel.kernelapp", "ipywidgets", "matplotlib.pyplot", "PIL.Image", "torch", "safetensors.torch"]
LIBRARIES += [f"transformers.models.{part}" for part in ("gpt2.modeling_gpt2", "auto.modeling_auto")]
LIBRARIES += ["transformers.models.auto.tokenization_auto", "transformers.tokenization_utils_tokenizers"]
NOT_READ = ("PREFCOURSE_", "PYTEST_", "JPY_SESSION_NAME")  # by them: may differ between the kernels of one server
INLINE = "module://matplotlib_inline.backend_inline"
SUBREAPER, DEATH_SIGNAL = 36, 1  # PR_SET_CHILD_SUBREAPER and PR_SET_PDEATHSIG of linux/prctl.h


def prctl(option: int, value: int) -> None:
    """The system call of that name."""
    if ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        raise OSError(f"prctl({option}) is refused")


# ------------------------------------------------------------------------------------------------- in pytest's process


class Server:
    """The process that forks kernels for one environment."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(120)
        with theirs, tempfile.TemporaryFile("w+", encoding="utf-8") as said:
            command = [sys.executable, __file__, "--serve", str(theirs.fileno())]
            how = {"stdin": subprocess.DEVNULL, "stdout": said, "stderr": said, "pass_fds": [theirs.fileno()]}
            self.process = subprocess.Popen(command, env=environment, start_new_session=True, **how)
            theirs.close()
            ready = self.socket.recv(20)
            said.seek(0)
            if (text := said.read().strip()) or not ready:  # a kernel started as usual shows it in the notebook
                self.stop()
                raise RuntimeError(f"the imports say: {text.splitlines()[-1:]}")

    def fork(self, request: dict, files: list[int]) -> int:
        """The process id of a new kernel, which is a child of this process."""
        prctl(SUBREAPER, 1)  # the server forks twice, and the orphan is ours
        try:
            socket.send_fds(self.socket, [json.dumps(request).encode()], files)
            pid = int(self.socket.recv(20))
        finally:
            prctl(SUBREAPER, 0)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # an OSError, were it not our child
        return pid

    def stop(self) -> None:
        """End the process. Kernels are not its children, and go on."""
        self.socket.close()
        self.process.kill()
        self.process.wait()


class Popen(subprocess.Popen):
    """Popen, but a kernel of this interpreter is forked."""

    servers: ClassVar[dict] = {}  # for an environment: its server, or None after a failure
    forked, cold = 0, ()  # how many kernels, and for each that was started as usual the reason
    lock = threading.Lock()
    signature = inspect.signature(subprocess.Popen._execute_child)

    def _execute_child(self, *arguments):
        """Start the process; Popen calls this when it has opened what the process gets as its three streams."""
        given = self.signature.bind(self, *arguments).arguments
        if list(given["args"][:3]) == [sys.executable, "-m", "ipykernel_launcher"] and (pid := self.fork(given)):
            self.pid, self._child_created = pid, True
            ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
            return self._close_pipe_fds(*(given[end] for end in ends))
        return super()._execute_child(*arguments)

    @staticmethod
    def fork(given: dict) -> int | None:
        """The process id of a kernel with these arguments of Popen; None if it has to be started as usual."""
        environment = dict(os.environ if given["env"] is None else given["env"])
        request = {"parent": os.getpid(), "arguments": given["args"][3:], "environment": environment}
        request["folder"] = os.path.abspath(given["cwd"] or os.getcwd())
        files = [given[end] if given[end] != -1 else k for k, end in enumerate(("p2cread", "c2pwrite", "errwrite"))]
        read = {name: value for name, value in environment.items() if not name.startswith(NOT_READ)}
        key = frozenset(read.items())
        with Popen.lock:
            try:
                if key not in Popen.servers:
                    Popen.servers[key] = None
                    Popen.servers[key] = Server(read)
                if Popen.servers[key] is None:
                    raise RuntimeError("as before")
                pid = Popen.servers[key].fork(request, files)
            except (OSError, RuntimeError, ValueError) as error:
                Popen.cold = (*Popen.cold, str(error))
                if server := Popen.servers[key]:
                    Popen.servers[key] = server.stop()
                return None
            Popen.forked += 1
            return pid


def pytest_configure() -> None:
    """From here on, jupyter_client forks kernels."""
    if sys.platform == "linux":
        import jupyter_client.launcher

        jupyter_client.launcher.Popen = Popen


def pytest_unconfigure() -> None:
    """Stop the servers. When pytest is killed they see it by their sockets."""
    while Popen.servers:
        if server := Popen.servers.popitem()[1]:
            server.stop()


def pytest_terminal_summary(terminalreporter) -> None:
    """How the kernels were started."""
    if Popen.forked:
        terminalreporter.write_line(f"{Popen.forked} kernels were forked")
    if Popen.cold:
        terminalreporter.write_line(f"WARNING: {len(Popen.cold)} kernels were not forked: {Popen.cold[0]}")


# ------------------------------------------------------------------------------ in the server, and in a kernel after it


class Stream:
    """Stands in for sys.stdout or sys.stderr during the imports: what keeps it then will write to the notebook."""

    def __init__(self, now) -> None:
        self.now = now

    def __getattr__(self, name: str):
        return getattr(self.now, name)

    def flush(self) -> None:
        """A method of its own, because transformers keeps it alone."""
        self.now.flush()


def preload() -> dict[str, str]:
    """Import the libraries; returns what they added to the environment."""
    os.environ["MPLBACKEND"] = os.environ.get("MPLBACKEND") or INLINE  # which ipykernel does before any cell
    before = dict(os.environ)
    for name in LIBRARIES:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a library has started a thread, which a fork would lose"
    return {name: value for name, value in os.environ.items() if before.get(name) != value}


def serve(connection: socket.socket, added: dict[str, str]) -> list[str]:
    """Fork for every request until pytest is gone. Returns in each forked process, with the kernel's arguments."""
    connection.send(b"ready")
    while True:
        message, files, *_ = socket.recv_fds(connection, 1 << 20, 3)
        if not message:
            os._exit(0)
        request = json.loads(message)
        reader, writer = os.pipe()
        if (between := os.fork()) == 0:
            between = os.getpid()
            if os.fork():
                os._exit(0)
            become_child(between, request["parent"])
            os.chdir(request["folder"])
            os.environ.clear()
            os.environ.update(request["environment"] | added)
            for number, file in enumerate(files):
                os.dup2(file, number)
            os.write(writer, b"%d" % os.getpid())
            for file in (*files, reader, writer, connection.detach()):
                os.close(file)
            return request["arguments"]
        for file in (*files, writer):
            os.close(file)
        os.waitpid(between, 0)
        connection.send(os.read(reader, 20) or b"the fork failed")
        os.close(reader)


def become_child(between: int, parent: int) -> None:
    """Wait until pytest has adopted this orphan. Then die when it dies, and lead a session as kernels do."""
    while os.getppid() == between:
        time.sleep(0.001)
    prctl(DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    os.setsid()


def run_kernel(arguments: list[str], streams: list[Stream]) -> None:
    """`python -m ipykernel_launcher`, and what the imports would have done in a running kernel."""
    import ipywidgets
    import numpy
    import torch
    from ipykernel.kernelapp import IPKernelApp

    def start(app) -> None:
        streams[0].now, streams[1].now = sys.stdout, sys.stderr
        ipywidgets._handle_ipython()
        start_as_usual(app)

    start_as_usual, IPKernelApp.start = IPKernelApp.start, start
    numpy.random.seed()  # from the system, as a new process does; `random` sees to itself
    torch.default_generator.seed()
    importlib.invalidate_caches()
    sys.argv = ["", *arguments]
    sys.path.insert(0, os.getcwd())
    runpy.run_module("ipykernel_launcher", run_name="__main__", alter_sys=True)


def main() -> None:
    """The server, or pytest with the arguments of the command line."""
    if sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
        del sys.path[0]
    if sys.argv[1:2] == ["--serve"]:
        streams = sys.stdout, sys.stderr = Stream(sys.stdout), Stream(sys.stderr)
        added = preload()
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        run_kernel(serve(socket.socket(fileno=int(sys.argv[2])), added), streams)
    else:
        import pytest

        raise SystemExit(pytest.main(plugins=[sys.modules[__name__]]))


if __name__ == "__main__":
    main()
