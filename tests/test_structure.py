"""The shape of the project: who imports whom, what is loaded when, and what a wheel holds."""

from __future__ import annotations

import ast
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("ft", "export", "engines", "bench")
HEAVY = ("torch", "numpy", "onnxruntime", "onnx", "matplotlib", "soundfile", "soxr", "yaml")

FORBIDDEN = {
    "ft/errors.py": ("ft", "engines", "export", "bench"),
    "ft/config.py": ("ft.models", "ft.checkpoint", "ft.training", "ft.data", "engines", "export", "bench"),
    "ft/models/": ("ft.checkpoint", "ft.training", "ft.data", "ft.separate.separator", "engines", "export", "bench"),
    "ft/checkpoint.py": ("ft.training", "ft.data", "ft.separate.separator", "engines", "export", "bench"),
    "ft/separate/": ("ft.songs", "ft.evaluation"),
    "ft/separate/separator.py": ("ft.training", "ft.data", "ft.models", "ft.checkpoint", "export", "bench"),
    "ft/metrics/": ("ft.training", "ft.data", "ft.separate.separator", "ft.evaluation"),
    "ft/data/": ("ft.training", "ft.evaluation"),
    "ft/training/": ("ft.separate.separator", "ft.evaluation"),
    "ft/": ("ft.cli", "engines", "export", "bench"),
    "engines/": ("ft.training", "ft.data", "ft.separate.separator", "ft.cli", "export", "bench"),
    "export/": ("ft.training", "ft.data", "ft.separate.separator", "ft.cli", "bench"),
    "bench/": ("ft.cli",),
}
ALLOWED = {
    ("ft/__main__.py", "ft.cli"),
    ("ft/cli/models.py", "export"),
    ("ft/cli/models.py", "engines"),
    ("ft/cli/bench.py", "bench"),
    ("ft/separate/separator.py", "engines"),
    ("ft/separate/song_stream.py", "engines"),
    ("ft/cli/separate_command.py", "engines"),
    ("ft/info.py", "engines"),
    ("export/gate.py", "ft.separate.separator"),
    ("export/calibration.py", "ft.separate.separator"),
    ("export/calibration.py", "ft.data"),
}


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_one_way(path):
    name = path.relative_to(ROOT).as_posix()
    for prefix, forbidden in FORBIDDEN.items():
        if not name.startswith(prefix):
            continue
        for imported in imports(path):
            for banned in forbidden:
                wrong = imported == banned or imported.startswith(f"{banned}.")
                wrong &= not name.startswith(f"{banned.replace('.', '/')}/")  # its own package
                assert not wrong or (name, banned) in ALLOWED, f"{name} imports {imported}"


def test_rule_above_sees_a_wrong_import(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text("def late():\n    from ft.cli import main\n    import export.graph\n")
    assert {"ft.cli", "export.graph"} <= imports(path)


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
        assert path.name == "pytorch.py" or "torch" not in {name.split(".")[0] for name in imports(path)}


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
