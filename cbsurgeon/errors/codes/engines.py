"""Codes about TensorRT engines: ENGINE."""

from cbsurgeon.errors.entry import Entry

CODES = {
    "CB-ENGINE-01": Entry(
        "the TensorRT package is not known",
        "Engines are built by the Python package tensorrt or tensorrt_rtx.",
        causes=("a misspelt name",),
        do=("leave it out to take what is installed",),
    ),
    "CB-ENGINE-02": Entry(
        "the manifest of the engine cannot be read",
        "Beside an engine lies a JSON file that says what it was built from and with. It is damaged.",
        causes=("a file edited by hand", "an incomplete copy"),
        do=("build the engine again",),
    ),
    "CB-ENGINE-03": Entry(
        "there is no such engine file",
        "The path ends in .engine or .plan and does not exist, or is not a regular file.",
        causes=("a misspelt path",),
        do=("check the path",),
    ),
    "CB-ENGINE-04": Entry(
        "the engine is not the one its manifest was written for",
        "The SHA-256 of the file differs from the one in the manifest.",
        causes=("the engine was built again by another tool", "a file that was copied without its manifest"),
        do=("build the engine again with cbsurgeon",),
    ),
    "CB-ENGINE-05": Entry(
        "nothing shows that the engine was built here",
        "An engine is machine code that runs with your rights. cbsurgeon opens those it built itself on this machine.",
        causes=("an engine from another machine or user", "an engine built by trtexec"),
        do=("build it here from the ONNX file", "only for an engine you built yourself: --trust"),
    ),
    "CB-ENGINE-06": Entry(
        "the batch profile is not in order",
        "An engine serves a range of batches: smallest, most common, largest.",
        causes=("the numbers are not sorted",),
        do=("write --batch 1,8,64",),
    ),
    "CB-ENGINE-07": Entry(
        "the builder cannot build for this target",
        "TensorRT-RTX can build for GPUs that are not in this machine; the message lists them. TensorRT builds for the "
        "GPU it runs on.",
        causes=("a misspelt compute capability", "a GPU the package does not support"),
        do=("leave the target out", "build on the machine with that GPU"),
    ),
    "CB-ENGINE-08": Entry(
        "TensorRT-RTX takes no timing cache",
        "It does not measure kernels while it builds.",
        causes=("an option meant for TensorRT",),
        do=("leave the timing cache out",),
    ),
    "CB-ENGINE-09": Entry(
        "the TensorRT parser cannot read the ONNX model",
        "The parser has no implementation of an operation, or not of this form of it. The message names the block.",
        causes=("an operation TensorRT lacks, such as Col2Im or DFT", "another opset than the parser knows"),
        do=("export with the other --opset", "replace that operation in the model", "update TensorRT"),
    ),
    "CB-ENGINE-10": Entry(
        "TensorRT could not build the engine",
        "The model was parsed, and building failed. The message repeats what TensorRT said.",
        causes=("too little GPU memory", "no NVIDIA GPU or driver", "an input with more than one open dimension"),
        do=(
            "give a smaller largest batch: --batch 1,8,16",
            "without a GPU, install tensorrt-rtx: pip install 'cbsurgeon[tensorrt-rtx]'",
        ),
    ),
    "CB-ENGINE-11": Entry(
        "the build was cancelled",
        "Ctrl-C or a signal arrived while the engine was built. Nothing was written.",
        causes=("an interrupt", "a time limit of the system that runs the command"),
        do=("run it again",),
    ),
    "CB-ENGINE-12": Entry(
        "TensorRT does not accept the engine, or failed while it ran",
        "An engine runs with the version of TensorRT, and on the kind of GPU, that it was built for.",
        causes=("another version of TensorRT", "another GPU", "a damaged file"),
        do=("build the engine again on this machine",),
    ),
}
