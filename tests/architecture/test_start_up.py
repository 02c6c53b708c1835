"""Starting is light: the package and `--help` load no tensor library, and reports never do."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.architecture.source_tree import PACKAGE, ROOT

HEAVY = ("torch", "gymnasium", "matplotlib", "polars", "pandas", "h5py", "minari", "tensorboard", "sklearn", "mujoco")
REPORT = sorted(f"stitchrl.report.{path.stem}" for path in (PACKAGE / "report").glob("*.py") if path.name != "__init__.py")


def loaded_after(program: str) -> set[str]:
    """Returns the top-level modules that a fresh interpreter has loaded after the program."""
    ending = "\nimport json, sys\nprint('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    command = [sys.executable, "-c", f"import sys\nsys.path.insert(0, {str(ROOT / 'src')!r})\n{program}{ending}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import stitchrl") & {*HEAVY, "numpy"} == set()


def test_the_check_sees_what_is_loaded() -> None:
    assert "numpy" in loaded_after("import numpy")


@pytest.mark.parametrize("module", REPORT)
def test_a_report_never_loads_torch(module: str) -> None:
    assert "torch" not in loaded_after(f"import {module}")


if (PACKAGE / "cli.py").exists():

    def test_help_loads_nothing_heavy() -> None:
        stop = "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code"
        program = f"from stitchrl.cli import main\nsys.argv = ['stitchrl', '--help']\n{stop}"
        assert loaded_after(program) & set(HEAVY) == set()
