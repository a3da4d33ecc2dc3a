"""Codes about running a model in a back end: RUN."""

from cbsurgeon.errors.entry import Entry

CODES = {
    "CB-RUN-01": Entry(
        "these are not the inputs of the model",
        "The names of the arrays given are not those the file or the model takes.",
        causes=("an .npz file with other names", "a model exported with other input names"),
        do=("name the arrays as the message lists them: numpy.savez('inputs.npz', x=array)",),
    ),
    "CB-RUN-02": Entry(
        "an input has another shape",
        "The file fixes sizes that the input given does not have.",
        causes=("an image of another size", "a missing batch axis"),
        do=("give an input of the shape in the message", "export the model for this size: --input 3x224x224"),
    ),
    "CB-RUN-03": Entry(
        "an NVIDIA GPU is needed",
        "The back end runs on CUDA, and PyTorch sees no CUDA device.",
        causes=("a machine without an NVIDIA GPU", "a driver that does not fit", "a build of torch for the CPU"),
        do=("run it on a machine with a GPU", "take another back end: --backend onnxruntime"),
    ),
    "CB-RUN-04": Entry(
        "the model has no eager form",
        "It is an exported program, not a module.",
        causes=("a model loaded from a .pt2 file",),
        do=("take the back end program",),
    ),
    "CB-RUN-05": Entry(
        "ONNX Runtime cannot run the file",
        "Opening a session or running it failed. The message repeats what ONNX Runtime said.",
        causes=("an operator or opset that this version lacks", "a damaged file", "missing external data"),
        do=("check it: cbsurgeon inspect FILE.onnx", "export it again", "pip install --upgrade onnxruntime"),
    ),
    "CB-RUN-06": Entry(
        "this ONNX Runtime does not have the provider",
        "The CPU and GPU versions of ONNX Runtime are separate packages that must not be installed together.",
        causes=("onnxruntime is installed instead of onnxruntime-gpu",),
        do=("pip uninstall onnxruntime && pip install 'cbsurgeon[gpu]'",),
    ),
    "CB-RUN-07": Entry(
        "part of the model fell back to the CPU",
        "CUDA was asked for, and ONNX Runtime placed operators on the CPU. A measurement would be of something else.",
        causes=("missing CUDA or cuDNN libraries", "operators without a CUDA kernel"),
        do=("check the CUDA and cuDNN libraries of this installation", "export with --opset 20"),
    ),
    "CB-RUN-08": Entry(
        "an input is outside what the engine was built for",
        "An engine serves the range of batches it was built with.",
        causes=("a larger batch than the largest of the profile",),
        do=("build it with a wider range: --batch 1,8,64", "give batches inside the range"),
    ),
    "CB-RUN-09": Entry(
        "there is no such back end",
        "The back end is not one of those the message lists.",
        causes=("a misspelt name", "a name of another tool, such as trt"),
        do=("take a name from the message", "leave it out to run each side as it is"),
    ),
    "CB-RUN-11": Entry(
        "there is no such device",
        "--device takes cpu, cuda, or cuda:1 for the second GPU.",
        causes=("a misspelt name, or gpu for cuda",),
        do=("take a name from the message", "leave --device out to run on the CPU"),
    ),
    "CB-RUN-10": Entry(
        "the back end cannot run this kind of file",
        "An ONNX file runs in ONNX Runtime, an engine in TensorRT, a model eagerly, as a program or compiled.",
        causes=("a back end chosen for the other side",),
        do=("leave the back end out", "export the model for that back end first"),
    ),
    "CB-RUN-12": Entry(
        "torch.compile would run this model eagerly",
        "Dynamo keeps a limited number of compiled variants of a function and runs it eagerly beyond that; cbsurgeon "
        "stops instead, because it would check or time something that is not compiled (exit code 1).",
        causes=("many batch sizes or types in one process",),
        do=("call torch.compiler.reset()", "use one batch size per process"),
    ),
}
