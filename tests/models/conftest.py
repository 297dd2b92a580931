"""Fixtures of this room: image weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

VIT = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random ViT-Ti under the name of a pretrained one."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("weights")
    model = timm.create_model(VIT)
    with torch.no_grad():
        for parameter in model.parameters():  # so that norms and biases count too
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_file(model.state_dict(), folder / f"{VIT}.safetensors")
    return folder
