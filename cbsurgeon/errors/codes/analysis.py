"""Codes about the analysis of attention: ANALYZE."""

from cbsurgeon.errors.entry import Entry

CODES = {
    "CB-ANALYZE-01": Entry(
        "the batch does not fit the model's inputs",
        "The tensors have other names or shapes, or are fewer, than the inputs the model was captured with. Only the "
        "batch may differ.",
        causes=(
            "images of another size or number of channels",
            "a text model that was given one tensor and takes several",
            "a model that takes one batch size only",
        ),
        do=(
            "give each input the shape that the message names",
            "give a model with several inputs a dictionary, or an .npz file with one array for each name",
        ),
    ),
    "CB-ANALYZE-02": Entry(
        "there is no data to analyse the model on",
        "Without --data the photographs of scikit-image are taken. They need a model with one input that states its "
        "preprocessing.",
        causes=("a text model", "a model of your own, which states no preprocessing"),
        do=("--data images/", "--data file.npz, with one array for each input of the model"),
    ),
    "CB-ANALYZE-03": Entry(
        "this is no data",
        "Data are a folder of images, an .npz file, a tensor, tensors by input name, or an iterable of batches.",
        causes=("a number or another object was passed as data=",),
        do=("give what the model's forward() takes, batch first",),
    ),
    "CB-ANALYZE-04": Entry(
        "there is nothing to analyse",
        "The model has no attention with a map of queries by keys, and no CB_S whose scales could be shown (exit "
        "code 1).",
        causes=("an MLP-Mixer or a CNN", "linear attention, which never computes such a map"),
        do=("see why: cbsurgeon inspect REF --why", "insert CB_S and train, then analyse its scales"),
    ),
    "CB-ANALYZE-05": Entry(
        "no image could be analysed",
        "Every sample of the dataset was left out. The message gives the first reason.",
        causes=("files that are no images", "damaged files"),
        do=("open one of the named files", "give another --data"),
    ),
    "CB-ANALYZE-06": Entry(
        "the attention has no such query",
        "Pictures show the row of one query: that of the class token, a number, or the mean over all. The last "
        "attention over the whole image is drawn.",
        causes=("--query class for a model without a class token", "a number beyond the last query"),
        do=("--query mean",),
    ),
    "CB-ANALYZE-07": Entry(
        "the plot cannot be written in this format",
        "Plots are .png or .svg files. On the command line, -o takes .json and .html as well.",
        causes=("another suffix",),
        do=("-o analysis.html", "analysis.plot('curves.svg')"),
    ),
}
