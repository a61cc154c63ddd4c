"""Make the text that `cpumix convert --calibrate` uses when it is given none.

    python tools/build_calibration_text.py SOURCES

It should be a little of all that people write and ask for: stories, facts, code, conversations, and
more languages than English. All of it is in the public domain, or our own:

    GITenberg/Alice-s-Adventures-in-Wonderland_11     Carroll, 1865, English
    GITenberg/The-Adventures-of-Sherlock-Holmes_1661  Doyle, 1892, English
    GITenberg/Die-Verwandlung_22367                   Kafka, 1915, German
    GITenberg/Don-Quijote_2000                        Cervantes, 1605, Spanish
    eric-muller/udhr                                  the Universal Declaration of Human Rights,
                                                      which the United Nations keep free
    tools/calibration/dialogues.txt, code.txt         written for cpumix, CC0
    some modules and pages of cpumix itself           its own licence, Apache-2.0

SOURCES is a folder with clones of these repositories of GitHub, each under its own name:

    git clone https://github.com/GITenberg/Don-Quijote_2000 SOURCES/Don-Quijote_2000

Files are read as they are in the commits below, so that the text is the same for everybody. From
the Gutenberg texts only the author's own words are taken.
"""

from __future__ import annotations

import gzip
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

import click

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "cpumix/converter/calibration/calibration.txt.gz"
UDHR = "f93dd614154c47fc4b85ec03d8d6f1abe97869ef"
LANGUAGES = ("fra", "ita", "por_PT", "rus", "pol", "nld", "tur", "arb", "cmn_hans", "jpn", "kor")
LETTERS_OF_LANGUAGE = 6_000
OWN = (
    *("cpumix/kv/table.py", "cpumix/tokenizer/stream.py", "cpumix/units.py"),
    *("cpumix/sampling/mirostat.py", "docs/how-it-works.md", "docs/expert-offloading.md"),
)
OWN_COMMIT = "546a595dc8a1642b5a01744f65c8afb0bd0ebc7f"


class Book(NamedTuple):
    """A part of a text of Project Gutenberg."""

    repository: str
    commit: str
    path: str
    encoding: str
    begins: str
    """The first words that are taken."""
    letters: int


BOOKS = (
    Book(
        "Alice-s-Adventures-in-Wonderland_11",
        "7f18748e114b994d5d9454d5793581bc0b9cf9d7",
        "11.txt",
        "ascii",
        "CHAPTER V. Advice from a Caterpillar",
        22_000,
    ),
    Book(
        "The-Adventures-of-Sherlock-Holmes_1661",
        "7e5dd2703fbf503c004063e96ab7c61262375e5f",
        "1661-8.txt",
        "latin-1",
        "On glancing over my notes of the seventy odd cases",
        30_000,
    ),
    Book(
        "Die-Verwandlung_22367",
        "dd2beec59176851bfb071689539d6091b3d95d11",
        "22367-8.txt",
        "latin-1",
        "Als Gregor Samsa eines Morgens",
        18_000,
    ),
    Book(
        "Don-Quijote_2000",
        "7879f2c1653ec515d125f49b177c3ef7f596bc3f",
        "2000-8.txt",
        "latin-1",
        "En un lugar de la Mancha",
        18_000,
    ),
)


def show(repository: Path, commit: str, path: str) -> bytes:
    """Return a file as it is in a commit."""
    command = ["git", "-C", str(repository), "show", f"{commit}:{path}"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise click.ClickException(
            f"{repository}: expected a clone with commit {commit[:12]}: "
            f"{done.stderr.decode(errors='replace').strip()}"
        )
    return done.stdout


def read_book(sources: Path, book: Book) -> str:
    """Return a part of a book, its lines joined to paragraphs."""
    text = show(sources / book.repository, book.commit, book.path).decode(book.encoding)
    text = text.replace("\r\n", "\n")
    start = text.index(book.begins)
    end = text.index("\n\n", start + book.letters)
    return join_lines(text[start:end])


def join_lines(text: str) -> str:
    """Return a text whose paragraphs are one line each."""
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return "\n\n".join(filter(None, paragraphs))


def read_declaration(sources: Path, language: str) -> str:
    """Return the beginning of the Declaration in one language."""
    data = show(sources / "udhr", UDHR, f"data/udhr/udhr_{language}.xml")
    found = ElementTree.fromstring(data).iter()
    paragraphs = (" ".join((node.text or "").split()) for node in found)
    text = "\n".join(filter(None, paragraphs))
    return text[: text.rindex("\n", 0, LETTERS_OF_LANGUAGE)]


def build(sources: Path) -> str:
    """Return the whole text."""
    parts = [read_book(sources, book) for book in BOOKS]
    parts += [read_declaration(sources, language) for language in LANGUAGES]
    parts += [show(ROOT, OWN_COMMIT, path).decode() for path in OWN]
    written = ROOT / "tools/calibration"
    parts += [(written / name).read_text("utf-8") for name in ("dialogues.txt", "code.txt")]
    return "\n\n\n".join(part.strip() for part in parts) + "\n"


@click.command(help=__doc__.partition("\n")[0])
@click.argument("sources", type=click.Path(path_type=Path, file_okay=False))
def main(sources: Path) -> None:
    """Write the text where the package has it."""
    text = build(sources)
    TARGET.write_bytes(gzip.compress(text.encode(), mtime=0))
    click.echo(f"{TARGET}: {len(text)} letters, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
