"""Codes about naming a model and its inputs: REF, HF, INPUT, TRUST."""

from cbsurgeon.errors.entry import Entry

CODES = {
    "CB-REF-01": Entry(
        "the model reference cannot be read, or does not go with another option",
        "REF is a file, or kind:name with one of the kinds timm, torchvision, hf and mod. --arch takes kind:name only, "
        "and only with a file of weights. --trained-with is also only for files of weights.",
        causes=("a missing or misspelt kind", "nothing after the colon", "--arch with a reference that is not a file"),
        do=(
            "write timm:NAME, torchvision:NAME, hf:CLASS, hf:DIRECTORY or mod:package.module:factory",
            "leave out --arch where the reference names the architecture itself",
        ),
    ),
    "CB-REF-02": Entry(
        "the library has no model of that name",
        "The kind was understood, but timm, torchvision or transformers knows no architecture with the name after the "
        "colon. Nothing is downloaded from a model hub.",
        causes=("a misspelt name", "a hub identifier such as google/vit-base", "an older version of the library"),
        do=(
            "take one of the names that the message suggests",
            "for a model of a hub: hf download ID --local-dir DIR, then hf:DIR",
        ),
    ),
    "CB-REF-03": Entry(
        "the builder raised an error",
        "The library's code that builds the architecture raised an error. The message contains it.",
        causes=("an --model-option that this architecture does not take", "a value of another type"),
        do=("check the options against the library's documentation", "build without options first"),
    ),
    "CB-REF-04": Entry(
        "the factory of a mod: reference did not give a model",
        "The module could not be imported, the name is not in it, calling it failed, or it returned something other "
        "than a torch.nn.Module.",
        causes=("the module is not on the Python path", "a misspelt name", "a factory with required arguments"),
        do=(
            "run where `import package.module` works, or set PYTHONPATH",
            "give arguments with --model-option KEY=VALUE",
            "return the module, or the module and a tuple of example inputs",
        ),
    ),
    "CB-REF-05": Entry(
        "an option of the architecture is refused",
        "Options are stored in the checkpoint as JSON and used again when it is loaded. Options that read files, "
        "download or run code are not accepted.",
        causes=("an option such as pretrained or checkpoint_path", "a Python object as value"),
        do=("give numbers, strings, booleans, lists and objects", "give weights as a file: FILE --arch REF"),
    ),
    "CB-REF-06": Entry(
        "the architecture that a file names is far larger than the file",
        "The architecture has many more modules than the file has tensors. Building it was stopped, because a small "
        "file could otherwise fill the memory.",
        causes=("options that belong to another model", "a malicious file"),
        do=("check --arch and --model-option", "do not use a file from an unknown source"),
    ),
    "CB-REF-07": Entry(
        "the keywords of --model cbsurgeon in a timm script are not complete",
        "--model cbsurgeon takes the architecture as of=NAME, and either a choice (op, layers ...) or a recipe file.",
        causes=("of=NAME is missing in --model-kwargs", "recipe= beside op= or layers="),
        do=("--model-kwargs of=deit_small_patch16_224 layers=upper op=cb",),
    ),
    "CB-HF-01": Entry(
        "config.json of the folder cannot be used",
        "The file is not valid JSON, is not an object, is too large, or does not name exactly one model class under "
        "architectures.",
        causes=("an incomplete download", "a folder that is not from save_pretrained"),
        do=("save the model again: model.save_pretrained(folder)", "name the class: hf:CLASS with --model-option"),
    ),
    "CB-HF-02": Entry(
        "reading the folder would run code or fetch another model",
        "auto_map in config.json names Python files of the folder to run, or the folder holds an adapter whose base "
        "model is on a hub. cbsurgeon does not run or download them.",
        causes=("a model with custom code", "a folder saved from a PEFT model"),
        do=(
            "merge the adapter and save the whole model: model.merge_and_unload().save_pretrained(folder)",
            "write a factory that builds the model from code you trust: mod:package.module:factory",
        ),
    ),
    "CB-HF-03": Entry(
        "the weights of the folder cannot be read",
        "transformers could not load the folder, or its weights are not in safetensors files.",
        causes=("weights as pytorch_model.bin only", "a missing shard", "a config that does not fit the weights"),
        do=(
            "convert them where you trust them: model.save_pretrained(folder, safe_serialization=True)",
            "download the folder again",
        ),
    ),
    "CB-INPUT-01": Entry(
        "the example inputs are not valid",
        "--input takes shapes without the batch: sizes joined by x, one shape per input separated by commas, each with "
        "an optional dtype. --input and --inputs exclude each other.",
        causes=("commas between the sizes of one shape", "an unknown dtype", "a size of zero, or a very large one"),
        do=("write --input 3x224x224, or --input 3x224x224,16:int64 for two inputs",),
    ),
    "CB-INPUT-02": Entry(
        "the inputs of the model are not known, or do not fit its forward()",
        "The graph is captured by running the model once, and nothing in the model describes its inputs; or the "
        "arrays given are not named after the parameters of forward().",
        causes=("a module without a config", "an .npz file with other names"),
        do=(
            "give shapes without the batch: --input 3x224x224",
            "give arrays named after the parameters: --inputs FILE.npz",
            "in Python: cbs.Model(module, (x,))",
        ),
    ),
    "CB-INPUT-03": Entry(
        "the file of example inputs cannot be read",
        "--inputs takes an .npz archive as numpy.savez writes it, without pickled objects.",
        causes=("a file of another format", "arrays of dtype object", "an incomplete copy"),
        do=("write it again: numpy.savez('inputs.npz', x=array)",),
    ),
    "CB-INPUT-04": Entry(
        "this is not the batch axis of the inputs",
        "--batch-axis takes the axis that counts samples, one for all inputs or one by name. The inputs have no such "
        "axis or name, or they disagree on the number of samples.",
        causes=("counting from 1; the first axis is 0", "a misspelt input", "example inputs of different batch sizes"),
        do=("--batch-axis 1", "by name: --batch-axis src=1,mask=0"),
    ),
    "CB-TRUST-01": Entry(
        "a recipe names code that would be imported",
        "The operator of the recipe is a class of a user (mod:package.module:Class). Importing its module runs code. A "
        "recipe file alone may not cause that.",
        causes=("a recipe made with an operator of your own", "a recipe from somebody else"),
        do=("read that module; if it is yours, add --trust", "in Python: import the module before loading"),
    ),
}
