"""diffusers' UNetMotionModel with 0.2 million random weights."""

import pytest

diffusers = pytest.importorskip("diffusers")


def tiny_unet(**others):
    """Two levels of 8 and 16 channels; ``others`` go to UNetMotionModel."""
    settings = {
        "down_block_types": ("DownBlockMotion", "CrossAttnDownBlockMotion"),
        "up_block_types": ("CrossAttnUpBlockMotion", "UpBlockMotion"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "cross_attention_dim": 8,
        "num_attention_heads": 2,
        "motion_num_attention_heads": 2,
        "norm_num_groups": 4,
    }
    return diffusers.UNetMotionModel(**{**settings, **others})
