"""Codes about the analysis of attention: ANALYZE."""

from cbsurgeon.errors.entry import Entry

CODES = {
    "CB-ANALYZE-01": Entry(
        "the batch does not fit the model's inputs",
        "The tensors have other names, shapes or a smaller number than the inputs the model was captured with. Only the "
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
}
