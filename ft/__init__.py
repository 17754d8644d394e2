"""frame-transformer: vocal separation from training to a proven-equal, fast engine.

Nothing is sent: what imports any part of the project imports this first, and it turns the telemetry of ONNX Runtime
and of OpenVINO off before either is loaded. `ft.Separator` is `ft.separate.Separator`, loaded where it is asked for.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ft.separate.separator import Separator as Separator

__version__ = "0.1.0"

# Read when the library is loaded; who wants to send sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# OpenVINO knows no such variable. Without this package, which only sends, it goes on in silence.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def __getattr__(name: str) -> Any:
    if name == "Separator":
        from ft.separate import Separator

        return Separator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
