"""Codes about exported files and running them: EXPORT, ONNX, ENGINE, RUN."""

from cbsurgeon.errors.entry import Entry

CODES = {
    "CB-EXPORT-01": Entry(
        "the ONNX opset is not supported",
        "Only the opsets that the message lists are tested, and only these are written.",
        causes=("an --opset that another tool uses",),
        do=("leave --opset out", "take 23 for a runtime that has the Attention operator"),
    ),
    "CB-EXPORT-02": Entry(
        "unknown dtype for an export",
        "--dtype casts the weights before exporting and takes float16 or bfloat16.",
        causes=("a short form of another tool, such as fp16", "int8, which needs calibration rather than a cast"),
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
        do=("try another --opset", "report it with the name of the model"),
    ),
    "CB-EXPORT-05": Entry(
        "the batch of the exported file is not as requested",
        "The inputs of the file are read back. Their batch is fixed although it should be dynamic, or the reverse. The "
        "file was removed.",
        causes=("a version of torch or onnxscript that fixes dimensions",),
        do=("pip install --upgrade torch onnxscript",),
    ),
    "CB-EXPORT-06": Entry(
        "the model cannot be cast to this dtype",
        "Casting the program failed at a node that only works in another type. The message names it.",
        causes=("code that makes float32 tensors and mixes them with inputs", "an operation without a 16-bit form"),
        do=("export in float32", "use the other 16-bit type"),
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
        causes=("zero or a negative number, which other tools use for a dynamic batch",),
        do=("leave --batch out for a dynamic batch", "give 1 or more"),
    ),
    "CB-EXPORT-09": Entry(
        "the batch of a .pt2 file cannot be fixed",
        "A .pt2 file can be edited further, and editing needs a dynamic batch axis.",
        causes=("--batch N together with -o FILE.pt2",),
        do=("leave --batch out", "fix the batch of the ONNX file or engine made from it"),
    ),
    "CB-EXPORT-10": Entry(
        "the batch size of the program is fixed",
        "The program was captured for one batch size and cannot be exported for another.",
        causes=("a .pt2 file of another program, exported without dynamic shapes",),
        do=("leave --batch out", "capture the model with a dynamic batch"),
    ),
    "CB-EXPORT-11": Entry(
        "the option cannot change an ONNX file",
        "An engine is built from a finished ONNX file, which fixes its dtype, opset and folding.",
        causes=("--dtype, --opset or --no-fold together with an .onnx file",),
        do=("leave the option out", "export the model again with that option, then build the engine"),
    ),
    "CB-EXPORT-12": Entry(
        "the file cannot be exported to this format",
        "An ONNX file is exported already, and can only be built into a TensorRT engine.",
        causes=("an .onnx file with an output that does not end in .engine", "a path that is not an ONNX file"),
        do=("end the output in .engine: cbsurgeon export FILE.onnx -o FILE.engine", "give the model instead"),
    ),
    "CB-EXPORT-13": Entry(
        "the 16-bit type overflows in this model",
        "The model was run in float32 on its example inputs, and a tensor is larger than the 16-bit type can hold "
        "(65504 in float16), so the export would compute infinity or noise. The message names the first such tensor.",
        causes=("a residual stream that grows from block to block", "weights that were trained in bfloat16"),
        do=(
            "add --keep-float32 overflowing: nodes that overflow, and those that read them, compute in float32",
            "take --dtype bfloat16, which has the range of float32",
        ),
    ),
    "CB-EXPORT-14": Entry(
        "there is nothing to keep in float32",
        "--keep-float32 takes overflowing, or paths of modules (blocks.3.mlp, norm*) and names of nodes, and it "
        "belongs to an export of a float32 model to a 16-bit type.",
        causes=("a misspelt module path", "a missing --dtype", "a model that is in a 16-bit type itself"),
        do=("take a path that cbsurgeon inspect shows", "add --dtype float16", "leave --keep-float32 out"),
    ),
    "CB-EXPORT-15": Entry(
        "the model cannot be written in the requested ONNX opset",
        "An operator of the model has no equivalent in this ONNX operator set. The message names it. "
        "Sets below 18 are converted from 18, the oldest that torch.onnx writes.",
        causes=("--opset 17 for a model whose padding or resizing needs opset 18",),
        do=("leave --opset out", "take 18 or newer"),
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
        "the cbsurgeon metadata of the ONNX file cannot be read",
        "cbsurgeon writes a recipe into the metadata of the files it exports. That entry is damaged.",
        causes=("a tool that rewrote the metadata", "a file of another version"),
        do=("export the model again with this version",),
    ),
    "CB-ONNX-04": Entry(
        "the file has no information about inserted operators",
        "An ONNX file lists its insertions in its metadata, an engine in the manifest beside it. This file was not "
        "made by cbsurgeon, or another tool dropped that entry. Graphs of exported files are not searched for blocks.",
        causes=("a file of another exporter", "a file that was optimised by another tool"),
        do=("inspect the model it was exported from",),
    ),
    "CB-ONNX-05": Entry(
        "the ONNX file reads its weights from an unsafe file",
        "An ONNX file can name other files that hold its weights. Only regular files in its own folder are read, and "
        "no links: through a link, a model could contain any file that you can read.",
        causes=(
            "a model from a cache that keeps its files as links",
            "copies made with hard links (cp -l, a backup tool)",
            "a hostile file",
        ),
        do=("put a real copy of the data file beside the .onnx file",),
    ),
    "CB-ENGINE-01": Entry(
        "unknown TensorRT package",
        "Engines are built by the Python package tensorrt or tensorrt_rtx.",
        causes=("a misspelt name",),
        do=("leave it out to use the package that is installed",),
    ),
    "CB-ENGINE-02": Entry(
        "the manifest of the engine cannot be read",
        "The manifest is a JSON file beside the engine with the source file and the build options. It is damaged.",
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
        "the engine and its manifest do not belong together",
        "The SHA-256 of the file differs from the one in the manifest.",
        causes=("the engine was built again by another tool", "a file that was copied without its manifest"),
        do=("build the engine again with cbsurgeon",),
    ),
    "CB-ENGINE-05": Entry(
        "nothing proves that the engine was built here",
        "An engine is machine code that runs with your permissions. cbsurgeon opens the engines that it built itself "
        "on this machine.",
        causes=("an engine from another machine or user", "an engine built by trtexec"),
        do=("build it here from the ONNX file", "only for an engine you built yourself: --trust"),
    ),
    "CB-ENGINE-06": Entry(
        "the sizes of the batch profile are not in ascending order",
        "The profile of an engine has the smallest, the most common and the largest batch size.",
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
        "A timing cache stores measured times of kernels, and TensorRT-RTX does not time kernels during a build.",
        causes=("an option meant for TensorRT",),
        do=("leave the timing cache out",),
    ),
    "CB-ENGINE-09": Entry(
        "the TensorRT parser cannot read the ONNX model",
        "The parser does not support an operation, or one of its attributes. The message names the block.",
        causes=("an operation TensorRT lacks, such as Col2Im or DFT", "an opset that the parser does not know"),
        do=("export with another --opset", "replace that operation in the model", "update TensorRT"),
    ),
    "CB-ENGINE-10": Entry(
        "TensorRT could not build the engine",
        "The model was parsed, and the build failed. The message contains the error of TensorRT.",
        causes=("too little GPU memory", "no NVIDIA GPU or driver", "an input with more than one dynamic dimension"),
        do=(
            "give a smaller largest batch: --batch 1,8,16",
            "without a GPU, install tensorrt-rtx: pip install 'cbsurgeon[tensorrt-rtx]'",
        ),
    ),
    "CB-ENGINE-11": Entry(
        "the build was cancelled",
        "Ctrl-C or a signal arrived while the engine was built. Nothing was written.",
        causes=("Ctrl-C", "a time limit of the system that runs the command"),
        do=("run it again",),
    ),
    "CB-ENGINE-12": Entry(
        "TensorRT does not accept the engine, or failed while it ran",
        "An engine runs with the version of TensorRT, and on the kind of GPU, that it was built for.",
        causes=("another version of TensorRT", "another GPU", "a damaged file"),
        do=("build the engine again on this machine",),
    ),
    "CB-RUN-01": Entry(
        "these are not the inputs of the model",
        "The names of the arrays are not the input names of the file or the model.",
        causes=("an .npz file with other names", "a model exported with other input names"),
        do=("name the arrays as the message lists them: numpy.savez('inputs.npz', x=array)",),
    ),
    "CB-RUN-02": Entry(
        "an input has the wrong shape",
        "The file has fixed sizes, and those of the input are different.",
        causes=("an image of another size", "a missing batch axis"),
        do=("give an input of the shape in the message", "export the model for this size: --input 3x224x224"),
    ),
    "CB-RUN-03": Entry(
        "an NVIDIA GPU is needed",
        "The back end runs on CUDA, and PyTorch sees no CUDA device.",
        causes=("a machine without an NVIDIA GPU", "a driver that does not fit", "a build of torch for the CPU"),
        do=("run it on a machine with a GPU", "use another back end: --on onnxruntime"),
    ),
    "CB-RUN-04": Entry(
        "the model cannot run in eager mode",
        "It is an exported program, not a module.",
        causes=("a model loaded from a .pt2 file",),
        do=("use the back end named program: --on program",),
    ),
    "CB-RUN-05": Entry(
        "ONNX Runtime cannot run the file",
        "Opening a session or running it failed. The message contains the error of ONNX Runtime.",
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
        "CUDA was requested, and ONNX Runtime placed operators on the CPU, so a measurement would not be one of CUDA.",
        causes=("missing CUDA or cuDNN libraries", "operators without a CUDA kernel"),
        do=("check the CUDA and cuDNN libraries of this installation", "export with --opset 20"),
    ),
    "CB-RUN-08": Entry(
        "the shape of an input is outside the engine's profile",
        "An engine serves the range of batches it was built with.",
        causes=("a larger batch than the largest of the profile",),
        do=("build it with a wider range: --batch 1,8,64", "give batches inside the range"),
    ),
    "CB-RUN-09": Entry(
        "unknown back end",
        "The back end is not one of those the message lists.",
        causes=("a misspelt name", "a name of another tool, such as trt"),
        do=("take a name from the message", "leave it out: each model then runs in the back end for its format"),
    ),
    "CB-RUN-11": Entry(
        "unknown device",
        "--device takes cpu, cuda, or cuda:1 for the second GPU.",
        causes=("a misspelt name, or gpu for cuda",),
        do=("take a name from the message", "leave --device out to run on the CPU"),
    ),
    "CB-RUN-10": Entry(
        "the back end cannot run this kind of file",
        "An ONNX file runs in ONNX Runtime, an engine in TensorRT, a model eagerly, as a program or compiled.",
        causes=("a back end chosen for the other of the two models",),
        do=("leave the back end out", "export the model for that back end first"),
    ),
    "CB-RUN-12": Entry(
        "torch.compile would run this model eagerly",
        "Dynamo compiles a function only a limited number of times, and then runs it eagerly. cbsurgeon stops instead, "
        "because it would check or time code that is not compiled (exit code 1).",
        causes=("many batch sizes or types in one process",),
        do=("call torch.compiler.reset()", "use one batch size per process"),
    ),
    "CB-RUN-13": Entry(
        "an input has a dtype of the wrong kind",
        "The model expects floating-point numbers and the input has integers or complex numbers, or the reverse. Only "
        "dtypes of one kind are converted, such as float64 to float32.",
        causes=("images as integers from 0 to 255", "token ids as floating-point numbers"),
        do=("convert the array, and scale images as the model's preprocessing does",),
    ),
    "CB-RUN-14": Entry(
        "the run would take too much memory",
        "Before a batch of 16 samples or more is allocated, the model is run on tensors without memory, and the bytes "
        "of all inputs and of the values that exist at the same time are added. This is a lower bound: back ends need "
        "more. The limit is the memory that is free, or --max-memory. A dataset whose number of samples is known only "
        "after it was read, as in WebDataset shards, is not estimated.",
        causes=("a batch size that is too large", "images that are too large", "other programs that use the memory"),
        do=("use the batch size in the message", "raise the limit: --max-memory 16GB"),
    ),
}
