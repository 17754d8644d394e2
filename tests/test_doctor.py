"""`ft doctor`: each thing that can be wrong, made so, and what it says then."""

import importlib
import json
import struct
import sys
import types

import pytest
from click.testing import CliRunner

import engines.doctor as doctor
import engines.ort
import engines.tensorrt_library
from bench.machine import describe_machine
from engines import RUNTIMES
from engines.cuda import BACKENDS
from engines.devices import NO_GPU, Gpu, Gpus
from engines.libraries import first_missing, needed_libraries
from ft.cli import main, separate
from ft.errors import EngineError

NONE = Gpus(reason="no GPU found (no NVIDIA driver, libcuda.so.1)")
ONE = Gpus((Gpu(0, "NVIDIA A100", (8, 0), 40 << 30),), "560.35", "12.6")


def distributions(monkeypatch, **versions):
    """Installed distributions, under their names with _ for -, instead of the real ones."""

    def version(name):
        found = versions.get(name.replace("-", "_"))
        if found is None:
            raise doctor.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(doctor.metadata, "version", version)


def runtime(monkeypatch, providers=("CPUExecutionProvider",), **attributes):
    """A module onnxruntime that has what the checks ask for."""
    module = types.ModuleType("onnxruntime")
    module.__version__ = "1.31.1"
    module.__file__ = "/nowhere/onnxruntime/__init__.py"
    module.InferenceSession = object
    module.get_available_providers = lambda: list(providers)
    module.preload_dlls = lambda: print("Failed to load something")
    for name, value in attributes.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    return module


CUDA = ("CUDAExecutionProvider", "CPUExecutionProvider")


def problems(check):
    return [finding.problem for finding in check.findings]


def mends(check):
    return [finding.mend for finding in check.findings]


def test_a_working_onnxruntime_has_no_findings(monkeypatch):
    runtime(monkeypatch)
    distributions(monkeypatch, onnxruntime="1.31.1")
    check = doctor.check_onnxruntime(NONE)
    assert check.usable and check.version == "1.31.1" and check.findings == ()


@pytest.mark.parametrize(
    ("gpus", "mend"),
    [(NONE, "pip install 'frame-transformer[cpu]'"), (ONE, "pip install 'onnxruntime-gpu[cuda,cudnn]'")],
)
def test_both_wheels_are_found(monkeypatch, gpus, mend):
    runtime(monkeypatch)
    distributions(monkeypatch, onnxruntime="1.31.1", onnxruntime_gpu="1.30.0")
    check = doctor.check_onnxruntime(gpus)
    assert check.usable  # it may work, and it may break with the next upgrade
    assert problems(check) == [
        "onnxruntime 1.31.1 and onnxruntime-gpu 1.30.0 are both installed and overwrite each other's files"
    ]
    assert mends(check) == [f"pip uninstall -y onnxruntime onnxruntime-gpu && {mend}"]


