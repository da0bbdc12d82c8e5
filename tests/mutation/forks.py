"""Processes of their own for tests that may do anything: loop, ask for all memory, crash."""

import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_MEMORY = 8 << 30  # bytes of addresses beyond those that the libraries have
_IDLE = 20  # times the CPU's limit that may pass on a busy machine


@dataclass
class Fork:
    """A running child; `said` is the last line that it wrote, the name of the test it was at."""

    pid: int
    pipe: int
    ends: float
    said: str = ""

    def finished(self) -> str | None:
        """ "survived", "killed" or "timeout" (also a kill), None while it runs."""
        done, status = os.waitpid(self.pid, os.WNOHANG)
        if not done and time.monotonic() < self.ends:
            return None
        if not done:
            self.kill()
            _, status = os.waitpid(self.pid, 0)
        with os.fdopen(self.pipe, encoding="utf-8", errors="replace") as pipe:
            self.said = (pipe.read().splitlines() or [""])[-1]
        code = os.waitstatus_to_exitcode(status)
        if not done or code in (-signal.SIGXCPU, -signal.SIGKILL):
            return "timeout"
        return "killed" if code else "survived"

    def kill(self) -> None:
        """End it and what it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


def fork(work: Callable[[Callable[[str], None]], bool], seconds: float) -> Fork:
    """`work(say)` in a child, which exits with 0 where it returns True; it may use `seconds` of a CPU.

    Its output goes nowhere; lines that it hands to `say` reach the parent, the last of them in the end.
    """
    receive, send = os.pipe()
    pid = os.fork()
    if pid:
        os.close(send)
        return Fork(pid, receive, time.monotonic() + _IDLE * seconds)
    status = 1
    try:
        os.setsid()
        os.close(receive)
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        used = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 1, resource.RLIM_INFINITY))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MEMORY,) * 2)
        status = 0 if work(lambda line: _write(send, line)) else 1
    finally:
        os._exit(status)


def _write(pipe: int, line: str) -> None:
    os.write(pipe, f"{line}\n".encode())
