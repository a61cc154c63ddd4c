"""The tool that collects the demo model's text, on packages made up here."""

from __future__ import annotations

import gzip
import shutil
import sys
from pathlib import Path

import pytest
from build_corpus import main
from click.testing import CliRunner, Result

VERSES = """
Genesis 1

  1 In the beginning God created the heaven and the earth.
  2 And the earth was without form, and void; and darkness was upon the face of
the deep. And the Spirit of God moved upon the face of the waters.

Genesis 2

  10 And a river went out of Eden to water the garden.
"""


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder as dpkg -x leaves it, with a `bible` that prints two chapters."""
    root = tmp_path / "packages"
    dictionaries = root / "usr/share/dictd"
    dictionaries.mkdir(parents=True)
    for name in ("jargon", "devil"):
        text = f"{name}, n.  A word.\n"
        (dictionaries / f"{name}.dict.dz").write_bytes(gzip.compress(text.encode()))
    (root / "usr/bin").mkdir()
    program = root / "usr/bin/bible"
    program.write_text(
        f"#!{sys.executable}\nimport sys\n"
        f"assert sys.argv[1:] == ['-p', {str(root / 'usr/lib')!r}, 'Gen1:1-Rev22:21']\n"
        f"print({VERSES!r}, end='')\n"
    )
    program.chmod(0o755)
    (root / "usr/lib").mkdir()
    (root / "usr/lib/bible.data").touch()
    return root


def build(out: Path, root: Path) -> Result:
    return CliRunner().invoke(main, [str(out), "--root", str(root)])


@pytest.mark.skipif(shutil.which("fmt") is None, reason="this system has no fmt")
def test_texts_are_written_with_verses_joined(packages: Path, tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    result = build(out, packages)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == ["devil.txt", "jargon.txt", "kjv.txt"]
    assert (out / "jargon.txt").read_text() == "jargon, n.  A word.\n"
    bible = (out / "kjv.txt").read_text()
    assert "Genesis 1\n\nIn the beginning" in bible
    assert "the face of the deep." in bible  # on one line now
    assert "10" not in bible


@pytest.mark.parametrize(
    ("missing", "package"),
    [
        ("usr/bin/bible", "bible-kjv"),
        ("usr/lib/bible.data", "bible-kjv-text"),
        ("usr/share/dictd/jargon.dict.dz", "dict-jargon"),
        ("usr/share/dictd/devil.dict.dz", "dict-devil"),
    ],
)
def test_missing_package_is_named(
    packages: Path, tmp_path: Path, missing: str, package: str
) -> None:
    (packages / missing).unlink()
    result = build(tmp_path / "corpus", packages)
    assert result.exit_code == 1
    assert f"no file here from the Debian package {package}: {packages / missing}" in result.output
    assert not (tmp_path / "corpus").exists()


def test_file_that_is_not_dictzip_is_named(packages: Path, tmp_path: Path) -> None:
    (packages / "usr/share/dictd/devil.dict.dz").write_text("plain")
    result = build(tmp_path / "corpus", packages)
    assert result.exit_code == 1
    assert "not a dictzip file" in result.output


def test_program_that_fails_is_quoted(packages: Path, tmp_path: Path) -> None:
    program = packages / "usr/bin/bible"
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('no such verse')\n")
    result = build(tmp_path / "corpus", packages)
    assert result.exit_code == 1
    assert "failed: no such verse" in result.output


def test_program_that_cannot_run_is_named(packages: Path, tmp_path: Path) -> None:
    (packages / "usr/bin/bible").chmod(0o644)
    result = build(tmp_path / "corpus", packages)
    assert result.exit_code == 1
    assert f"cannot run {packages / 'usr/bin/bible'}: Permission denied." in result.output
