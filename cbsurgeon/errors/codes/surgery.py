"""Codes about choosing, inserting and removing operators: PLAN, OP, RECIPE, INSERT, SURGERY, REMOVE."""

from cbsurgeon.errors.entry import Entry

CODES = {
    "CB-PLAN-01": Entry(
        "unknown position, branch or kind of block",
        "The position (--pos), the branch (--at) or the kind of block (--kinds) is not one of the valid values.",
        causes=("a misspelt value",),
        do=("take one of the values in the message", "read the help: cbsurgeon insert --help"),
    ),
    "CB-PLAN-02": Entry(
        "the operator fixes its position",
        "uniform_head is inserted at the queries of attention. --pos and --at are for operators that can be inserted "
        "elsewhere.",
        causes=("--pos or --at together with such an operator",),
        do=("leave --pos and --at out",),
    ),
    "CB-OP-01": Entry(
        "unknown operator",
        "--op takes the name of an operator of cbsurgeon, or a class of your own as mod:package.module:Class.",
        causes=("a misspelt name", "a class of your own without mod: before it"),
        do=("take one of the names in the message",),
    ),
    "CB-OP-02": Entry(
        "the operator does not take this option",
        "The constructor of the operator has no parameter of that name, or a required one was not given.",
        causes=("a misspelt --op-option", "an option of another operator"),
        do=("take one of the options in the message", "leave --op-option out"),
    ),
    "CB-OP-03": Entry(
        "the operator cannot be built for this site",
        "The options have values the operator cannot work with, or the axes of the site do not suit it.",
        causes=(
            "a negative or zero size",
            "a token slice that leaves no token",
            "an operator that needs one token axis",
        ),
        do=("choose another value, operator or site",),
    ),
    "CB-OP-04": Entry(
        "the class is not an operator",
        "A class of your own must be a subclass of cbsurgeon.Operator with a name and forward(x).",
        causes=("the module cannot be imported", "another base class", "no class attribute name"),
        do=(
            "write class Mine(cbsurgeon.Operator) with name = 'mine' and forward(x)",
            "start from examples/05_own_operator in the repository",
        ),
    ),
    "CB-OP-05": Entry(
        "the strength cannot be set to this value",
        "The strength of cb_retrofit lies between 0, the identity, and 0.5, which is CB.",
        causes=("a value outside the range", "a number that is not finite"),
        do=("give a value from 0 to 0.5",),
    ),
    "CB-OP-06": Entry(
        "there is no strength to set",
        "The module has no cb_retrofit operator. Other operators have no strength.",
        causes=("another operator was inserted", "the module was not edited"),
        do=('insert one: cbs.plan(found, op="cb_retrofit")',),
    ),
    "CB-RECIPE-01": Entry(
        "this is not a recipe",
        "The file or text is not JSON, or its schema is not that of a recipe.",
        causes=("another result of cbsurgeon was given", "a file edited by hand that lost a comma"),
        do=("make one: cbsurgeon insert REF --dry-run --json > recipe.json",),
    ),
    "CB-RECIPE-02": Entry(
        "a member of the recipe is missing or not valid",
        "The document is a recipe, but the type or value of a member does not follow the schema.",
        causes=("a file edited by hand", "a recipe of another version"),
        do=("compare it with: cbsurgeon insert REF --dry-run --json",),
    ),
    "CB-RECIPE-03": Entry(
        "the recipe was made for another structure",
        "The blocks of this model are not those that the recipe names. Both are compared by a fingerprint: a digest of "
        "kinds, paths and widths.",
        causes=("another model or another size of it", "a model that was changed after the recipe was made"),
        do=("make a recipe for this model: cbsurgeon insert REF --dry-run --json",),
    ),
    "CB-RECIPE-04": Entry(
        "the checkpoint was trained with another recipe",
        "Training was resumed from a checkpoint whose config.json has another operator, other options or other sites "
        "than the model. Its weights would load by name, and the model would compute something else.",
        causes=("--resume with another choice than the first run", "a folder of another run"),
        do=("use the model of the checkpoint: cbs.load('hf:FOLDER').module", "start again in another folder"),
    ),
    "CB-RECIPE-05": Entry(
        "the recipe has no enabled site",
        "Inserting it would change nothing. A request that matches nothing is an error.",
        causes=("every site has enabled: false", "the list of sites was emptied by hand"),
        do=("set enabled to true for at least one site", "make a recipe: cbsurgeon insert REF --dry-run --json"),
    ),
    "CB-INSERT-01": Entry(
        "the model is a program and has no module",
        'cbs.insert edits a module unless on="program" is given.',
        causes=("a model loaded from a .pt2 file", "cbs.insert_ on an exported program"),
        do=('change the program: cbs.insert(model, recipe, on="program"), or --on program',),
    ),
    "CB-SURGERY-01": Entry(
        "the model is a program and has no module to insert into",
        "Operators run in hooks of a module, and this model is an exported program.",
        causes=("a model loaded from a .pt2 file",),
        do=('change the program: cbs.insert(model, recipe, on="program"), or --on program',),
    ),
    "CB-SURGERY-02": Entry(
        "no module starts or ends at this position",
        "The tensor is computed and used inside one forward(), or the only module there is a container that would run "
        "the operator as a layer of its own.",
        causes=("functional code", "a block written as nn.Sequential, read from a program"),
        do=(
            'insert into the program: cbs.insert(model, recipe, on="program"), or --on program',
            "choose another --pos",
        ),
    ),
    "CB-SURGERY-03": Entry(
        "the site is occupied",
        "There is an operator at that position already. Two operators in a row would compute a function that is "
        "neither of the two.",
        causes=("the model was edited before", "a recipe that is applied twice"),
        do=("remove the first: cbsurgeon remove REF -o plain.safetensors", "leave the block out: --exclude INDEX"),
    ),
    "CB-SURGERY-04": Entry(
        "the operator does not run as often as its block",
        "After an insertion, the model is run once and the calls of each operator are counted. An operator was not "
        "called as often as its block. The insertion was undone.",
        causes=("the model calls layer.forward() directly, which skips hooks", "code that iterates over children"),
        do=('insert into the program: cbs.insert(model, recipe, on="program"), or --on program',),
    ),
    "CB-SURGERY-05": Entry(
        "the nodes of the program carry no values",
        'The graph editor needs the shapes that torch.export stores in meta["val"].',
        causes=("a graph made by hand", "a pass that dropped the metadata"),
        do=("export the program again with torch.export.export",),
    ),
    "CB-SURGERY-06": Entry(
        "the operator does not work on the tensor of this site",
        "The operator cannot be used with the axes, the tokens or the class token of this site.",
        causes=("cb_gate where no class token is proved", "the causal form on a site with two token axes"),
        do=("leave the block out: --layers, --exclude", "choose another operator or --op-option"),
    ),
    "CB-SURGERY-07": Entry(
        "the graph is not that of the program the pass was made for",
        "An InsertPass adds parameters to the signature of one program, and only fits the graph of that program.",
        causes=("another pass ran before and changed the graph",),
        do=("run this pass first, or make it from the changed program",),
    ),
    "CB-SURGERY-08": Entry(
        "the module is sharded already",
        "A parameter added after FSDP would belong to no shard.",
        causes=("fully_shard was called before the insertion",),
        do=("insert first, then fully_shard(module), then make the optimizer",),
    ),
    "CB-SURGERY-09": Entry(
        "the operator was given a nested tensor",
        "nn.TransformerEncoder packs padded batches into nested tensors, whose sequences have unequal lengths. A plain "
        "mean would mix padding in.",
        causes=("src_key_padding_mask in evaluation mode",),
        do=("build the encoder with enable_nested_tensor=False, and insert with --masked",),
    ),
    "CB-SURGERY-10": Entry(
        "samples and tokens of a tensor cannot be separated",
        "At this site, samples and tokens share one axis, which is split by the sizes of another module's output in "
        "the same forward pass. That module did not run before, or its sizes do not match the tensor.",
        causes=("a part of the model was called by itself", "samples have different numbers of tokens"),
        do=("run the whole block, not a part of it", "give every sample the same number of tokens"),
    ),
    "CB-SURGERY-11": Entry(
        "the layer of an inserted operator is gone",
        "An operator runs on the input or the output of a layer. If a linear layer is wrapped or replaced, the "
        "operator moves with it. Here the layer was deleted, or a whole MLP was replaced by another one.",
        causes=("the model was changed after the insertion",),
        do=("remove the operators, change the model, then insert again",),
    ),
    "CB-SURGERY-12": Entry(
        "torch.jit.script cannot compile an edited model",
        "torch.jit.script cannot compile the hooks that run the operators. cbs.scriptable makes a copy without hooks; "
        "it refuses operators that need a padding mask or the sizes of another tensor.",
        causes=("torch.jit.script on the edited model", "a masked operator"),
        do=(
            "torch.jit.script(cbs.scriptable(model))",
            "torch.jit.trace, torch.export or cbs.export, which run the hooks",
        ),
    ),
    "CB-SURGERY-13": Entry(
        "an optimizer was built before the insertion",
        "The optimizer holds the parameters of the module, but not those of the operators, so it would never train "
        "them.",
        causes=("the insertion comes too late in the script", "an optimizer of an earlier run in the same notebook"),
        do=("insert first, then build the optimizer", "delete the old optimizer: del optimizer"),
    ),
    "CB-SURGERY-14": Entry(
        "the module is wrapped by DistributedDataParallel already",
        "The wrapper lists parameters and buffers when it is built. The parameters of operators inserted later would "
        "not be synchronised, and would differ between ranks.",
        causes=("the insertion comes too late in the script",),
        do=("insert first, then wrap the module",),
    ),
    "CB-SURGERY-15": Entry(
        "the operator was given a tensor with another number of axes",
        "A recipe numbers the axes of batch, tokens and channels. If the model or a part of it is called with more or "
        "fewer axes, the same numbers are other axes, and a mean over them would be silently wrong.",
        causes=("one sample without a batch axis, also inside torch.vmap", "a part of the model was called by itself"),
        do=("give inputs with a batch axis", "insert again, with inputs of the shape that the model gets"),
    ),
    "CB-REMOVE-01": Entry(
        "there is nothing to remove",
        "The model holds no operator that cbsurgeon inserted (exit code 1).",
        causes=("the original was given instead of the edited model", "it was removed before"),
        do=("list the inserted operators: cbsurgeon inspect REF",),
    ),
    "CB-REMOVE-02": Entry(
        "there is no operator to disable",
        "cbs.disable temporarily runs a module without its inserted operators. This model has none, or is a program, "
        "whose operators are part of its graph (exit code 1).",
        causes=("the original was given instead of the edited model", "a model loaded from a .pt2 file"),
        do=("compare with the model before the insertion", "remove the operators: cbs.remove(model)"),
    ),
}
