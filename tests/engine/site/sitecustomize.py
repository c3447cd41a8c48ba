"""Lets torchvision's CUDA build be imported where torch is a CPU build, in each process with this file on PYTHONPATH.

vLLM imports torchvision for the reference model's class. The compiled part of the CUDA build does not load next to CPU
torch, and torchvision then fails as it is imported: it registers shapes for operators that nobody has defined. So they
are defined, without a kernel, before it is imported. A model that is asked in text only calls none of them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

OPERATORS = ("nms", "qnms")
SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class OperatorsFirst(MetaPathFinder):
    """Defines the operators when torchvision is about to be imported, and leaves finding it to the other finders."""

    library: Any = None

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname == "torchvision" and self.library is None:
            import torch

            self.library = torch.library.Library("torchvision", "DEF")  # what it defines ends with the object
            for name in OPERATORS:
                self.library.define(f"{name}{SIGNATURE}")
        return None


sys.meta_path.insert(0, OperatorsFirst())
