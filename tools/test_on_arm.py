"""Run the kernels' tests on an ARM processor with dot product, emulated on a Debian PC.

    python tools/test_on_arm.py FOLDER [PYTEST ARGUMENT...]

FOLDER keeps what the emulation is made of, about 1 GB, for the next time: qemu, Debian's Python for
ARM and the libraries' wheels for ARM, fetched with the system's own apt and pip settings. Nothing
is installed and root is not needed. Run it in an environment that has cpumix: its requirements are
taken from there.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = [*sorted(ROOT.glob("tests/kernels/test_*.py")), ROOT / "tests/kernels/simd/test_arm.py"]
PROCESSOR = "neoverse-n1"  # for qemu: the first server processor with the dot product
PACKAGES = ["python3", "libstdc++6", "libgomp1"]  # libgomp: numba's usual thread layer
GLIBC = ("2_28", "2_27", "2_17")  # whose wheels run on any Debian of the last years


def run(*command: str | Path) -> None:
    """Run a command; raise CalledProcessError if it fails."""
    subprocess.run(command, check=True)


def unpack_debian(folder: Path) -> None:
    """Fetch Python for ARM and qemu with apt; unpack them to the folders root and host."""
    apt, host = folder / "apt", subprocess.check_output(["dpkg", "--print-architecture"], text=True)
    for place in ("lists/partial", "archives/partial"):
        (apt / place).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()  # nothing is installed: apt fetches every dependency
    settings = {
        "Dir::State": apt,
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt,
        "APT::Architectures": f"{host.strip()},arm64",
        "APT::Sandbox::User": "root",  # do not become a user who may not write here
    }
    options = [f"--option={name}={value}" for name, value in settings.items()]
    run("apt-get", "--quiet=2", "update", *options)
    wanted = ["qemu-user-static", *(f"{package}:arm64" for package in PACKAGES)]
    only = ["--yes", "--download-only", "--no-install-recommends"]
    run("apt-get", "--quiet=2", "install", *only, *wanted, *options)
    for package in sorted((apt / "archives").glob("*.deb")):
        if re.search(r"_(arm64|all)\.deb$", package.name):
            run("dpkg-deb", "--extract", package, folder / "root")
        elif package.name.startswith("qemu-user"):
            run("dpkg-deb", "--extract", package, folder / "host")


def python_of(folder: Path) -> Path:
    """Return the unpacked Python, such as root/usr/bin/python3.11."""
    found = (folder / "root/usr/bin").glob("python3.*")
    return next(path for path in found if re.fullmatch(r"python3\.\d+", path.name))


def unpack_wheels(folder: Path) -> None:
    """Fetch what cpumix needs, and pytest, for the unpacked Python."""
    needed = [name for name in requires("cpumix") or [] if "extra ==" not in name]
    platforms = [f"--platform=manylinux_{version}_aarch64" for version in GLIBC]
    version = python_of(folder).name.removeprefix("python")
    target = [f"--target={folder / 'site'}", f"--python-version={version}", "--only-binary=:all:"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade"]
    run(*pip, *target, *platforms, "--platform=manylinux2014_aarch64", *needed, "pytest")


def write_starter(folder: Path) -> Path:
    """Write the script that starts the emulated Python, and make that Python know it."""
    programs = (folder / "host/usr/bin").glob("qemu-aarch64*")  # -static, before Debian 13
    qemu = next(path for path in programs if "_be" not in path.name)
    starter, python = folder / "python", python_of(folder)
    starter.write_text(
        f'#!/bin/sh\nexec "{qemu}" -cpu {PROCESSOR} -L "{folder / "root"}" "{python}" "$@"\n'
    )
    starter.chmod(0o755)
    # Tests that start another Python start this one.
    customize = f"import sys\n\nsys.executable = {str(starter)!r}\n"
    (folder / "site/sitecustomize.py").write_text(customize)
    return starter


def main() -> int:
    """Build the emulated system if need be, and run the tests on it."""
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    folder, arguments = Path(sys.argv[1]).resolve(), sys.argv[2:]
    done = folder / "complete"
    if not done.exists():
        print(f"fetching the emulated system to {folder}", flush=True)
        unpack_debian(folder)
        unpack_wheels(folder)
        done.touch()
    environment = {
        "CPUMIX_ISA": "neon",
        "CPUMIX_CACHE_DIR": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join(map(str, (folder / "site", ROOT))),
        "PYTHONPYCACHEPREFIX": str(folder / "pycache"),
    }
    command: list[str | Path] = [write_starter(folder), "-m", "pytest", "-p", "no:cacheprovider"]
    named = any(Path(argument.split("::")[0]).exists() for argument in arguments)
    tests = [] if named else TESTS
    return subprocess.run(
        [*command, *tests, *arguments], cwd=ROOT, env={**os.environ, **environment}
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
