"""Codes about reading a graph and choosing blocks: CAPTURE, LOCATE, SELECT, LEAK."""

from cbsurgeon.errors.entry import Entry

CODES = {
    "CB-CAPTURE-01": Entry(
        "the model has no example inputs",
        "torch.export runs the model once to record its graph, and needs example inputs for that.",
        causes=("cbs.Model(module) without inputs", "a module without a config"),
        do=("give shapes without the batch: --input 3x224x224", "in Python: cbs.Model(module, (x,))"),
    ),
    "CB-CAPTURE-02": Entry(
        "the model is in training mode",
        "The graph would contain active dropout and batch statistics.",
        causes=("model.train() was called, or model.eval() was not", "a module that overrides train()"),
        do=("call model.eval() first",),
    ),
    "CB-CAPTURE-03": Entry(
        "torch.export cannot follow the model's forward()",
        "An operation in the code of the model cannot be recorded as a graph. The message names the line.",
        causes=(
            "a branch that depends on values of a tensor",
            "a tensor turned into a Python number",
            "code outside PyTorch, such as NumPy or a custom kernel",
        ),
        do=(
            "make that line traceable, for instance with torch.where instead of if",
            "capture a sub-module that holds the blocks",
        ),
    ),
    "CB-CAPTURE-04": Entry(
        "the batch size became a constant",
        "The recorded graph is valid for one batch size only.",
        causes=(
            "a loop over the samples in forward(), so that the number of steps depends on the batch size",
            "a number computed from the batch size that is not a multiple of it plus a constant",
            "a tensor made for one batch size, such as torch.zeros(2, ...)",
        ),
        do=("use x.shape[0] without int(), or -1 in reshape, instead of a loop over samples",),
    ),
    "CB-CAPTURE-05": Entry(
        "the recorded program does not compute what the model does",
        "Both were run on the same inputs, and their outputs differ.",
        causes=("random numbers in forward()", "state that changes between calls", "a cache kept on the module"),
        do=("make forward() deterministic in evaluation mode",),
    ),
    "CB-CAPTURE-06": Entry(
        "the model does not run on its example inputs",
        "forward() raised an error before anything was recorded. The message repeats it.",
        causes=("a shape that the model does not accept", "a missing input", "an input of another dtype"),
        do=("give inputs that the model accepts: --input 3x224x224, or --inputs FILE.npz",),
    ),
    "CB-CAPTURE-07": Entry(
        "height and width of the images cannot be dynamic",
        "--dynamic-size captures the model with symbolic height and width. Its code has to work for any size: position "
        "embeddings of a fixed number of tokens, window masks and token mixers do not.",
        causes=("a ViT, Swin or Mixer built for one image size", "a .pt2 program, whose size is fixed"),
        do=(
            "leave --dynamic-size out",
            "build the model for any size if its library can: --model-option dynamic_img_size=true (timm's ViTs)",
        ),
    ),
    "CB-CAPTURE-08": Entry(
        "axis 0 of the inputs is not the batch",
        "Axis 0 of the inputs is assumed to be the batch. In this model, a sample on this axis changes the output of "
        "another, or attention runs along it, so a token mean would run over the wrong axis.",
        causes=(
            "tokens first: nn.TransformerEncoder without batch_first=True, inputs of shape (tokens, batch, width)",
            "inputs that have the batch at different axes",
            "a model that compares the samples of a batch on purpose",
        ),
        do=(
            "state the axis: --batch-axis 1, or --batch-axis x=1,mask=0",
            "in Python: cbs.Model(module, (x,), batch_axis=1)",
            "if samples may influence each other: --batch-axis 0",
        ),
    ),
    "CB-CAPTURE-09": Entry(
        "the captured program cannot be run",
        "An operator of the graph that torch.export recorded raises an error, so nothing can be proved by running the "
        "graph.",
        causes=("torch.vmap around code that slices its input", "an operator that only works inside a transformation"),
        do=(
            "write that part of forward() without torch.vmap or torch.func",
            "replace flex_attention by scaled_dot_product_attention with a mask",
        ),
    ),
    "CB-LOCATE-01": Entry(
        "there is no block to choose from",
        "The graph has no branch of the requested kind (exit code 1).",
        causes=("a model without MLP blocks, such as a plain CNN", "blocks of a kind that is only chosen on request"),
        do=("list near misses and their reasons: cbsurgeon inspect REF --why", "choose other kinds: --kinds"),
    ),
    "CB-LOCATE-02": Entry(
        "no block is left",
        "--exclude leaves out every block that --layers chose.",
        causes=("the same indices in both", "--exclude taps on a model whose chosen blocks are all tapped"),
        do=("list the blocks: cbsurgeon inspect REF", "choose more with --layers, or exclude less"),
    ),
    "CB-LOCATE-03": Entry(
        "a requested block does not exist",
        "--layers or --exclude names an index that the model does not have. Nothing is skipped silently.",
        causes=("counting from 1; the first block is 0", "indices of another model size"),
        do=("list the blocks: cbsurgeon inspect REF", "use upper, lower, first:3 or last:3"),
    ),
    "CB-LOCATE-04": Entry(
        "a requested block does not have the position",
        "The block exists, but no operator can be inserted at the requested position. The message gives the reason.",
        causes=("axes whose roles cannot be distinguished there", "a fused operation without a tensor at that point"),
        do=("choose another --pos or other --layers", "insert where it is possible: --allow-partial"),
    ),
    "CB-SELECT-01": Entry(
        "the choice of blocks cannot be read",
        "--layers takes all, upper, lower, first:3, last:3, 6-11, 0,2,4, the name of a stack, or stack:upper. "
        "--exclude takes indices and taps.",
        causes=("a misspelt word", "a stack of another model", "an empty value"),
        do=("take the form that the message suggests", "list the stacks: cbsurgeon inspect REF"),
    ),
    "CB-SELECT-02": Entry(
        "cbsurgeon cannot find out which blocks are tapped",
        "A block is tapped if its residual stream is also an output of the model. This model was captured in parts, "
        "and the graph of a part does not show where its residual stream is used.",
        causes=("a model that torch.export cannot capture whole",),
        do=("give the indices of the blocks whose stream is also an output: --exclude 3,7,11",),
    ),
    "CB-LEAK-01": Entry(
        "the model is causal, and a mean over all tokens would show every token its future",
        "In a causal model a token must not depend on later ones. The plain token mean depends on all, so a language "
        "model trained with it would see the words it has to predict.",
        causes=("a decoder such as GPT, Llama or the text tower of CLIP",),
        do=(
            "use the causal form, which averages over the tokens up to each one: --causal, in Python causal=True",
            "choose a stack that is not causal: --layers STACK:upper",
        ),
    ),
    "CB-LEAK-02": Entry(
        "the model masks padding, and a mean over all tokens would mix it into every token",
        "The attention of the model takes a padding mask. With the plain mean the output of a sample would depend on "
        "how much it was padded.",
        causes=("a text encoder such as BERT", "a detector with padded images"),
        do=(
            "use the masked form, which averages over the tokens that are not padding: --masked, in Python masked=True",
            "choose blocks of a stack whose attention takes no padding mask: --layers STACK",
        ),
    ),
    "CB-LEAK-03": Entry(
        "the model leaks the future or padding",
        "Later tokens or the padding were changed, and an output that must not depend on them changed by more than "
        "rounding (exit code 1).",
        causes=("an operator of your own that ignores the mask", "a mean over all tokens in a causal model"),
        do=("remove the operator: cbsurgeon remove REF -o OUT", "insert the form that fits: --causal or --masked"),
    ),
    "CB-LEAK-04": Entry(
        "the leak probe does not find the sequence or the mask among the inputs",
        "The name or the axis given to the probe is not an input with at least two tokens, or not a padding mask.",
        causes=("a misspelt name", "example inputs without the mask", "a sequence along another axis"),
        do=("take one of the names in the message", "give the mask in the example inputs"),
    ),
    "CB-LEAK-05": Entry(
        "the leak probe has nothing to compare",
        "Changing the tokens did not change any output that belongs to a token, so a leak would not show.",
        causes=("a model that returns one vector per sample", "outputs that do not depend on the input changed"),
        do=("let the model return its tokens", "name another input or axis"),
    ),
    "CB-LEAK-06": Entry(
        "a block has no mask that marks its padding",
        "The masked form was requested, and at this block it cannot be proved which mask value belongs to which token.",
        causes=("tokens that were merged or moved after the mask was used", "a stack whose attention takes no mask"),
        do=("leave the block out: --layers, --exclude", "if there is never padding: insert without --masked"),
    ),
    "CB-LEAK-07": Entry(
        "no mask reached the operator while the model ran",
        "A masked operator gets the mask from the forward() of the module that takes it. That forward() did not run.",
        causes=("a part of the model was called by itself", "many forward passes before the backward pass"),
        do=(
            "call the module that takes the mask",
            "with gradient checkpointing, run the backward pass before many other forward passes",
        ),
    ),
    "CB-LEAK-08": Entry(
        "the mask does not mark padding per token",
        "The mask that was passed does not have one value per sample and token, or its values mean something else.",
        causes=("a mask of another shape", "one value per pair of tokens", "floats where the model takes booleans"),
        do=("give it as [batch, tokens], one value per token",),
    ),
    "CB-LEAK-09": Entry(
        "the module takes no mask",
        "The recipe says that the mask is a parameter of forward(), and this module has none of that name.",
        causes=("a recipe of another model", "a mask inside a list or dictionary"),
        do=("make the mask a parameter of forward()", "plan again for this model: cbsurgeon insert REF --masked"),
    ),
    "CB-LEAK-10": Entry(
        "some tokens of the model do not see earlier ones",
        "Both the plain mean and the causal mean would let a token depend on earlier tokens that the model masks.",
        causes=(
            "one direction of a bidirectional model, or a mask with the wrong triangle",
            "queries in front of the tokens that they read, or a prompt behind them that every token sees",
            "tokens that are sorted or ranked by an input or by a score, and see each other in that order",
        ),
        do=("choose other stacks: --layers STACK:upper", "check the attention mask of the model"),
    ),
}
