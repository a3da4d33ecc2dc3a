"""Why a candidate is not a block, and which parts of an MLP branch it has."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """The stable code of a reason; :attr:`sentence` says what it means."""

    sentence: str

    def __new__(cls, code: str, sentence: str) -> Reason:
        """A member from its code and what the code means."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.sentence = sentence
        return member

    NO_RESIDUAL = "no-residual", "its result is never added to the tensor it was computed from"
    FUSED_ADD = (
        "fused-add",
        "its down projection and its residual add are one operator (addmm, baddbmm), with no tensor in between; "
        "write them as two steps",
    )
    NOT_FOLLOWED = (
        "not-followed",
        "it is added to a tensor that it was computed from, but a step in between may mix tokens with other axes",
    )
    NO_ACTIVATION = "no-activation", "there is no non-linearity between its up projection and its down projection"
    SINGLE_PROJECTION = "single-projection", "there is only one projection between the residual stream and the add"
    SPATIAL_CONVOLUTION = "spatial-convolution", "a projection is a convolution that also mixes neighbouring positions"
    POOLED_GATE = (
        "pooled-gate",
        "it works on a pooled token and gates the tensor it was pooled from (squeeze-excite)",
    )
    ONE_TOKEN = "one-token", "the residual stream has a single token, where the mean over tokens changes nothing"
    NO_TOKEN_AXIS = "no-token-axis", "the residual stream has a batch axis and a channel axis but no token axis"
    NOT_BATCHED = "not-batched", "it does not depend on the batch (a table of positions, a bias)"
    TOKENS_FOLDED = "tokens-folded", "tokens share an axis with the batch or the channels, and it cannot be split"
    BATCH_SQUEEZED = (
        "batch-squeezed",
        "squeeze() removes the batch axis if there is one sample, and other axes take its place; "
        "let forward() squeeze another axis, or none",
    )
    AXES_UNDECIDED = "axes-undecided", "nothing in the graph distinguishes the token axis from the channel axis"
    NOT_ELEMENTWISE = (
        "not-elementwise",
        "there is a step that is not element-wise between the down projection and the residual add",
    )
    ROUTED = (
        "routed",
        "a router decides which expert gets which tokens (a mixture of experts): no expert has all tokens of a sample",
    )
    SEVERAL_WEIGHTS = (
        "several-weights",
        "a product has one weight matrix for each expert, head or group, and the graph does not prove that each of "
        "them gets all tokens and all channels",
    )
    RUN_TIME_BRANCH = (
        "run-time-branch",
        "torch.cond, a loop or a scan decides by values which code runs; the code inside is not read",
    )
    LINEAR_ATTENTION = (
        "linear-attention",
        "an attention without a map: keys are multiplied with values before any query",
    )
    CHANNEL_ATTENTION = "channel-attention", "an attention over channels: its map has no row per token"
    PROJECTED_WEIGHTS = (
        "projected-weights",
        "an attention without a map: a projection makes its weights, and no queries are compared with keys",
    )
    MAP_UNDECIDED = (
        "map-undecided",
        "an attention whose weights are rearranged before the product with the values, so that its map is unknown",
    )


class Part(StrEnum):
    """A part of an MLP branch, in the order in which data passes through them."""

    NORM = "norm"
    UP = "up projection"
    ACTIVATION = "activation"
    DOWN = "down projection"
    ADD = "residual add"
