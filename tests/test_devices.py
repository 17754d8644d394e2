"""Finding GPUs and choosing a device, with drivers made of Python."""

import ctypes

import pytest

import engines
import engines.devices
from engines.devices import NO_GPU, Gpu, Gpus, choose_device, device_error, find_gpus, parse_device
from ft.cli.verbosity import set_verbosity
from ft.errors import DeviceLost, EngineError, OutOfDeviceMemory

A100 = Gpu(0, "NVIDIA A100", (8, 0), 40 << 30)
L4 = Gpu(1, "NVIDIA L4", (8, 9), 24 << 30)


class FakeDriver:
    """libcuda, as far as it is asked, with `status` for cuInit."""

    def __init__(self, gpus=(), status=0, version=13000):
        self.gpus, self.status, self.version = gpus, status, version

    def cuInit(self, flags):  # noqa: N802
        return self.status

    def cuDeviceGetCount(self, number):  # noqa: N802
        number._obj.value = len(self.gpus)

    def cuDriverGetVersion(self, number):  # noqa: N802
        number._obj.value = self.version

    def cuDeviceGet(self, device, index):  # noqa: N802
        device._obj.value = 10 + index

    def cuDeviceGetName(self, name, length, device):  # noqa: N802
        name.value = self.gpus[device.value - 10].name.encode()

    def cuDeviceGetAttribute(self, value, attribute, device):  # noqa: N802
        value._obj.value = self.gpus[device.value - 10].compute_capability[attribute - 75]

    def cuDeviceTotalMem_v2(self, value, device):  # noqa: N802
        value._obj.value = self.gpus[device.value - 10].memory_bytes

    def cuGetErrorName(self, status, text):  # noqa: N802
        text._obj.value = b"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"


class FakeManagement:
    def nvmlInit_v2(self):  # noqa: N802
        return 0

    def nvmlSystemGetDriverVersion(self, text, length):  # noqa: N802
        text.value = b"580.65.06"
        return 0

    def nvmlShutdown(self):  # noqa: N802
        return 0


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """Puts a driver in place of this machine's; None for none. The machine's own cards are not seen."""
    monkeypatch.setattr(engines.devices, "_PCI", tmp_path)

    def install(cuda):
        def load(name, *_):
            if "cuda" in name and cuda is not None:
                return cuda
            if "nvidia-ml" in name and cuda is not None:
                return FakeManagement()
            raise OSError(f"{name}: cannot open shared object file")

        monkeypatch.setattr(ctypes, "CDLL", load)

    return install


def test_every_gpu_is_read_from_the_driver(driver):
    driver(FakeDriver([A100, L4]))
    assert find_gpus() == Gpus((A100, L4), "580.65.06", "13.0")


