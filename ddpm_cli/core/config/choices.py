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
    "cmmd": ("REAL", "FAKE"),
}
INCEPTION, DINOV2_L, CLIP_L336 = "inception", "dinov2-l", "clip-l336"  # feature networks
ALL = "all"  # the named networks, of fetch-weights
LOCAL = "local"  # a classifier of one's own as the feature network
_OF_FEATURES = ("fid", "kid", "prdc", "infinity", "mind", "classes")
METRICS: dict[str, tuple[str, ...]] = {  # that mean something in a network's features
    INCEPTION: (*_OF_FEATURES, "is", "sfid"),
    LOCAL: (*_OF_FEATURES, "is"),
    DINOV2_L: _OF_FEATURES,
    CLIP_L336: ("cmmd",),
}
PYTORCH_FID, TORCH_FIDELITY, CLEAN_FID = "pytorch-fid", "torch-fidelity", "clean-fid"
DGM_EVAL, EDM2, CMMD = "dgm-eval", "edm2", "cmmd"
LOCAL_PROTOCOL = "local-features"
PROTOCOLS: dict[str, tuple[str, ...]] = {  # of each named network, the default first
    INCEPTION: (PYTORCH_FID, TORCH_FIDELITY, CLEAN_FID),
    DINOV2_L: (DGM_EVAL, EDM2, TORCH_FIDELITY),
    CLIP_L336: (CMMD,),
}
FRAME_KINDS = ("xt", "x0", "both")  # of a film: the state, the image estimated from it, or both
ATTENTION_ORDERS = ("legacy", "new")  # of the channels of heads, in OpenAI's checkpoints


def score_name(score: str, network: str | None) -> str:
    """A score's name in the features of a network: one that papers use for no other's."""
    if network == DINOV2_L:  # as Stein et al. (2023) and Karras et al. (2024) call them
        for usual, name in (("FID", "FD-DINOv2"), ("KID", "KD-DINOv2")):
            if score.startswith(usual):
                return name + score.removeprefix(usual)
        return f"DINOv2-{score}"
    return f"local-{score}" if network == LOCAL else score
