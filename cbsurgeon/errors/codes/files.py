"""Codes about reading model files: LOAD, FIT, META."""

from cbsurgeon.errors.entry import Entry

CODES = {
    "CB-LOAD-01": Entry(
        "the file does not exist",
        "REF is neither a file that exists nor a reference of the form kind:name.",
        causes=("a misspelt path", "another working directory", "a timm name without timm: before it", "a broken link"),
        do=("check the path", "name a builder: timm:NAME, torchvision:NAME, hf:CLASS or mod:package.module:factory"),
    ),
    "CB-LOAD-02": Entry(
        "REF is a folder",
        "A folder was given where a file is expected.",
        causes=("a folder saved by transformers, without hf: before it", "a run folder that holds checkpoints"),
        do=("for a folder saved by transformers: hf:FOLDER", "name the checkpoint inside the folder"),
    ),
    "CB-LOAD-03": Entry(
        "REF is not a regular file",
        "A file is read twice, to check it and to load it. Pipes, sockets and devices can be read only once.",
        causes=("process substitution such as <(...)", "/dev/stdin"),
        do=("copy the content into a file first",),
    ),
    "CB-LOAD-04": Entry(
        "the file is empty",
        "Its size is 0 bytes.",
        causes=("a download or copy that was cut off", "a program that crashed while it was writing"),
        do=("download or write the file again",),
    ),
    "CB-LOAD-05": Entry(
        "the file cannot be read",
        "The operating system refused to open or read it.",
        causes=("no read permission", "a fault of the disk or the network drive"),
        do=("check the permissions: ls -l FILE", "copy it to a local disk"),
    ),
    "CB-LOAD-06": Entry(
        "the file is not a checkpoint",
        "Its first bytes show another format: an archive, an image, a text file, ONNX, NumPy or an unknown one.",
        causes=("the wrong file", "an HTML page saved instead of the download", "a Git LFS pointer"),
        do=(
            "give a .safetensors, .pt or .pth file",
            "unpack an archive first",
            "arrays in an .npz file are inputs: --inputs FILE.npz",
        ),
    ),
    "CB-LOAD-07": Entry(
        "the file is damaged",
        "It begins like a checkpoint, but the rest of it is not valid.",
        causes=("a download or copy that was cut off", "a fault of the disk"),
        do=("compare its size or checksum with the source", "download or write the file again"),
    ),
    "CB-LOAD-11": Entry(
        "the file is TorchScript",
        "torch.jit.save writes compiled code. It has no torch.nn.Module into which operators could be inserted.",
        causes=("a model exported for deployment instead of its weights",),
        do=(
            "save its weights where you trust it: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')",
            "then: cbsurgeon inspect weights.pt --arch timm:NAME",
        ),
    ),
    "CB-LOAD-12": Entry(
        "the file is a pickle of objects, not of weights",
        "Reading it would rebuild Python objects, which runs code named in the file.",
        causes=("torch.save(model) instead of torch.save(model.state_dict())", "a trainer that saves its own objects"),
        do=(
            "save the weights in the program that made the file: torch.save(model.state_dict(), 'weights.pt')",
            "only for a file of your own: add --trust",
        ),
    ),
    "CB-LOAD-13": Entry(
        "the file is an exported program, and reading it can run code",
        "The .pt2 format has no safe mode.",
        causes=("a program saved by torch.export.save or by cbsurgeon export",),
        do=("give the weights and the architecture instead: FILE --arch REF", "only for a file of your own: --trust"),
    ),
    "CB-LOAD-14": Entry(
        "a trusted file could not be loaded",
        "The file was read with --trust, but its objects could not be created; or it is an exported program whose "
        "values have other shapes or types than the file records, so that its blocks cannot be read.",
        causes=(
            "a class it names cannot be imported here",
            "another version of torch wrote it",
            "the file of a program was edited",
        ),
        do=("run where the classes it names can be imported", "save a state dict, or export the program again"),
    ),
    "CB-LOAD-15": Entry(
        "the file holds tensors that are not dense",
        "Sparse, quantised or meta tensors are not read as weights.",
        causes=("a quantised checkpoint", "a model saved on the meta device"),
        do=("store dense tensors: tensor.to_dense(), tensor.dequantize()",),
    ),
    "CB-LOAD-16": Entry(
        "a tensor is declared larger than its data",
        "The file holds fewer bytes for a tensor than its shape and dtype need. The file is not read.",
        causes=("a file that was cut off", "a malicious file"),
        do=("download or write the file again", "do not use it if it comes from an unknown source"),
    ),
    "CB-LOAD-17": Entry(
        "a whole model was given where weights are needed",
        "The file holds a module or a program, or the model has no module whose weights could be loaded.",
        causes=("a file from torch.save(model) passed to a function for checkpoints",),
        do=("load it as a model: cbs.load(FILE, trust=True)",),
    ),
    "CB-LOAD-20": Entry(
        "the file holds weights but does not name their architecture",
        "Weights alone do not say which model they belong to.",
        causes=("a plain state dict", "a trainer that does not store the name of the model"),
        do=(
            "add --arch timm:NAME, torchvision:NAME or hf:CLASS",
            "name your own function that builds it: --arch mod:path/to/file.py:function or mod:package.module:function",
        ),
    ),
    "CB-LOAD-21": Entry(
        "the checkpoint names an architecture that a file may not name",
        "Building the architecture that the file names would import code or read other files. Only the command line "
        "may request that.",
        causes=("a model of your own, saved with a mod: reference", "a file from somebody else"),
        do=("if the code is yours, give the name on the command line: --arch mod:package.module:factory",),
    ),
    "CB-LOAD-22": Entry(
        "the checkpoint was saved with insertions",
        "The weights belong to the edited model, and the function that was called does not insert operators.",
        causes=("cbsurgeon.models.load was called instead of cbsurgeon.load",),
        do=("load it with cbs.load(FILE), which inserts the operators again",),
    ),
    "CB-LOAD-23": Entry(
        "an option does not apply to this kind of file",
        "An exported program contains its architecture, weights and example inputs.",
        causes=("--arch, --input, --inputs or --entry given with a .pt2 file",),
        do=("leave the option out",),
    ),
    "CB-LOAD-24": Entry(
        "the file changed while it was being read",
        "Its size or modification time is not the same as at the beginning, so the parts may not belong together.",
        causes=("a training run that saves to the same name", "a download that is still running"),
        do=("run again when the file is complete",),
    ),
    "CB-LOAD-25": Entry(
        "the checkpoint holds several state dicts, and none has a usual name",
        "Usual names are state_dict, model, model_state_dict, module, net, weights, and those of averaged weights. "
        "With several other names, cbsurgeon does not guess which one to read.",
        causes=("student and teacher in one file", "a generator and a discriminator in one file"),
        do=("choose one of the entries in the message: --entry NAME",),
    ),
    "CB-LOAD-26": Entry(
        "building the model would take too much memory",
        "Parameters, buffers and example inputs are counted while the model is built, before anything is written into "
        "them. The limit is 0.8 of the machine's memory for a model named on the command line, and 0.5 GiB plus 8 "
        "times the size of the file for a model that a file describes. Running the model needs additional memory.",
        causes=(
            "an image size or a width far above what the architecture is made for",
            "a small file that describes a large model: do not use it unless you know it",
            "a model larger than this machine",
        ),
        do=("use a smaller --input, --model-option img_size=224 or batch", "raise the limit: --max-memory 16GB"),
    ),
    "CB-FIT-01": Entry(
        "the weights do not fit the architecture",
        "Keys are missing or left over, or tensors have another shape. Weights are always loaded with strict=True.",
        causes=(
            "another size, number of classes or number of blocks",
            "module. or model. before every key",
            "operators that were inserted before training and are not in the model",
        ),
        do=(
            "follow the advice in the message, which compares the keys",
            "give the number of classes: --model-option num_classes=10",
            "give the number of blocks: --model-option depth=6",
            "for weights trained with an insertion: --trained-with recipe.json",
        ),
    ),
    "CB-FIT-02": Entry(
        "the file holds no weights",
        "It could be read, but no entry of it is a dictionary of tensors.",
        causes=("an optimizer state", "--entry names something else", "a file of settings"),
        do=("save the state dict: torch.save(model.state_dict(), 'weights.pt')", "choose another --entry"),
    ),
    "CB-META-01": Entry(
        "the metadata of the checkpoint cannot be read",
        "The metadata that cbsurgeon writes beside the weights (architecture, options, recipe) is damaged, too large, "
        "or contradicts the tensors.",
        causes=("a program that rewrote the file", "a malicious file"),
        do=("write the file again with cbsurgeon", "state the architecture yourself: --arch REF"),
    ),
    "CB-META-02": Entry(
        "the checkpoint was written by another version of cbsurgeon",
        "Its metadata has a schema that this version does not know.",
        causes=("a newer version wrote it",),
        do=("pip install --upgrade cbsurgeon",),
    ),
    "CB-META-03": Entry(
        "the recipe note in the state dict cannot be read",
        "A state dict saved after an insertion contains a note of its operators and their recipe. Here the operators "
        "are not those of the recipe, or the recipe is damaged.",
        causes=("only a part of the edited model was saved", "a program that rewrote the file"),
        do=(
            "save the state dict of the whole model",
            "drop the notes, and give the recipe: torch.save(dict(state), file)",
        ),
    ),
    "CB-META-04": Entry(
        "the file contains another recipe than the one given",
        "The weights were trained with the recipe in the file. With another recipe, the model would compute something "
        "else.",
        causes=("a recipe of another run", "a recipe edited after the training"),
        do=("leave out --trained-with: the file is read with its own recipe",),
    ),
    "CB-META-05": Entry(
        "it is unknown whether these weights were trained with operators",
        "Another entry of the checkpoint has a note of its operators. This entry was copied into a plain dictionary, "
        "which drops such a note, so it may have been trained with operators too.",
        causes=("averaged weights kept as {key: tensor}", "weights moved to the CPU one by one before saving"),
        do=("give the recipe: --trained-with recipe.json", "take the other entry: --entry NAME"),
    ),
    "CB-WEIGHTS-01": Entry(
        "the pretrained weights are not available",
        "timm:NAME.TAG names pretrained weights. They are read from timm's cache, or downloaded with --pretrained. "
        "They are replaced by random weights only with --random-weights.",
        causes=("nothing was downloaded before", "no network", "options that do not fit the pretrained weights"),
        do=("download them: --pretrained", "use the architecture alone: --random-weights, or leave out the tag"),
    ),
    "CB-WEIGHTS-02": Entry(
        "--pretrained or --random-weights does not apply here",
        "The two flags are for timm: and torchvision: references, and exclude each other. A file or a folder has its "
        "own weights.",
        causes=("a file with --pretrained", "both flags"),
        do=("leave the flag out",),
    ),
}
