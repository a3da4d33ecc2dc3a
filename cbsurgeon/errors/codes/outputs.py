"""Codes about outputs: OUT, SAVE."""

from cbsurgeon.errors.entry import Entry

CODES = {
    "CB-OUT-01": Entry(
        "the output exists already",
        "An output that exists is not replaced unless --force is given.",
        causes=("the command ran before",),
        do=("name another file or folder with -o", "replace it: --force"),
    ),
    "CB-OUT-02": Entry(
        "the output is a symbolic link",
        "Writing through a link would change a file elsewhere.",
        causes=("a link such as latest.onnx",),
        do=("name the file that the link points to", "remove the link"),
    ),
    "CB-OUT-03": Entry(
        "the output is one of the inputs",
        "Inputs are never overwritten, not even with --force.",
        causes=("-o names the file that is read", "two paths, links or hard links to one file"),
        do=("name another file with -o",),
    ),
    "CB-OUT-04": Entry(
        "the output path is a folder instead of a file, or a file instead of a folder",
        "The verb writes a file and the path is a folder or a device, or it writes a folder and the path is a file.",
        causes=("-o names a folder without a file name", "-o names a file for a verb that writes a folder"),
        do=("name a file inside the folder, or a folder, as the message says",),
    ),
    "CB-OUT-05": Entry(
        "the folder of the output does not exist",
        "cbsurgeon does not create the folders above an output.",
        causes=("a misspelt path", "another working directory"),
        do=("make it: mkdir -p FOLDER", "name a folder that exists"),
    ),
    "CB-OUT-06": Entry(
        "the output cannot be written there",
        "The operating system refuses a new file in that folder.",
        causes=("no write permission", "a file system that is mounted read-only", "a name that is too long"),
        do=("name a folder you can write to",),
    ),
    "CB-OUT-07": Entry(
        "writing the output failed",
        "Writing started and could not be finished. The incomplete file has been removed; an older file of that name "
        "is unchanged.",
        causes=("a full disk or an exhausted quota", "a file larger than the file system allows"),
        do=("free some space", "write to another disk with -o"),
    ),
    "CB-OUT-08": Entry(
        "a library did not write the files it should",
        "A library was called to write a file and wrote none, or wrote unexpected files. Nothing was kept.",
        causes=("a version of the library that writes other files", "another program that deletes temporary files"),
        do=("run it again", "update the library that writes this format"),
    ),
    "CB-OUT-09": Entry(
        "the output folder holds other files",
        "--force replaces the whole folder, so it is only allowed on one that the same verb wrote.",
        causes=("-o names a folder with files of your own",),
        do=("name a new folder with -o",),
    ),
    "CB-OUT-10": Entry(
        "two outputs are the same file",
        "Two options name the same file to write, so the second would replace the first.",
        causes=("the same name after -o and --recipe-out",),
        do=("give each output a different name",),
    ),
    "CB-SAVE-01": Entry(
        "the suffix does not name a format that this model can be saved in",
        "Weights are saved as .safetensors, .pt or .pth; a program that was captured or edited as a .pt2 file.",
        causes=("a missing or misspelt suffix", ".pt2 for a model that has no program"),
        do=("end the name in .safetensors", "for .pt2, insert into the program: --on program"),
    ),
    "CB-SAVE-02": Entry(
        "a value of the state dict cannot be stored",
        "A file of weights holds dense tensors. A value is not a tensor, is not dense, or has no data; or the state "
        "dict has no tensor.",
        causes=("a module with extra state", "parameters on the meta device", "quantised or sparse weights"),
        do=("materialise the weights", "convert: tensor.to_dense(), tensor.dequantize()"),
    ),
    "CB-SAVE-03": Entry(
        "the checkpoint read back is not what was written",
        "Every file is read back and compared. Here tensors differ, so the file was not kept.",
        causes=("another thread trained the model while it was saved", "a fault of memory or disk"),
        do=("save again while nothing changes the model",),
    ),
}
