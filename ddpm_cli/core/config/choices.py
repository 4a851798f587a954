"""Names that options take and that are no settings of a run: scores, protocols, frames."""

from __future__ import annotations

# Each metric, and the inputs whose images it needs, not only their statistics.
NEEDS_IMAGES: dict[str, tuple[str, ...]] = {
    "fid": (),
    "kid": ("REAL", "FAKE"),
    "prdc": ("REAL", "FAKE"),
    "is": ("FAKE",),
    "sfid": (),
    "infinity": ("FAKE",),
    "mind": ("REAL", "FAKE"),
    "classes": ("REAL", "FAKE"),
}
INCEPTION, LOCAL = "inception", "local"  # feature networks; the latter is a classifier's file
PYTORCH_FID, TORCH_FIDELITY, CLEAN_FID = "pytorch-fid", "torch-fidelity", "clean-fid"
LOCAL_PROTOCOL = "local-features"
PROTOCOLS: dict[str, tuple[str, ...]] = {  # of each named network, the default first
    INCEPTION: (PYTORCH_FID, TORCH_FIDELITY, CLEAN_FID),
}
FRAME_KINDS = ("xt", "x0", "both")  # of a film: the state, the image estimated from it, or both
ATTENTION_ORDERS = ("legacy", "new")  # of the channels of heads, in OpenAI's checkpoints
