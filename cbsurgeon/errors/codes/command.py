"""Codes of the command line itself: CLI, OPTION, EXPLAIN, MISSING, INTERNAL."""

from cbsurgeon.errors.entry import Entry

CODES = {
    "CB-CLI-01": Entry(
        "there is no such command or option",
        "The first word after cbsurgeon is not a verb, or a word that starts with a dash is not an option of that "
        "verb.",
        causes=("a misspelt name", "an option of another verb", "an option of another version of cbsurgeon"),
        do=("take the name that the message suggests", "list the names: cbsurgeon --help, cbsurgeon VERB --help"),
    ),
    "CB-CLI-02": Entry(
        "an argument is missing, or its value is not valid",
        "A required argument was not given, or an option has a value of another type or outside its list of values.",
        causes=("an option at the end of the line, without its value", "a misspelt value", "text instead of a number"),
        do=("take the value that the message suggests", "read the forms an option takes: cbsurgeon VERB --help"),
    ),
    "CB-CLI-03": Entry(
        "the command line cannot be read",
        "The command line is not valid, for a reason other than an unknown name or value.",
        causes=("one argument too many, often because of a space in an unquoted path", "an option without its value"),
        do=("put quotes around paths with spaces", "compare with the examples of: cbsurgeon VERB --help"),
    ),
    "CB-CLI-04": Entry(
        "the operating system refused to open, read or write a file",
        "A system call on a file failed, and no verb gave a more precise error. The second line names the file.",
        causes=("no permission", "a full disk or an exhausted quota", "a network drive that went away"),
        do=("check the path, its permissions and the free space", "write to another folder with -o"),
    ),
    "CB-CLI-05": Entry(
        "out of memory",
        "An allocation of main memory failed. Outputs that were not complete have been removed.",
        causes=("a large model or batch", "other programs that use the memory", "a limit set for this process"),
        do=("use a smaller --input, --batch or --batches", "run on a machine with more memory"),
    ),
    "CB-CLI-06": Entry(
        "the value of an option does not have the required form",
        "An option that takes a number, a list, a time or KEY=VALUE got something else. The last line of the message "
        "shows a value that works.",
        causes=("a size below the smallest allowed", "a missing unit, sign or comma", "an empty value"),
        do=("copy the form from the message", "read the option's help: cbsurgeon VERB --help"),
    ),
    "CB-CLI-07": Entry(
        "two options exclude each other, or one needs another",
        "Each option is valid, but not in this combination.",
        causes=("a recipe together with --op, --layers or --pos", "an option that only works on models, given a file"),
        do=("leave out one of the two options that the message names",),
    ),
    "CB-OPTION-01": Entry(
        "the function has no such option",
        "The functions of cbsurgeon take their options as keywords or as one options object, such as cbs.Choice. The "
        "keyword is not a field of it, or the object is of another class.",
        causes=("a misspelt keyword", "an options object of another function"),
        do=("take the keyword that the message suggests", "list them: help(cbs.plan), help(cbs.export)"),
    ),
    "CB-EXPLAIN-01": Entry(
        "there is no such error code",
        "cbsurgeon explain got a text that is not the code of an error.",
        causes=("a misspelt code", "a code of a newer version of cbsurgeon"),
        do=("take the code in square brackets from the error message", "list all codes: cbsurgeon explain"),
    ),
    "CB-MISSING-01": Entry(
        "an optional package is not installed",
        "The command needs a Python package that cbsurgeon does not install by default (exit code 3). The message "
        "names the extra that brings it.",
        causes=("cbsurgeon was installed without this extra", "another virtual environment is active"),
        do=(
            "run the pip command of the message in the environment of cbsurgeon",
            "install everything: pip install 'cbsurgeon[all]'",
        ),
    ),
    "CB-MISSING-02": Entry(
        "the installed onnx package is too old to read files safely",
        "Before onnx 1.21 the external data of a model could name files outside its own folder. cbsurgeon does not "
        "read ONNX files with such a version.",
        causes=("another package pins an old onnx",),
        do=("pip install 'onnx>=1.21'", "use an environment without the package that pins it"),
    ),
    "CB-MISSING-03": Entry(
        "the package does not exist for this operating system",
        "TensorRT and TensorRT-RTX are published for Linux and Windows only (exit code 3). Everything else works "
        "without them.",
        causes=("macOS",),
        do=("export to ONNX here, and build the engine elsewhere: cbsurgeon export FILE.onnx -o FILE.engine",),
    ),
    "CB-MISSING-04": Entry(
        "a library cannot be loaded",
        "Python found a package that cbsurgeon needs, but importing it failed (exit code 3).",
        causes=(
            "a package that was built for another version of torch, NumPy or CUDA",
            "an incomplete installation",
            "a limit on the address space that is smaller than the libraries of torch",
        ),
        do=(
            "check the versions: pip check",
            "install the package again: pip install --force-reinstall PACKAGE",
            "raise or remove the limit: ulimit -v unlimited",
        ),
    ),
    "CB-INTERNAL-01": Entry(
        "a fault in cbsurgeon",
        "An exception that cbsurgeon does not expect was raised (exit code 70). Inputs are unchanged, and incomplete "
        "outputs have been removed.",
        causes=("a model or a file of an untested form", "a version of a library that behaves differently"),
        do=("run the command again with --debug and report the traceback", "try the newest version of cbsurgeon"),
    ),
}
