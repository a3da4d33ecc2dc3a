"""Codes about sweeps: SWEEP."""

from cbsurgeon.errors.entry import Entry

CODES = {
    "CB-SWEEP-01": Entry(
        "the grid cannot be made",
        "A sweep has one cell for every combination of --op, --pos, --at and --layers, and each cell has a name of its "
        "own.",
        causes=("a value that was given twice", "an empty list"),
        do=("give every value once",),
    ),
    "CB-SWEEP-02": Entry(
        "the folder holds no sweep with runs",
        "A worker reads what it has to run from runs.json in the folder of the sweep.",
        causes=("a mistyped folder", "a sweep without --run", "a damaged runs.json"),
        do=("cbsurgeon sweep REF --run COMMAND --metric NAME -o DIR",),
    ),
    "CB-SWEEP-03": Entry(
        "the storage of the sweep cannot be used",
        "Optuna could not open its database. The message of the database is in the why line.",
        causes=("the database is not running", "a wrong address, user or password", "the driver is not installed"),
        do=("start the database", "pip install psycopg2-binary, for PostgreSQL", "leave --storage out"),
    ),
    "CB-SWEEP-04": Entry(
        "the storage belongs to another sweep",
        "The study in the storage was made for another model, grid, seeds, command or metric. Mixing their runs would "
        "compare things that are not alike.",
        causes=("the same --storage and folder with other options",),
        do=("name another folder with -o", "give another --storage"),
    ),
    "CB-SWEEP-05": Entry(
        "the command of the sweep cannot be read",
        "--run is split into words as a shell does, and the placeholders {model}, {recipe}, {seed} and {out} are "
        "filled in. No shell runs it.",
        causes=("an unknown placeholder", "a quote that is not closed", "a brace of the command's own"),
        do=("write {{ and }} for braces of the command's own", 'sh -c "..." for pipes and variables'),
    ),
    "CB-SWEEP-06": Entry(
        "every worker of the sweep failed",
        "All processes that run the command ended with a fault before the runs were done.",
        causes=("the storage went away", "no memory for so many processes"),
        do=("give --workers 1 to see the failure", "run the same command again: finished runs are kept"),
    ),
    "CB-SWEEP-07": Entry(
        "runs of the sweep failed",
        "The command ended with an error, or wrote no such number into {out}/metrics.json, also when it was repeated. "
        "The table holds the runs that succeeded.",
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
        "the folder belongs to something else",
        "A sweep goes on in a folder that holds the very same sweep, and starts in an empty or new one.",
        causes=("other options than last time", "a folder with other files"),
        do=("name another folder with -o",),
    ),
}
