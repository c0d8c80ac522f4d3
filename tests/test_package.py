from __future__ import annotations

import ast
import re
import sys
from importlib import import_module, metadata
from pathlib import Path

import pytest

import gpuzarr
from gpuzarr import errors

SOURCE = Path(gpuzarr.__file__).parent
ROOT = Path(__file__).resolve().parents[1]
CUDA = {"cupy", "cudf", "cudf_polars", "cuda", "kvikio", "nvidia", "pylibcudf", "rmm"}
BASE = {"numpy", "polars", "pyarrow", "zarr", "numcodecs"}


def _imports(path: Path) -> tuple[set[str], set[str]]:
    """Top-level packages that a module imports whenever it is imported, and those it imports inside functions."""
    tree = ast.parse(path.read_text())
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _is_type_checking(node)
        for inner in ast.walk(node)
    }
    always, inside = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [node.module or ""]
        else:
            continue
        (inside if id(node) in lazy else always).update(name.split(".")[0] for name in names)
    return always, inside


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def test_only_base_dependencies_are_imported_unconditionally() -> None:
    allowed = BASE | set(sys.stdlib_module_names) | {"gpuzarr"}
    for path in SOURCE.rglob("*.py"):
        always, inside = _imports(path)
        assert always <= allowed, f"{path.relative_to(SOURCE)} imports {sorted(always - allowed)}"
        if not re.search("cuda|gpu_|kernels/loader", str(path.relative_to(SOURCE))):  # gpu_: for the Polars GPU engine
            assert not inside & CUDA, (
                f"{path.relative_to(SOURCE)} imports {sorted(inside & CUDA)} outside a cuda module"
            )


def test_dependencies_are_what_is_imported() -> None:
    required = metadata.requires("gpuzarr") if _installed() else None
    if required is None:
        pytest.skip("gpuzarr runs from the source tree here")
    base = {re.split(r"[\s<>=!~;\[(]", line)[0] for line in required if "extra ==" not in line}
    # Polars imports cloudpickle to serialise a query; isal is there for most platforms.
    assert base == BASE | {"cloudpickle", "isal"}


def _installed() -> bool:
    try:
        return bool(metadata.version("gpuzarr"))
    except metadata.PackageNotFoundError:
        return False


@pytest.mark.parametrize("name", [name for name in gpuzarr.__all__ if name != "__version__"])
def test_public_names_are_documented_functions(name: str) -> None:
    public = getattr(gpuzarr, name)
    assert callable(public)
    assert public.__doc__
    assert name in dir(gpuzarr)


def test_names_that_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'scan_netcdf'"):
        gpuzarr.scan_netcdf  # noqa: B018


def test_version_is_one_number_everywhere() -> None:
    assert re.fullmatch(r"\d+(\.\w+)+(\+[\w.]+)?|0\+unknown", gpuzarr.__version__)
    if _installed():
        assert gpuzarr.__version__ == metadata.version("gpuzarr")


def test_types_are_shipped() -> None:
    assert (SOURCE / "py.typed").exists()


def test_every_module_imports() -> None:
    for path in sorted(SOURCE.rglob("*.py")):
        name = ".".join(("gpuzarr", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        if "cuda" not in name and not name.endswith("__main__"):
            import_module(name)


def test_page_of_errors_lists_the_tree_and_every_kind() -> None:
    """docs/errors.md names each error below its parent, and each kind: no more, no less."""
    page = ROOT / "docs" / "errors.md"
    listed = dict(re.findall(r"^\| `(\w+)` \| `([\w, ]+)` \|", page.read_text(), re.MULTILINE))
    tree = {
        name: ", ".join(base.__name__ for base in getattr(errors, name).__bases__)
        for name in errors.__all__
        if name != "Kind"
    }
    assert listed == tree
    kinds = re.findall(r"^\| `([a-z-]+)` \|", page.read_text(), re.MULTILINE)
    assert kinds == [kind.value for kind in errors.Kind]


def test_kinds_only_grow() -> None:
    """Handlers compare kinds, so those that were released stay as they are."""
    released = {
        "chunk-truncated", "chunk-size-mismatch", "chunk-checksum", "chunk-decode", "chunk-limit", "chunk-missing",
        "shard-index", "store-failed", "store-denied", "store-timeout", "store-changed", "key-unsafe",
        "metadata-invalid", "metadata-unsupported", "metadata-limit", "codec-refused", "value-out-of-range", "not-found",
        "argument", "table-ambiguous", "plan-limit", "memory-budget", "device-oom", "backend-unavailable", "forked",
        "cancelled",
    }  # fmt: skip
    assert released <= {kind.value for kind in errors.Kind}


def test_constraints_hold_names_and_versions_only() -> None:
    files = sorted((ROOT / "constraints").glob("*.txt"))
    assert [file.stem for file in files] == ["polars-1.35", "polars-1.44", "polars-2"]
    line = re.compile(r'[a-z0-9-]+==[0-9][\w.!+]*(; python_version (<|>=) "3\.\d+")?')
    for file in files:
        pins = [text for text in file.read_text().splitlines() if not text.startswith("#")]
        assert pins
        assert [text for text in pins if not line.fullmatch(text)] == []
