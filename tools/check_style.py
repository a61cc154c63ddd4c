"""Hold the house rules that ruff and mypy have no words for.

    python tools/check_style.py

- A file of the package or the tools fits a few screens: at most 320 lines.
- A module imports only from lower rooms, or from its own (`ROOMS`), and never in a circle.
- Each library with a home is imported only there (`HOMES`), and `njit` only in
  kernels/compile/jit.py.
- A public constant, class or type that one module imports from another has one meaning: no module
  defines another thing by that name.
- A kernel takes at most 8 arguments, and the address of no array but those.
- Every message of an error that a user can cause is matched by a test.
- No two files of tests have one name, and no test changes the clock that all threads read.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from check_messages import check_messages, parse

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 320

ROOMS = [  # lowest first: a room imports only from those before it, or from itself
    "lazy",
    "errors",
    "arguments",
    "extras",
    "messages",
    "units",
    "input_file",
    "machine",
    "cache_dir",
    "config",
    "quant",
    "store",
    "kernels",
    "checkpoint",
    "hub",
    "tokenizer",
    "conversation",
    "experts",
    "kv",
    "memory",
    "transformer",
    "sampling",
    "engine",
    "model",
    "loading",
    "converter",
    "exporter",
    "inspector",
    "verifier",
    "fit",
    "measure",
    "api",
    "batch",
    "ray",
    "serve",
    "__init__",  # the public names, which the command line and other programs use
    "cli",
    "__main__",
]
HEIGHT = {name: height for height, name in enumerate(ROOMS)}
HOMES = {
    "numba": ("kernels/",),
    "llvmlite": ("kernels/", "store/bus_guard.py"),  # the guard is machine code, but no kernel
    "psutil": ("machine.py",),
    "click": ("cli/",),
    "huggingface_hub": ("hub/",),
    "threadpoolctl": ("converter/calibration/workers.py",),
    "prompt_toolkit": ("cli/chat_input.py",),
    **dict.fromkeys(("starlette", "uvicorn", "structlog"), ("serve/",)),
    "msgspec": ("api/", "serve/", "batch/"),
    "ray": ("batch/",),
    "pyarrow": ("batch/",),
    "prometheus_client": ("serve/metrics.py",),
    "opentelemetry": ("serve/tracing.py",),
}
KERNEL_ARGUMENTS = 8  # of a kernel: more belong in a record
COMPILED = {"kernel", "inlined", "parallel_kernel", "row_kernel"}
COMPILERS = {"jit", "njit", "vectorize", "guvectorize"}


def check_lengths(root: Path) -> Iterator[str]:
    """Complain about files that are no longer one noun."""
    for folder in ("cpumix", "tools"):
        for path in sorted((root / folder).rglob("*.py")):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > MAX_LINES:
                yield f"{path.relative_to(root)}: {lines} lines, at most {MAX_LINES} fit"


def imports(path: Path, package: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute dotted name) of everything that a module of `package` imports."""
    here = [package.name, *path.relative_to(package).parts[:-1]]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else []
            base = base + (node.module or "").split(".") if node.module else base
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)


def check_imports(root: Path) -> Iterator[str]:
    """Complain about imports from a higher room, and about libraries away from home."""
    package = root / "cpumix"
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        part = inside.parts[0].removesuffix(".py")
        if part not in HEIGHT:
            yield f"cpumix/{inside}: not a room; give '{part}' its place in ROOMS"
            continue
        for line, name in imports(path, package):
            top, *rest = name.split(".")
            place = f"cpumix/{inside}:{line}"
            if top == "cpumix":
                target = rest[0] if rest and rest[0] in HEIGHT else "__init__"
                if part not in ("__init__", target) and HEIGHT[target] >= HEIGHT[part]:
                    yield f"{place}: {part} must not import {target}, which is not below it"
            elif top in HOMES and not inside.as_posix().startswith(HOMES[top]):
                yield f"{place}: {top} is imported only in cpumix/{HOMES[top][0]}"
            elif top == "numba" and rest and rest[0] in COMPILERS and inside.name != "jit.py":
                yield f"{place}: {rest[0]} is used only in cpumix/kernels/compile/jit.py"


