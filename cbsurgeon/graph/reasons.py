"""Why a candidate is not a block: stable codes and what each one means."""

from __future__ import annotations

REASONS: dict[str, str] = {
    "no-residual": "its result is never added to the tensor it was computed from",
    "no-activation": "nothing non-linear stands between its first and last projection",
    "single-projection": "only one projection stands between the stream and the addition",
    "spatial-convolution": "a projection is a convolution that also mixes neighbouring positions",
    "pooled-gate": "it works on a pooled token and gates the tensor it was pooled from (squeeze-excite)",
    "one-token": "the stream has a single token, where the mean over tokens changes nothing",
    "no-token-axis": "the stream has a batch axis and a channel axis but no token axis",
    "not-batched": "it does not depend on the batch (a table of positions, a bias)",
    "tokens-folded": "tokens share an axis with the batch or the channels and cannot be told apart",
    "axes-undecided": "nothing in the graph tells the token axis from the channel axis",
    "not-elementwise": "between the last projection and the addition stands a step that is not element-wise",
    "run-time-branch": "torch.cond, a loop or a scan decides by values what runs, and what is inside is not read",
}
