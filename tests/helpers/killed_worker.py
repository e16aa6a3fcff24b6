"""A process that does one operation at a time in a fork of itself, and kills the fork when it is told to.

Run by ``test_killed.py``. A line of JSON in is one operation, a line of JSON out is what became of it. Everything is
imported before the first fork, so that an operation costs its own time only.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import huggingface_hub.hf_api
import torch

from robust_encoders import CompatibilityWarning, RobustEncoder, RobustEncodersError
from robust_encoders.artifact.fingerprint import content_sha256
from robust_encoders.cli import main as cli
from robust_encoders.hub import download as hub
from robust_encoders.utils import home

Given = Mapping[str, Any]
Operation = Callable[[], str]


def save(given: Given) -> Operation:
    encoder = RobustEncoder.from_pretrained(given["source"])

    def operation() -> str:
        encoder.save_pretrained(given["target"])
        return encoder.content_sha256

    return operation


def push(given: Given) -> Operation:
    encoder = RobustEncoder.from_pretrained(given["source"])

    def operation() -> str:
        encoder.push_to_hub(given["repo"])
        return encoder.content_sha256

    return operation


def convert(given: Given) -> Operation:
    def operation() -> str:
        if code := cli.main(["convert", given["source"], given["target"], "--force"]):
            raise RuntimeError(f"expected the command to succeed, found exit code {code}")
        return ""

    return operation


def load(given: Given) -> Operation:
    return lambda: content_sha256(RobustEncoder.from_pretrained(given["name"], **given["options"]).tensors)


OPERATIONS: Mapping[str, Callable[[Given], Operation]] = {"save": save, "push": push, "convert": convert, "load": load}


def kill_at(events: list[str], passed: int) -> None:
    """Kill this process right before one of Python's audit events, so many of which are let pass."""
    left = passed

    def count(name: str, arguments: Any) -> None:
        nonlocal left
        if name in events:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def child(command: Given, pipe: int) -> NoReturn:
    os.setsid()
    os.environ["ROBUST_ENCODERS_HOME"] = command["given"]["home"]
    operation = OPERATIONS[command["do"]](command["given"])
    if command["at"]:
        kill_at(*command["at"])
    os.write(pipe, b"b")
    started = time.perf_counter()
    try:
        answer = {"hash": operation()}
    except RobustEncodersError as error:
        answer = {"refused": f"{type(error).__name__}: {error}"}
    os.write(pipe, json.dumps({**answer, "seconds": time.perf_counter() - started}).encode())
    os._exit(0)


def run(command: Given) -> dict[str, Any]:
    """Do an operation in a fork; return its hash or its refusal, or that it was killed before it had either."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        child(command, writing)
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        if pipe.read(1) and command["after"] is not None:
            time.sleep(command["after"])
            os.killpg(pid, signal.SIGKILL)
        said = pipe.readall()
    status = os.waitpid(pid, 0)[1]
    if said:
        return dict(json.loads(said))
    return {"killed": True} if os.WIFSIGNALED(status) else {"failed": "see stderr"}


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", CompatibilityWarning)
    # Nothing else works in these folders: a file that a killed process left is abandoned at once, not in an hour.
    home.HOUR = hub.ABANDONED = -1.0
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    huggingface_hub.hf_api.HfApi()  # which imports what is imported on first use
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "warm":
            RobustEncoder.from_pretrained(command["given"]["source"])
        answers.write(json.dumps({} if command["do"] == "warm" else run(command)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
