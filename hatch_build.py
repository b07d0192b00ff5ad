"""Compile the CPU kernels when a wheel (or an editable install) is made: one library per instruction set.

Without a working C++ compiler the build goes on: the installed package then runs its reference backend, and says so.
"""

import os
import platform
import shlex
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CPU = Path("src/elmnet/ops/cpu")
FLAGS = ["-std=c++20", "-O3", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti"]
FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-Wno-psabi"]
X86 = {
    "avx512": ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma", "-mprefer-vector-width=512"],
    "avx2": ["-mavx2", "-mfma"],
}


class KernelHook(BuildHookInterface):
    """Hatch calls `initialize` before it collects files."""

    def initialize(self, version: str, build_data: dict) -> None:
        root = Path(self.root)
        variants = {**(X86 if platform.machine().lower() in ("x86_64", "amd64") else {}), "plain": []}
        compiler = shlex.split(os.environ.get("CXX", "c++"))
        with ThreadPoolExecutor() as pool:  # every variant is a process of its own
            jobs = {name: pool.submit(_compile, compiler, flags, root, name) for name, flags in variants.items()}
        try:
            libraries = [job.result() for job in jobs.values()]
        except (OSError, subprocess.CalledProcessError) as error:
            if os.environ.get("ELMNET_REQUIRE_KERNELS"):
                raise
            detail = getattr(error, "stderr", None) or error
            print(f"elmnet: CPU kernels not built, the reference backend will run instead: {detail}", file=sys.stderr)
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        build_data["artifacts"] += [f"/{path.relative_to(root)}" for path in libraries]


def _compile(compiler: list[str], flags: list[str], root: Path, name: str) -> Path:
    target = root / CPU / f"kernels_{name}.so"
    partial = target.with_suffix(f".{os.getpid()}.tmp")
    command = [*compiler, *FLAGS, *flags, str(root / CPU / "kernels" / "kernel.cpp"), "-o", str(partial)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
        partial.replace(target)  # a running process keeps the file it has mapped
    finally:
        partial.unlink(missing_ok=True)
    return target
