"""Codes about exporting and about ONNX files: EXPORT, ONNX."""

from cbsurgeon.errors.entry import Entry

CODES = {
    "CB-EXPORT-01": Entry(
        "the ONNX opset is not offered",
        "Exports are made and tested with the opsets that the message lists.",
        causes=("an --opset that another tool uses",),
        do=("leave --opset out", "take 23 for a runtime that has the Attention operator"),
    ),
    "CB-EXPORT-02": Entry(
        "the dtype of the export is not known",
        "--dtype casts the weights before exporting and takes float16 or bfloat16.",
        causes=("a short form of another tool, such as fp16", "int8, which is no cast"),
        do=("take float16 or bfloat16", "leave --dtype out to keep the type of the model"),
    ),
    "CB-EXPORT-03": Entry(
        "torch.onnx cannot export this model",
        "The exporter has no translation for an operation, or failed on it. The message names the block.",
        causes=("an operation without an ONNX form", "an old version of torch or onnxscript"),
        do=(
            "replace that operation in forward()",
            "try --opset 23",
            "update: pip install --upgrade torch onnxscript",
        ),
    ),
    "CB-EXPORT-04": Entry(
        "the exported file fails onnx.checker",
        "The file was written and then checked, and it is not a valid ONNX model. It was removed.",
        causes=("a fault of the exporter for this model",),
        do=("try the other --opset", "report it with the name of the model"),
    ),
    "CB-EXPORT-05": Entry(
        "the exported file does not have the batch that was asked for",
        "The inputs of the file are read back. Their first axis is fixed where it should be open, or the reverse. The "
        "file was removed.",
        causes=("a version of torch or onnxscript that fixes dimensions",),
        do=("pip install --upgrade torch onnxscript",),
    ),
    "CB-EXPORT-06": Entry(
        "the model has no form of this dtype",
        "Casting the program failed at a node that only works in another type. The message names it.",
        causes=("code that makes float32 tensors and mixes them with inputs", "an operation without a 16-bit form"),
        do=("export in float32", "take the other 16-bit type"),
    ),
    "CB-EXPORT-07": Entry(
        "the suffix of the output names no export format",
        "The suffix decides what is written: .onnx, .engine or .plan, .pt2.",
        causes=("a missing or misspelt suffix",),
        do=("end the name in .onnx, .engine or .pt2",),
    ),
    "CB-EXPORT-08": Entry(
        "the batch size is not valid",
        "A batch has at least one sample.",
        causes=("zero or a negative number, which other tools use for an open batch",),
        do=("leave --batch out for an open batch", "give 1 or more"),
    ),
    "CB-EXPORT-09": Entry(
        "a .pt2 file keeps its batch open",
        "A program is written to be edited further, and the batch axis is recognised by being open.",
        causes=("--batch N together with -o FILE.pt2",),
        do=("leave --batch out", "fix the batch of the ONNX file or engine made from it"),
    ),
    "CB-EXPORT-10": Entry(
        "the batch of the model is fixed already",
        "The program was captured for one batch size and cannot be given another.",
        causes=("a .pt2 file of another program, exported without dynamic shapes",),
        do=("leave --batch out", "capture the model with an open batch"),
    ),
    "CB-EXPORT-11": Entry(
        "the ONNX file has decided this option already",
        "An engine is built from a finished ONNX file. Its dtype, opset and folding are those of the file.",
        causes=("--dtype, --opset or --no-fold together with an .onnx file",),
        do=("leave the option out", "export the model again with that option, then build the engine"),
    ),
    "CB-EXPORT-12": Entry(
        "only an engine can be made from this file",
        "An ONNX file is exported already, and can only be built into a TensorRT engine.",
        causes=("an .onnx file with an output that does not end in .engine", "a path that is no ONNX file"),
        do=("end the output in .engine: cbsurgeon export FILE.onnx -o FILE.engine", "give the model instead"),
    ),
    "CB-ONNX-01": Entry(
        "there is no such ONNX file",
        "The path ends in .onnx and does not exist, or is not a regular file.",
        causes=("a misspelt path", "an export that failed and left FILE.unverified.onnx"),
        do=("check the path",),
    ),
    "CB-ONNX-02": Entry(
        "the ONNX file cannot be read",
        "The onnx package could not parse it, or its external data is missing.",
        causes=("a half-copied file", "the .data file was not copied along", "a Git LFS pointer"),
        do=("copy the .onnx file and its .data file together", "export it again"),
    ),
    "CB-ONNX-03": Entry(
        "what the ONNX file says about its insertions cannot be read",
        "cbsurgeon writes a recipe into the metadata of the files it exports. That entry is damaged.",
        causes=("a tool that rewrote the metadata", "a file of another version"),
        do=("export the model again with this version",),
    ),
    "CB-ONNX-04": Entry(
        "the file does not say what was inserted",
        "An ONNX file says it in its metadata, an engine in the manifest beside it. This one was not made by "
        "cbsurgeon, or another tool dropped that. Graphs of exported files are not searched for blocks.",
        causes=("a file of another exporter", "a file that was optimised by another tool"),
        do=("inspect the model it was exported from",),
    ),
}
