"""`ft bench`, the scripts behind every published figure (`python -m bench.NAME`), and the demonstration."""

import ft as ft  # before onnxruntime: turns its telemetry off
