"""Make torchvision importable where its compiled operators do not load.

A torchvision wheel built for another torch (a CUDA build beside a CPU-only torch) fails at import
with `operator torchvision::nms does not exist`, because it registers meta kernels for operators
that its compiled library should have defined. open_clip imports torchvision but uses none of these
operators; defining their schemas is enough. Nothing is done where the compiled library loads.
"""

import importlib.util
from pathlib import Path

import torch

_library: torch.library.Library | None = None


def cure_torchvision() -> None:
    """Define `torchvision::nms` and `torchvision::qnms` if the compiled library does not load."""
    global _library
    if _library is not None or hasattr(torch.ops.torchvision, "nms"):
        return
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    try:
        for compiled in sorted(Path(spec.origin).parent.glob("_C*.so")):
            torch.ops.load_library(compiled)
    except OSError:
        pass
    if not hasattr(torch.ops.torchvision, "nms"):
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