def test_no_driver_is_normal_and_a_card_without_one_is_not(driver, tmp_path):
    driver(None)
    gpus = find_gpus()
    assert not gpus.found and not gpus.broken and "no NVIDIA driver" in gpus.reason
    for name, vendor, kind in (("a", "0x8086", "0x030000"), ("b", "0x10de", "0x040300")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(vendor)
        (tmp_path / name / "class").write_text(kind)
    assert not find_gpus().broken  # another maker's card, and the sound of one of theirs
    (tmp_path / "b" / "class").write_text("0x030200\n")
    assert find_gpus().broken and "install the driver" in find_gpus().reason


@pytest.mark.parametrize(("status", "broken"), [(100, False), (34, False), (803, True), (999, True)])
def test_a_driver_that_cannot_start_is_told_from_one_that_sees_nothing(driver, status, broken):
    driver(FakeDriver(status=status))
    gpus = find_gpus()
    assert gpus.broken == broken and not gpus.found and gpus.driver == "580.65.06"
    if broken:
        assert f"cuInit gave {status} (CUDA_ERROR_SYSTEM_DRIVER_MISMATCH)" in gpus.reason


def test_hidden_gpus_are_no_gpus(driver):
    driver(FakeDriver([]))
    assert "CUDA_VISIBLE_DEVICES" in find_gpus().reason


def usable(gpu):
    return None


def refused(gpu):
    return "its runtime is a build for the CPU; pip install 'another'"


@pytest.fixture
def warned(monkeypatch):
    lines = []
    monkeypatch.setattr(engines.devices.logger, "warning", lambda text, *values: lines.append(text % values))
    return lines


def test_auto_takes_the_first_gpu_and_says_which(driver, warned):
    driver(FakeDriver([A100, L4]))
    device = choose_device("auto", usable)
    assert (device.name, device.index, device.is_gpu) == ("cuda:0", 0, True) and device.reason == "found NVIDIA A100"
    assert choose_device("cuda:1", usable).name == "cuda:1" and choose_device("cuda", usable).name == "cuda:0"
    assert choose_device("cpu", usable).name == "cpu"
    assert warned == []


def test_without_a_gpu_auto_takes_the_cpu_and_only_the_log_says_why(driver, warned):
    driver(None)
    device = choose_device("auto", usable)
    assert (device.name, device.is_gpu, device.reason) == ("cpu", False, NO_GPU)
    assert warned == []


@pytest.mark.parametrize(("cuda", "problem"), [(FakeDriver([A100]), refused), (FakeDriver(status=803), usable)])
def test_a_gpu_that_is_there_and_not_used_is_announced(driver, warned, cuda, problem):
    driver(cuda)
    device = choose_device("auto", problem)
    assert device.name == "cpu" and warned == [f"{device.reason}; running on the CPU"]


@pytest.mark.parametrize(
    ("cuda", "wanted", "problem", "text"),
    [
        (None, "cuda", usable, "device cuda: no GPU found .*; use `device` cpu"),
        (FakeDriver([A100]), "cuda:1", usable, "device cuda:1: there are 1 GPUs, counted from 0; use `device` cpu"),
        (FakeDriver([A100]), "cuda:0", refused, "NVIDIA A100 cannot be used: its runtime .*; pip install 'another'"),
        (FakeDriver(status=803), "cuda", usable, "device cuda: the NVIDIA driver cannot start"),
    ],
)
def test_a_gpu_that_was_asked_for_and_cannot_be_used_is_an_error(driver, warned, cuda, wanted, problem, text):
    driver(cuda)
    with pytest.raises(EngineError, match=text) as caught:
        choose_device(wanted, problem)
    assert "\n" not in str(caught.value) and warned == []


@pytest.mark.parametrize("wanted", ["tpu", "cuda:x", "cuda:", "cpu:0", "auto:1", "", "cuda:-1"])
def test_other_devices_are_refused(wanted):
    with pytest.raises(EngineError, match=r"expected auto, cpu, cuda or cuda:N"):
        parse_device(wanted)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 4", OutOfDeviceMemory),
        ("CUDA failure 2: out of memory ; GPU=0", OutOfDeviceMemory),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0", OutOfDeviceMemory),
        ("CUDA out of memory. Tried to allocate 20.00 MiB", OutOfDeviceMemory),
        ("CUDA failure 719: unspecified launch failure ; GPU=0", DeviceLost),
        ("CUDA error: an illegal memory access was encountered", DeviceLost),
        ("CUDA failure 100: no CUDA-capable device is detected", DeviceLost),
        ("Non-zero status code returned while running MatMul", EngineError),
    ],
)
def test_what_runtimes_say_is_told_apart(text, kind):
    error = device_error(text)
    assert type(error) is kind and str(error) == text


def test_a_command_says_it_once_for_all_members_of_an_ensemble(tiny_onnx, monkeypatch, capsys):
    monkeypatch.setattr(engines.devices, "find_gpus", lambda: Gpus(reason="no GPU found (none)"))
    for verbose in (False, True):
        set_verbosity(verbose, quiet=False)
        for _ in range(2):
            with engines.load_engine(tiny_onnx) as engine:
                version = engine.describe().version
                engine.open()
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == (2 if verbose else 1) and lines[-1] == f"ft: onnxruntime {version} on cpu, fp32 ({NO_GPU})"
        assert ("ft: no GPU found (none)" in lines) == verbose
