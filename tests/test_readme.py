"""The README tells the truth: its code runs, its commands exist, CI runs its test command."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text()


def test_python_blocks_run():
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_commands_exist():
    commands = sorted(set(re.findall(r"`elmnet (\w+)", README)))
    assert len(commands) >= 7
    for command in commands:
        done = subprocess.run([sys.executable, "-m", "elmnet", command, "--help"], capture_output=True, check=False)
        assert done.returncode == 0, command


def test_linked_files_exist():
    for name in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / name).exists(), name


def test_the_tree_names_real_files():
    tree = README.split("src/elmnet/\n")[1].split("```")[0]
    names = re.findall(r"\w+(?:\.py|/(?=\s))", tree)
    assert len(names) > 12
    for name in names:
        assert any((ROOT / "src" / "elmnet").rglob(name.rstrip("/"))), name


def test_ci_finds_the_test_command():
    script = (ROOT / ".ci" / "run").read_text()
    program = re.search(r"awk '(.*)' README.md", script)
    if program is None:
        pytest.fail(".ci/run no longer reads README.md with awk")
    found = subprocess.run(["awk", program[1], "README.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip().endswith("pytest -n 2")
    assert found.stdout.strip() in README
