"""Commands that only read files answer at once: they import no library that builds models."""

from __future__ import annotations

import json
import subprocess
import sys

COMMANDS = (["list"], ["info", "shapes/circle"], ["verify", "shapes/circle"], ["push", "--help"], ["export", "--help"])
# Runs every command, and prints the slow libraries that are imported after each of them.
CODE = """
import contextlib, io, json, sys
from robust_encoders.cli.main import main
found = []
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main(command)
        except SystemExit as end:
            code = end.code
    found.append([code, sorted({"transformers", "diffusers", "accelerate"} & set(sys.modules))])
print(json.dumps(found))
"""


def test_commands_that_build_no_model_import_no_library_of_models() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(COMMANDS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = dict(zip(map(" ".join, COMMANDS), json.loads(done.stdout), strict=True))
    assert found == {" ".join(command): [0, []] for command in COMMANDS}
