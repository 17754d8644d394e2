"""Turning checkpoints into files that engines run."""

import ft as ft  # before onnxruntime: turns its telemetry off