def test_a_missing_and_a_hollow_onnxruntime_are_told_apart(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    check = doctor.check_onnxruntime(NONE)
    assert not check.usable and "is not installed" in problems(check)[0]
    assert mends(check) == ["pip install 'frame-transformer[cpu]'"]
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    check = doctor.check_onnxruntime(NONE)
    assert not check.usable and "holds no program any more" in problems(check)[0]
    assert mends(check)[0].startswith("pip uninstall -y onnxruntime onnxruntime-gpu && pip install")


def test_a_build_for_the_cpu_cannot_use_a_gpu(monkeypatch):
    runtime(monkeypatch)
    distributions(monkeypatch, onnxruntime="1.31.1")
    check = doctor.check_onnxruntime_cuda(ONE)
    assert not check.usable and problems(check) == ["onnxruntime 1.31.1 is a build for the CPU"]
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in mends(check)[0]


def test_the_missing_library_and_the_installed_ones_are_named(monkeypatch, capsys):
    runtime(monkeypatch, CUDA, cuda_version="13.0")
    distributions(monkeypatch, onnxruntime_gpu="1.31.1", nvidia_cublas_cu12="12.9.1")
    monkeypatch.setattr(engines.ort, "needed_libraries", lambda path: ["libc.so.6", "libcublasLt.so.13"])
    monkeypatch.setattr(engines.ort, "first_missing", lambda names: next(n for n in names if "cublas" in n))
    check = doctor.check_onnxruntime_cuda(ONE)
    assert problems(check) == [
        "onnxruntime-gpu 1.31.1, built for CUDA 13.0, cannot load libcublasLt.so.13 "
        "(installed: nvidia-cublas-cu12 12.9.1)",
        "onnxruntime-gpu is built for CUDA 13.0, and the driver 560.35 runs up to 12.6",
    ]
    assert mends(check) == ["pip install 'onnxruntime-gpu[cuda,cudnn]'", "install a newer NVIDIA driver"]
    assert capsys.readouterr().out == ""  # what onnxruntime prints meanwhile


def test_cudnn_is_looked_for_though_the_provider_loads_without_it(monkeypatch):
    runtime(monkeypatch, CUDA, cuda_version="12.6")
    distributions(monkeypatch, onnxruntime_gpu="1.31.1")
    monkeypatch.setattr(engines.ort, "needed_libraries", lambda path: ["libc.so.6"])
    monkeypatch.setattr(engines.ort, "CUDNN", "libcudnn-of-no-machine.so.9")
    (problem,) = problems(doctor.check_onnxruntime_cuda(ONE))
    assert "cannot load libcudnn-of-no-machine.so.9" in problem
    monkeypatch.setattr(engines.ort, "CUDNN", "libc.so.6")
    assert doctor.check_onnxruntime_cuda(ONE).usable


@pytest.mark.parametrize(("name", "module"), [("openvino", "openvino"), ("torch", "torch")])
def test_a_missing_runtime_says_what_brings_it(monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    check = doctor.CHECKS[name](NONE)
    assert not check.usable and problems(check) == [f"{module} is not installed"]
    assert mends(check)[0].startswith("pip install 'frame-transformer[")


def test_a_runtime_that_cannot_be_imported_says_why(monkeypatch):
    def broken(name):
        raise ImportError("libtbb.so.12: cannot open\nshared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    check = doctor.CHECKS["openvino"](NONE)
    assert not check.usable
    assert problems(check) == [
        "openvino is installed and cannot be imported: libtbb.so.12: cannot open shared object file"
    ]


def test_torch_for_the_cpu_cannot_use_a_gpu(monkeypatch):
    import torch

    monkeypatch.setattr(torch.version, "cuda", None)
    check = doctor.check_torch_cuda(ONE)
    assert not check.usable and "is a build for the CPU" in problems(check)[0]
    assert mends(check)[0].startswith("pip install --force-reinstall 'torch>=")
    assert doctor.CHECKS["torch"](ONE).usable
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "built for CUDA 13.0 and cannot start it" in problems(doctor.check_torch_cuda(ONE))[0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert doctor.check_torch_cuda(ONE).usable


@pytest.mark.parametrize(("name", "kind"), [("tensorrt", "full"), ("tensorrt-rtx", "rtx")])
def test_tensorrt_without_its_libraries_and_without_cuda_python(monkeypatch, name, kind):
    brings = engines.tensorrt_library.INSTALL[kind]

    def library(kind):
        raise EngineError(f"TensorRT cannot be loaded (libnvinfer.so.11 is missing); {brings}")

    monkeypatch.setattr(engines.tensorrt_library, "library", library)
    monkeypatch.setattr(doctor, "_has", lambda module: False)
    check = doctor.CHECKS[name](NONE)
    assert not check.usable and problems(check) == [
        NONE.reason,
        "TensorRT cannot be loaded (libnvinfer.so.11 is missing)",
        "cuda-python, which handles device memory, is not installed",
    ]
    assert mends(check) == ["", brings, "pip install 'cuda-python>=12.8'"]


def test_pycuda_does_not_stand_in_for_cuda_python_unless_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(engines.tensorrt_library, "library", lambda kind: types.SimpleNamespace(__version__="10.15"))
    monkeypatch.setattr(doctor, "_has", lambda module: module == "pycuda")
    check = doctor.CHECKS["tensorrt"](ONE)
    missing, note = check.findings
    assert not check.usable and missing.fatal and missing.mend == "pip install 'cuda-python>=12.8'"
    assert "`memory` pycuda" in note.problem and not note.fatal


def test_tensorrt_is_usable_where_all_is_there(monkeypatch):
    monkeypatch.setattr(engines.tensorrt_library, "library", lambda kind: types.SimpleNamespace(__version__="10.15"))
    monkeypatch.setattr(doctor, "_has", lambda module: module == "cuda.bindings")
    check = doctor.CHECKS["tensorrt"](ONE)
    assert check.usable and check.version == "10.15" and check.findings == ()


@pytest.mark.parametrize("engine", [name for name in doctor.CHECKS if name not in ("onnxruntime", "openvino", "torch")])
def test_without_a_gpu_the_engines_of_gpus_are_not_usable(engine):
    check = doctor.CHECKS[engine](NONE)
    assert not check.usable and NONE.reason in problems(check)


def test_what_auto_takes_is_what_runs(monkeypatch):
    monkeypatch.setattr("engines.devices.find_gpus", lambda: NONE)
    auto = doctor.examine("onnxruntime")["auto"]
    assert (auto["engine"], auto["device"], auto["reason"]) == ("onnxruntime", "cpu", NO_GPU)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "is not installed; pip install" in doctor.examine("onnxruntime")["auto"]["problem"]


@pytest.mark.parametrize(
    ("feature", "line", "computed"),
    [
        ("avx_vnni", "avx_vnni: on the CPU default runs in int8", "int8"),
        (None, "no VNNI: on the CPU default runs in fp32", "fp32"),
    ],
)
def test_it_says_what_decides_between_the_shipped_files(monkeypatch, feature, line, computed):
    monkeypatch.setattr("engines.find_gpus", lambda: NONE)
    monkeypatch.setattr("engines.devices.find_gpus", lambda: NONE)
    monkeypatch.setattr(doctor, "int8_products", lambda: feature)
    monkeypatch.setattr("engines.int8_products", lambda: feature)
    facts = doctor.examine("onnxruntime")
    assert facts["machine"]["int8"] == feature
    text = doctor.as_text(facts)
    assert line in text and text.endswith(f" on cpu, {computed} ({NO_GPU})")


def run(*arguments):
    return CliRunner().invoke(main, ["doctor", *arguments])


def test_the_command_prints_every_engine_and_the_same_as_json(monkeypatch):
    monkeypatch.setattr(doctor, "find_gpus", lambda: ONE)
    checks = {
        "good": lambda gpus: doctor.Check("good", "1.0"),
        "bad": lambda gpus: doctor.Check("bad", None, (doctor.Finding("nothing there", "pip install it"),)),
    }
    monkeypatch.setattr(doctor, "CHECKS", checks)
    result = run()
    assert result.exit_code == 0
    text = result.stdout
    for line in (
        "cuda:0   NVIDIA A100, compute capability 8.0, 40 GiB",
        "driver   560.35, CUDA up to 12.6",
        "good     1.0 usable",
        "bad      NOT usable",
        "-> pip install it",
    ):
        assert line in text
    facts = json.loads(run("--json").stdout)
    assert facts["engines"]["bad"] == {
        "usable": False,
        "version": None,
        "findings": [{"problem": "nothing there", "mend": "pip install it", "fatal": True}],
    }
    assert facts["gpus"]["found"][0]["name"] == "NVIDIA A100" and facts["machine"]["usable_cores"] >= 1
    assert facts["auto"]["engine"]


@pytest.mark.parametrize("usable", [True, False])
def test_one_engine_decides_the_exit_code(monkeypatch, usable):
    findings = () if usable else (doctor.Finding("broken"),)
    monkeypatch.setattr(doctor, "CHECKS", {"openvino": lambda gpus: doctor.Check("openvino", "1", findings)})
    for options in ((), ("--json",)):
        for flag, name in (("--runtime", "OpenVINO"), ("--engine", "openvino")):
            assert run(flag, name, *options).exit_code == (0 if usable else 1)


def test_the_commands_know_all_engines_and_runtimes():
    options = {
        (command.name, option.name): option.type
        for command in (main.commands["doctor"], separate)
        for option in command.params
    }
    assert tuple(options["doctor", "runtime"].choices) == tuple(doctor.CHECKS)
    assert tuple(options["separate", "runtime"].choices) == RUNTIMES
    assert tuple(options["separate", "memory"].choices) == BACKENDS


def test_the_machine_is_the_one_that_figures_are_kept_for():
    machine, measured = doctor.examine("onnxruntime")["machine"], describe_machine()
    assert machine["processor"] == measured["cpu"] and machine["usable_cores"] == measured["cores"]
    assert round(machine["memory_bytes"] / 2**30, 1) == measured["memory_gb"] > 0


def elf(*names: str) -> bytes:
    """The least of an ELF file that asks for libraries: one loaded segment, one dynamic section, and the names."""
    texts = b"\0" + b"".join(name.encode() + b"\0" for name in names)
    at = [1 + sum(len(name) + 1 for name in names[:index]) for index in range(len(names))]
    dynamic, base = 64 + 2 * 56, 0x1000
    entries = [(1, position) for position in at] + [(5, base + dynamic + 16 * (len(names) + 2)), (0, 0)]
    size = dynamic + 16 * len(entries) + len(texts)
    head = b"\x7fELF\x02\x01".ljust(32, b"\0") + struct.pack("<Q", 64)
    head = head.ljust(54, b"\0") + struct.pack("<HH", 56, 2)
    segments = struct.pack("<IIQQQQQQ", 1, 0, 0, base, 0, size, size, 0)
    segments += struct.pack("<IIQQQQQQ", 2, 0, dynamic, base + dynamic, 0, 16 * len(entries), 0, 0)
    return head.ljust(64, b"\0") + segments + b"".join(struct.pack("<qQ", *entry) for entry in entries) + texts


def test_needed_libraries_are_read_without_loading_the_file(tmp_path):
    path = tmp_path / "provider.so"
    path.write_bytes(elf("libcublas.so.13", "libm.so.6"))
    assert needed_libraries(path) == ["libcublas.so.13", "libm.so.6"]
    path.write_bytes(path.read_bytes()[:100])
    assert needed_libraries(path) == []
    path.write_text("no program")
    assert needed_libraries(path) == needed_libraries(tmp_path / "nowhere") == []


def test_the_first_missing_library_is_named():
    assert first_missing(["libc.so.6", "libof-no-machine.so.1", "libother.so"]) == "libof-no-machine.so.1"
    assert first_missing(["libc.so.6"]) is None
