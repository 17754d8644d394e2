"""The shape of the project: who imports whom, what is loaded when, and what a wheel holds."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Container
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("ft", "export", "engines", "bench")
HEAVY = ("torch", "numpy", "onnxruntime", "onnx", "matplotlib", "soundfile", "soxr", "yaml")

LAYERS = [
    "ft.errors",
    "ft.files",
    "ft.format_1 ft.interruption ft.options ft.progress ft.settings ft.stems ft.workers",
    "ft.config ft.onnx_metadata",
    "ft.train_config",
    "ft.dsp ft.windows",
    "ft.metrics ft.plots",
    "ft.audio",
    "ft.models",
    "ft.checkpoint",
    "ft.average ft.importers engines",
    "ft.catalogue ft.info",
    "ft.songs",
    "ft.separate",
    "ft.data ft.sing",
    "ft.evaluation ft.library ft.training",
    "export",
    "bench",
    "ft.cli",
    "ft.__main__",
]
"""What may import only what stands in lines before its own; `ft` itself holds the version, and loads nothing."""
LONGEST_FILE, MOST_FILES = 400, 20
MEANINGS = re.compile(r"(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z]))(?!(?<=\.)stem\b)(?i:magnitude|mask|stem)s?(?![a-z])")
"""What tensors mean, of which engines know nothing; `path.stem` is another thing."""


def modules() -> dict[str, Path]:
    """Every file of the program, by the name that it is imported by."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


def imports(source: str, known: Container[str]) -> set[str]:
    """Those of the modules `known` that a file imports, inside functions too, but not for type checkers only."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inside = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found.update(name if name in known else str(node.module) for name in inside.values())
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return {name for name in found if name in known and name != "ft"}


FILES = modules()
IMPORTS = {name: imports(path.read_text(encoding="utf-8"), FILES) for name, path in FILES.items()}


def layer(name: str) -> int:
    (found,) = (
        number
        for number, line in enumerate(LAYERS)
        if any(name == place or name.startswith(f"{place}.") for place in line.split())
    )
    return found


def place(name: str) -> str:
    """The file or folder of `LAYERS` that a module lies in."""
    return ".".join(name.split(".")[: 2 if name.startswith("ft.") else 1])


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_from_the_layers_below_it_and_from_its_own_folder(name):
    wrong = name != "ft" and {
        other for other in IMPORTS[name] if place(other) != place(name) and layer(other) >= layer(name)
    }
    assert not wrong


def test_no_files_import_each_other_in_a_circle():
    graphlib.TopologicalSorter(IMPORTS | {"ft": set()}).prepare()


def test_imports_inside_functions_count_and_those_of_types_do_not():
    source = "def late():\n    from ft import cli\n    import export.graph\nif TYPE_CHECKING:\n    import bench\n"
    assert imports(source, {"ft", "ft.cli", "export.graph", "bench"}) == {"ft.cli", "export.graph"}


def test_files_are_short_and_the_root_holds_few():
    assert not {name for name, path in FILES.items() if len(path.read_text("utf-8").splitlines()) > LONGEST_FILE}
    assert len(list((ROOT / "ft").glob("*.py"))) <= MOST_FILES


def meanings(source: str) -> list[str]:
    """The words of what tensors mean in a file: in its names, its texts and its comments."""
    return MEANINGS.findall(source)


def test_words_of_meaning_are_found_in_names_of_every_form():
    assert meanings("MASK, mask_stem = WaveformStems('masks')  # a magnitude") == [
        *("MASK", "mask", "stem", "Stems", "masks", "magnitude")
    ]
    assert not meanings("system, unmasked = path.stem, 'masking'")


@pytest.mark.parametrize("path", sorted((ROOT / "engines").glob("*.py")), ids=lambda path: path.name)
def test_engines_know_tensors_and_not_what_they_mean(path):
    assert meanings(path.read_text("utf-8")) == []


def loaded_by(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint('\\n'.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return {line.split(".")[0] for line in result.stdout.splitlines()}


def test_help_loads_nothing_heavy():
    code = "from ft.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    assert not loaded_by(code) & set(HEAVY)


def test_an_export_that_cannot_be_written_is_refused_without_torch():
    code = f"from ft.cli import main\ntry:\n    main(['export', 'default', '-o', {__file__ + '/model.onnx'!r}])\n"
    loaded = loaded_by(code + "except SystemExit as stop:\n    assert stop.code == 1")
    assert "export" in loaded and not loaded & {"torch", "onnx", "onnxscript"}


def test_separating_needs_no_torch():
    loaded = loaded_by("import ft.separate.separator, engines.ort, bench.demo\nfrom ft.plots import save_spectrograms")
    assert not loaded & {"torch", "onnx", "safetensors", "onnxscript", "matplotlib"}
    assert "numpy" in loaded


def test_only_engines_that_say_so_import_torch():
    for path in (ROOT / "engines").glob("*.py"):
        assert path.name == "pytorch.py" or "torch" not in imports(path.read_text(encoding="utf-8"), {"torch"})


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> list[str]:
    """Names in a wheel built from the files under version control."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.fail("the tests run in a clone: `git ls-files` says what belongs to the project")
    tree = folder / "tree"
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(tree)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path).namelist()


def test_wheel_holds_the_program_and_the_model(wheel):
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.suffix in (".py", ".yaml", ".onnx", ".typed"):
                assert path.relative_to(ROOT).as_posix() in wheel
    assert "ft/assets/default.onnx" in wheel
    assert "ft/assets/caesium/vocals.flac" in wheel


def test_wheel_holds_nothing_else(wheel):
    others = [name for name in wheel if not name.startswith(tuple(f"{package}/" for package in PACKAGES))]
    assert all(name.split("/")[0].endswith(".dist-info") for name in others)
    parts = [part for name in wheel for part in name.split("/")]
    assert not [part for part in parts if part.startswith("test") or part.endswith((".pyc", ".part"))]


def test_an_editable_install_is_seen_by_type_checkers():
    """They read path files, and run no hook of the import system."""
    files = [path.read_text(encoding="utf-8") for path in Path(sysconfig.get_path("purelib")).glob("*.pth")]
    assert str(ROOT) in {line for text in files for line in text.splitlines()}


def test_the_package_gives_its_separator_and_loads_nothing_before():
    assert not loaded_by("import ft") & set(HEAVY)
    assert "numpy" in loaded_by("from ft import Separator; assert Separator.__module__ == 'ft.separate.separator'")
