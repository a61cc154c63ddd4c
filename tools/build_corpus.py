"""Collect the public-domain English that the demo model learnt from.

The text comes from Debian packages, so that it is the same everywhere and its licence is on record:

    bible-kjv, bible-kjv-text   the King James Bible (1611)               -> kjv.txt
    dict-jargon                 the Jargon File 4.4.7, public domain      -> jargon.txt
    dict-devil                  The Devil's Dictionary (Bierce, 1911)     -> devil.txt

Install them, or unpack them anywhere and name the folder:

    apt-get download bible-kjv bible-kjv-text dict-jargon dict-devil
    for package in *.deb; do dpkg -x $package packages; done
    python tools/build_corpus.py corpus --root packages

Add other *.txt to the folder to learn from them too; tools/train_demo_model.py reads them all.
"""

from __future__ import annotations

import gzip
import re
import subprocess
from pathlib import Path

import click

WHOLE_BIBLE = "Gen1:1-Rev22:21"
VERSE_NUMBER = re.compile(r"^ +[0-9]+ ", re.MULTILINE)
LINE_WIDTH = 1000  # of a joined chapter; the demo model's text was broken so
DICTIONARIES = {"jargon": "dict-jargon", "devil": "dict-devil"}


def existing(path: Path, package: str) -> Path:
    """Return the path, or say which package would have brought the file."""
    if not path.is_file():
        raise click.ClickException(
            f"no file here from the Debian package {package}: {path}\n"
            "Install the package, or unpack it and give the folder as --root."
        )
    return path


def run(command: list[str], text: str | None = None) -> str:
    """Return what a program prints, given text on its standard input."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    except OSError as e:
        raise click.ClickException(f"cannot run {command[0]}: {e.strerror}.") from e
    if done.returncode:
        raise click.ClickException(f"{command[0]} failed: {done.stderr.strip()}")
    return done.stdout


def read_bible(root: Path) -> str:
    """Return the Bible by chapters: a heading, then the verses joined without their numbers."""
    program = existing(root / "usr/bin/bible", "bible-kjv")
    data = existing(root / "usr/lib/bible.data", "bible-kjv-text")
    verses = run([str(program), "-p", str(data.parent), WHOLE_BIBLE])
    return run(["fmt", "-w", str(LINE_WIDTH)], VERSE_NUMBER.sub("", verses))


def read_dictionary(root: Path, name: str) -> str:
    """Return the text of a dictd dictionary as it is shipped; dictzip is gzip."""
    path = existing(root / f"usr/share/dictd/{name}.dict.dz", DICTIONARIES[name])
    try:
        return gzip.decompress(path.read_bytes()).decode(errors="replace")
    except (OSError, EOFError) as e:
        raise click.ClickException(f"not a dictzip file ({e}): {path}") from e


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("/"),
    show_default=True,
    help="Where the packages are installed or unpacked.",
)
def main(out: Path, root: Path) -> None:
    """Write kjv.txt, jargon.txt and devil.txt to the folder OUT."""
    texts = {name: read_dictionary(root, name) for name in DICTIONARIES}
    texts["kjv"] = read_bible(root)
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (out / f"{name}.txt").write_text(text, encoding="utf-8")
        click.echo(f"{name}.txt: {len(text):,} characters")


if __name__ == "__main__":
    main()