def check_circles(root: Path) -> Iterator[str]:
    """Complain about modules that import each other, if only for a type."""
    package, modules = root / "cpumix", {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        modules[".".join(parts).removesuffix(".__init__")] = path
    graph = {
        here: {
            name if name in modules else name.rpartition(".")[0]
            for _, name in imports(path, package)
        }
        for here, path in modules.items()
    }
    own = {here: names & modules.keys() - {here} for here, names in graph.items()}
    try:
        TopologicalSorter(own).prepare()
    except CycleError as error:
        yield f"a circle of imports: {' < '.join(error.args[1])}"


def definitions(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, what it is) of a module's public constants, types and classes."""
    for node in parse(path).body:
        if isinstance(node, ast.ClassDef):
            yield node.name, f"class of {path}"
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            for name in ast.walk(target):
                if isinstance(name, ast.Name) and name.id[0].isupper():
                    together = isinstance(target, ast.Tuple)  # a, b = range(2): of this module
                    yield name.id, f"{path if together else ''} {ast.dump(node)}"


def check_names(root: Path) -> Iterator[str]:
    """Complain about names with two meanings; equal right-hand sides are one meaning."""
    package = root / "cpumix"
    homes: dict[str, dict[str, Path]] = {}
    imported: set[str] = set()
    for path in sorted(package.rglob("*.py")):
        for name, meaning in definitions(path):
            homes.setdefault(name, {}).setdefault(meaning, path.relative_to(package))
        for _, dotted in imports(path, package):
            if dotted.startswith("cpumix."):
                imported.add(dotted.rsplit(".", 1)[1])
    for name in sorted(imported & homes.keys()):
        places = sorted({path.as_posix() for path in homes[name].values()})
        if len(places) > 1:
            yield f"{name}: defined in {' and '.join(places)}; one name, one meaning"


def check_kernels(root: Path) -> Iterator[str]:
    """Complain about kernels of more arguments than anybody keeps in order."""
    for path in sorted((root / "cpumix/kernels").rglob("*.py")):
        for node in ast.walk(parse(path)):
            if not isinstance(node, ast.FunctionDef):
                continue
            names = {
                n.id for d in node.decorator_list for n in ast.walk(d) if isinstance(n, ast.Name)
            }
            count = len(node.args.args) + len(node.args.kwonlyargs)
            if names & COMPILED and count > KERNEL_ARGUMENTS:
                place = f"{path.relative_to(root)}:{node.lineno}"
                yield f"{place}: {node.name} takes {count} arguments, at most {KERNEL_ARGUMENTS}"


def check_addresses(root: Path) -> Iterator[str]:
    """Complain about kernels that take the address of an array that they made themselves.

    Numba frees an array after the last line that names it, and does not know that an address still
    points into it. Arguments live as long as the call.
    """
    for path in sorted((root / "cpumix/kernels").rglob("*.py")):
        for call, arguments in calls_of("address", parse(path), set()):
            array = call.args[0]
            while isinstance(array, ast.Attribute):
                array = array.value
            if not (isinstance(array, ast.Name) and array.id in arguments):
                place, what = f"{path.relative_to(root)}:{call.lineno}", ast.unparse(call)
                yield f"{place}: {what} may outlive the array; only arguments live long enough"


def calls_of(name: str, node: ast.AST, arguments: set[str]) -> Iterator[tuple[ast.Call, set[str]]]:
    """Yield the calls of a function, each with the arguments of the function that it stands in."""
    if isinstance(node, ast.FunctionDef):
        arguments = {a.arg for a in node.args.args}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
        yield node, arguments
    for child in ast.iter_child_nodes(node):
        yield from calls_of(name, child, arguments)


def check_test_files(root: Path) -> Iterator[str]:
    """Complain about files of tests with one name: pytest can collect only one of them."""
    seen: dict[str, Path] = {}
    for path in sorted((root / "tests").rglob("test_*.py")):
        first = seen.setdefault(path.name, path)
        if first is not path:
            yield f"{path.relative_to(root)}: has the name of {first.relative_to(root)}"


def check_clocks(root: Path) -> Iterator[str]:
    """Complain about tests that replace a function of `time` itself.

    A server that runs in another thread then sleeps for hours; replace `time` where it is used.
    """
    for path in sorted((root / "tests").rglob("*.py")):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".setattr"):
                owner = ast.unparse(node.args[0]).strip("'") if node.args else ""
                if owner == "time" or owner.endswith(".time") or owner.startswith("time."):
                    yield f"{path.relative_to(root)}:{node.lineno}: sets the clock of all threads"


CHECKS = (
    check_lengths,
    check_imports,
    check_circles,
    check_names,
    check_kernels,
    check_addresses,
    check_messages,
    check_test_files,
    check_clocks,
)


def main() -> int:
    """Print every complaint; return 1 if there is one."""
    complaints = [complaint for check in CHECKS for complaint in check(ROOT)]
    print("\n".join(complaints) or "house style: nothing to complain about")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
