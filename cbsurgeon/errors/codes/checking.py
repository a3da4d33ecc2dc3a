"""Codes about checks, reports and sweeps: VERIFY, BISECT, AUDIT, COST, BENCH, REPORT, SWEEP."""

from cbsurgeon.errors.entry import Entry

CODES = {
    "CB-VERIFY-01": Entry(
        "the two models do not compute the same",
        "An output differs by more than measured rounding allows, or is NaN, infinite or empty (exit code 1). The "
        "message names the first output that failed and, with --bisect, the first block that differs.",
        causes=(
            "the candidate has an operator the baseline does not have, or other weights",
            "a fault of the exporter or the runtime",
            "a 16-bit type that overflows",
        ),
        do=(
            "find the first block that differs: cbsurgeon verify A B --bisect",
            "compare the file with the model it was exported from",
            "export in float32",
        ),
    ),
    "CB-VERIFY-02": Entry(
        "the two models have different outputs",
        "The number or the names of their outputs differ, so outputs cannot be compared in pairs (exit code 1).",
        causes=("two unrelated models", "a model exported with only some of its outputs"),
        do=("compare a model with its own export",),
    ),
    "CB-VERIFY-03": Entry(
        "an output has another shape",
        "The two models return tensors of different shapes for the same input (exit code 1).",
        causes=("another number of classes", "another image size"),
        do=("compare a model with its own export",),
    ),
    "CB-VERIFY-04": Entry(
        "no valid batch size was given",
        "None of the requested batch sizes can be run.",
        causes=("--batches with zero", "a file whose fixed batch is none of those"),
        do=("give sizes of at least 1: --batches 1,2,7",),
    ),
    "CB-VERIFY-05": Entry(
        "the two models are fixed to different batch sizes",
        "Each model has a fixed batch size, and the two sizes differ (exit code 1).",
        causes=("two files exported with different --batch",),
        do=("compare each with the model it was made from", "export both with the same batch"),
    ),
    "CB-VERIFY-06": Entry(
        "the two models have different preprocessing",
        "The same image would become different inputs, so outputs cannot be compared on images.",
        causes=("the file was exported from a model with another preprocessing", "two different models"),
        do=("run each with its own preprocessing: cbsurgeon evaluate A B --data DATA", "export the file again"),
    ),
    "CB-VERIFY-07": Entry(
        "real images were given, but the exported file is not compared with the model",
        "An export compares an ONNX file with the model it is made from. Other files are not compared during an "
        "export, so the images would not be used.",
        causes=("--no-verify", "an engine or a .pt2 program", "REF is an ONNX file", "onnxruntime is not installed"),
        do=("leave out --data", "cbsurgeon verify REF FILE --data DATA"),
    ),
    "CB-VERIFY-08": Entry(
        "an output has a dtype of another kind",
        "One model returns floating-point numbers, and the other integers or complex numbers.",
        causes=("a cast at the end of an edited ONNX file", "two different models"),
        do=("remove the conversion in B", "compare a model with its own export"),
    ),
    "CB-BISECT-01": Entry(
        "inputs cannot be generated",
        "Both models are files, and neither contains example inputs.",
        causes=("two ONNX files were given",),
        do=("give inputs: --inputs FILE.npz", "compare one of them with the model"),
    ),
    "CB-BISECT-02": Entry(
        "the intermediate tensors of an engine cannot be read",
        "TensorRT fuses layers when it builds, so the tensors between blocks no longer exist.",
        causes=("--bisect with an engine",),
        do=("bisect the ONNX file that the engine was built from",),
    ),
    "CB-BISECT-03": Entry(
        "none of the blocks ends in a residual add",
        "The bisection compares the residual stream after each block, and no given block adds to one.",
        causes=("blocks of another model", "an empty list"),
        do=("leave the blocks out to compare every point of the stream",),
    ),
    "CB-BISECT-04": Entry(
        "the two models have different residual streams",
        "A point of the residual stream is missing in one model, or has another shape (exit code 1).",
        causes=("two different models", "an optimiser that merged residual adds"),
        do=("compare a model with its own export",),
    ),
    "CB-AUDIT-01": Entry(
        "unknown hardware",
        "--hardware takes the names in the message, or cpu, which is measured here.",
        causes=("a misspelt name", "a device that is not in the list"),
        do=("take a name from the message", "give the rates yourself: --bandwidth 3.35TB/s --flops 989T"),
    ),
    "CB-AUDIT-02": Entry(
        "no operator is inserted, so there is no share to compute",
        "--roofline estimates the share of inserted operators in the run time. No given model has one.",
        causes=("the original was given alone",),
        do=("compare the original with the edited model: cbsurgeon audit A B --roofline",),
    ),
    "CB-AUDIT-03": Entry(
        "no requested device supports this dtype",
        "The table of peak rates has no entry for this dtype on any requested device.",
        causes=("bfloat16 or float16 on a device without it",),
        do=("take --dtype float32", "name another --hardware"),
    ),
    "CB-AUDIT-04": Entry(
        "the rate is not a number with a unit",
        "--bandwidth and --flops take a positive number with one of the units k, M, G, T, P.",
        causes=("a comma for the decimal point", "a missing unit", "binary units such as GiB"),
        do=("write --bandwidth 3.35TB/s --flops 989T",),
    ),
    "CB-AUDIT-05": Entry(
        "the ONNX file cannot be counted at this size",
        "Shape inference did not give a number for every dimension that counting needs.",
        causes=(
            "a dynamic dimension other than the batch, without the size at export in cbsurgeon's metadata",
            "another batch than the one fixed in the file",
        ),
        do=("give the batch of the file: --batch N", "export with every other dimension fixed"),
    ),
    "CB-AUDIT-06": Entry(
        "only a model or an ONNX file can be counted",
        "An engine holds kernels, not a graph of operators.",
        causes=("an .engine or .plan file was given",),
        do=("audit the ONNX file that the engine was built from",),
    ),
    "CB-COST-01": Entry(
        "fvcore cannot count this model",
        "fvcore traces a torch.nn.Module on positional inputs. Files and programs are not modules.",
        causes=("--cross-check with an ONNX file or a .pt2 program", "inputs that are given by name"),
        do=("leave --cross-check out", "give a model that is a module"),
    ),
    "CB-COST-02": Entry(
        "the audit and fvcore count this model differently",
        "A difference remains after known differences of convention were subtracted (exit code 1).",
        causes=("an operation for which one of the two has no rule",),
        do=("compare by_operator of the two in --json", "report it with the name of the model"),
    ),
    "CB-BENCH-01": Entry(
        "B is slower than the claim allows",
        "The confidence interval lies above the claim, which is 1 % by default (exit code 1).",
        causes=("the claim is too small for this model and batch", "operators that were not folded"),
        do=("claim less: --claim 2%", "for cb: measure the exported file, in which it is folded into the weights"),
    ),
    "CB-BENCH-02": Entry(
        "a measuring process failed",
        "Measurements run in separate processes, and one of them ended with an error (exit code 1).",
        causes=("too little memory for two processes", "a model that does not run"),
        do=("run it once: cbsurgeon verify A B", "measure with a smaller --batch"),
    ),
    "CB-BENCH-03": Entry(
        "the model takes one batch size only",
        "Its batch is fixed, and another one was requested.",
        causes=("a file exported with --batch N",),
        do=("measure at the batch in the message", "export it with a dynamic batch"),
    ),
    "CB-BENCH-04": Entry(
        "B, as it would be timed, computes the same as A",
        "In eager mode, the outputs of A and B differ; in the timed back end, they are equal. The time would not be "
        "that of B (exit code 1).",
        causes=("torch.compile reuses the graph of a module of the same class that it compiled before",),
        do=("call torch.compiler.reset() after an insertion", "run the bench in a fresh process"),
    ),
    "CB-BENCH-05": Entry(
        "the two models do not run in the same mode",
        "One model is replayed as a CUDA graph and the other is not (exit code 1).",
        causes=("an operation in one of the two that cannot be recorded", "too little memory for both recordings"),
        do=("time both without recording: cbs.checks.bench(a, b, cuda_graph=False)", "measure with a smaller --batch"),
    ),
    "CB-REPORT-01": Entry(
        "a result file cannot be read",
        "report takes the JSON that other verbs print. The file is missing, too large or not JSON.",
        causes=("a misspelt path", "text output redirected instead of --json"),
        do=("write it again: cbsurgeon VERB --json > result.json",),
    ),
    "CB-REPORT-02": Entry(
        "the file is not a result of cbsurgeon",
        "It is JSON, but its schema is not one that report knows, or members are missing.",
        causes=("a JSON file of another program", "a result of another version", "a file edited by hand"),
        do=("write it again: cbsurgeon VERB --json > result.json",),
    ),
    "CB-REPORT-03": Entry(
        "there is nothing to report",
        "No result was given, or the results given are empty.",
        causes=("an empty list of documents",),
        do=("give the --json output of a verb",),
    ),
    "CB-REPORT-04": Entry(
        "the report has another suffix than .html",
        "The report is one HTML page. Under another suffix it could be taken for, or replace, a file of that format.",
        causes=("the name of a model or a document was given as the output",),
        do=("end the name in .html",),
    ),
    "CB-SWEEP-01": Entry(
        "the grid cannot be made",
        "A sweep has one cell for every combination of --op, --pos, --at and --layers, and no two cells may have the "
        "same name.",
        causes=("a value that was given twice", "an empty list"),
        do=("give every value once",),
    ),
    "CB-SWEEP-02": Entry(
        "the folder does not contain a sweep with runs",
        "A worker reads what it has to run from runs.json in the folder of the sweep.",
        causes=("a mistyped folder", "a sweep without --run", "a damaged runs.json"),
        do=("cbsurgeon sweep REF --run COMMAND --metric NAME -o DIR",),
    ),
    "CB-SWEEP-03": Entry(
        "the storage of the sweep cannot be used",
        'Optuna could not open its database. The line "why" repeats the database\'s message.',
        causes=("the database is not running", "a wrong address, user or password", "the driver is not installed"),
        do=("start the database", "pip install psycopg2-binary, for PostgreSQL", "leave --storage out"),
    ),
    "CB-SWEEP-04": Entry(
        "the storage belongs to another sweep",
        "The study in the storage was made for another model, grid, seeds, command or metric, and runs of the two "
        "cannot be compared.",
        causes=("the same --storage and folder with other options",),
        do=("name another folder with -o", "give another --storage"),
    ),
    "CB-SWEEP-05": Entry(
        "the command of the sweep cannot be read",
        "--run is split into words as a shell does, and the placeholders {model}, {recipe}, {seed} and {out} are "
        "filled in. No shell runs it.",
        causes=("an unknown placeholder", "a quote that is not closed", "a brace that is not a placeholder"),
        do=("write {{ and }} for braces that are not placeholders", 'sh -c "..." for pipes and variables'),
    ),
    "CB-SWEEP-06": Entry(
        "every worker of the sweep failed",
        "Every process that runs the command failed before the runs were finished.",
        causes=("the storage went away", "no memory for so many processes"),
        do=("give --workers 1 to see the failure", "run the same command again: finished runs are kept"),
    ),
    "CB-SWEEP-07": Entry(
        "runs of the sweep failed",
        "The command failed, or did not write the metric into {out}/metrics.json, in every attempt. The table has the "
        "runs that succeeded.",
        causes=("a fault in the training script", "another --metric than the script writes"),
        do=("read log.txt in the folder of the run", "run the same command with a higher --retries"),
    ),
    "CB-SWEEP-08": Entry(
        "a command needs the name of its metric",
        "The table compares one number of every run. The command writes it into {out}/metrics.json.",
        causes=("--run without --metric",),
        do=("--metric accuracy",),
    ),
    "CB-SWEEP-09": Entry(
        "the folder does not belong to this sweep",
        "A sweep starts in a new or empty folder, and continues in a folder that holds the same sweep.",
        causes=("other options than last time", "a folder with other files"),
        do=("name another folder with -o",),
    ),
    "CB-SWEEP-10": Entry(
        "machines cannot share a SQLite file",
        "With --on ray the workers run on several machines. A SQLite file in a network folder is not locked reliably.",
        causes=("--on ray on a cluster, without --storage",),
        do=("give a database that all machines reach: --storage postgresql://user@host/name",),
    ),
}
