"""The command line starts fast: what needs no model imports no torch."""

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "diffusers", "transformers", "cv2"}
PROGRAM = """
import json, sys
sys.argv = ["holdfast", *json.loads(sys.argv[1])]
try:
    import holdfast.cli.app
    holdfast.cli.app.main()
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def imported(program, *arguments):
    command = [sys.executable, "-c", program, *arguments]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return set(json.loads(result.stderr.splitlines()[-1]))


def test_the_package_imports_nothing_heavy():
    program = "import holdfast, json, sys; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    assert not imported(program) & (HEAVY | {"numpy", "pydantic", "typer", "rich", "av"})


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["edit", "--help"],
        ["list"],
        ["list", "methods"],
        ["list", "flowedit"],
        ["list", "backbones"],
        ["list", "pairs"],
        ["schema"],
        ["schema", "i2vedit"],
    ],
    ids=" ".join,
)
def test_a_command_that_needs_no_model_imports_no_torch(arguments):
    assert not imported(PROGRAM, json.dumps(arguments)) & HEAVY
