"""Codes about causal models and padding: LEAK."""

from cbsurgeon.errors.entry import Entry

CODES = {
    "CB-LEAK-01": Entry(
        "the model is causal, and a mean over all tokens would show every token its future",
        "In a causal model a token must not depend on later ones. The plain token mean depends on all, so a language "
        "model trained with it would see the words it has to predict.",
        causes=("a decoder such as GPT, Llama or the text tower of CLIP",),
        do=(
            "take the causal form, the mean of the tokens up to each: --causal, in Python causal=True",
            "choose a stack that is not causal: --layers STACK:upper",
        ),
    ),
    "CB-LEAK-02": Entry(
        "the model hides padding, and a mean over all tokens would mix it in",
        "The attention of the model takes a padding mask. With the plain mean the output of a sample would depend on "
        "how much it was padded.",
        causes=("a text encoder such as BERT", "a detector with padded images"),
        do=(
            "take the masked form, the mean of the tokens that the mask leaves: --masked, in Python masked=True",
            "choose other --layers, or batches that are never padded",
        ),
    ),
    "CB-LEAK-03": Entry(
        "the probe found a leak",
        "Later tokens or the padding were changed, and an output that must not depend on them moved by more than "
        "rounding (exit code 1).",
        causes=("an operator of your own that ignores the mask", "a mean over all tokens in a causal model"),
        do=("remove the operator: cbsurgeon remove REF -o OUT", "insert the form that fits: --causal or --masked"),
    ),
    "CB-LEAK-04": Entry(
        "the probe does not find the sequence or the mask among the inputs",
        "The name or the axis given to the probe is not an input with at least two tokens, or not a padding mask.",
        causes=("a misspelt name", "example inputs without the mask", "a sequence along another axis"),
        do=("take one of the names in the message", "give the mask in the example inputs"),
    ),
    "CB-LEAK-05": Entry(
        "the probe sees nothing",
        "Changing the tokens changed no output that belongs to a token, so the probe cannot judge.",
        causes=("a model that returns one vector per sample", "outputs that do not depend on the input changed"),
        do=("let the model return its tokens", "name another input or axis"),
    ),
    "CB-LEAK-06": Entry(
        "a block has no mask that says which of its tokens are padding",
        "The masked form was asked for, and at this site the mask cannot be tied to the tokens.",
        causes=("tokens that were merged or moved since the mask was used", "a stack whose attention takes no mask"),
        do=("leave the block out: --layers, --exclude", "where there is never padding: insert without --masked"),
    ),
    "CB-LEAK-07": Entry(
        "no mask reached the operator while the model ran",
        "A masked operator gets the mask from the forward() of the module that takes it. That forward() did not run.",
        causes=("a part of the model was called instead of the model", "many passes before the backward pass"),
        do=("call the module that takes the mask", "with gradient checkpointing, go backward before other passes"),
    ),
    "CB-LEAK-08": Entry(
        "the mask does not say which tokens are padding",
        "The mask that was passed does not have one value per sample and token, or its values mean something else.",
        causes=("a mask of another shape", "a mask per pair of tokens", "a mask of floats for booleans"),
        do=("give it as [batch, tokens], one value per token",),
    ),
    "CB-LEAK-09": Entry(
        "the module takes no mask",
        "The recipe says that the mask is a parameter of forward(), and this module has none of that name.",
        causes=("a recipe of another model", "a mask inside a list or dictionary"),
        do=("make the mask a parameter of forward()", "plan again for this model: cbsurgeon insert REF --masked"),
    ),
    "CB-LEAK-10": Entry(
        "the tokens of the model do not see the ones before them",
        "The stack runs backwards in time: a token sees itself and later ones. Neither the plain mean nor the mean of "
        "the prefix keeps to that.",
        causes=("one direction of a bidirectional model", "a mask with the wrong triangle"),
        do=("choose other stacks: --layers STACK:upper", "check the attention mask of the model"),
    ),
}
