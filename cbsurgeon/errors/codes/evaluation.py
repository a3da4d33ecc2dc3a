"""Codes about evaluating a model on data: EVAL."""

from cbsurgeon.errors.entry import Entry

CODES = {
    "CB-EVAL-01": Entry(
        "which output counts is not clear",
        "A model with several outputs needs to be told which one holds the classes. Without a name, the one called "
        "logits counts, or the only one of the right number of dimensions.",
        causes=("a model without a classifier", "a model that returns features as well", "a typing mistake"),
        do=("--output-name NAME, with a name from the message",),
    ),
    "CB-EVAL-02": Entry(
        "the labels are not those of the task",
        "One number a sample is classification, one a class is multilabel, a map is segmentation.",
        causes=("one-hot labels for a classifier", "another --task than the labels are for"),
        do=("labels.argmax(1) turns one-hot labels into class indices", "leave --task out"),
    ),
    "CB-EVAL-03": Entry(
        "model and dataset have different classes",
        "The number of classes of the dataset, or a label in it, does not belong to the outputs of the model.",
        causes=("a dataset with a part of the classes", "a model with the classifier of another dataset"),
        do=(
            "--classes FILE with the output index of each class of the dataset",
            "--model-option num_classes=N, where the weights have another number of classes than their architecture",
        ),
    ),
    "CB-EVAL-04": Entry(
        "the file of classes cannot be used",
        "It holds the output index of each class of the dataset, once each, one a line.",
        causes=("names of classes instead of numbers", "indices that the model does not have"),
        do=("write it as numbers: 6, 11, 13 and so on",),
    ),
    "CB-EVAL-05": Entry(
        "there is no such metric",
        "The name is none of the task's metrics, or a metric of your own cannot be used.",
        causes=("a typing mistake", "a function that gives one number for a batch instead of one an image"),
        do=("choose one from the message", "write mod:package.module:function"),
    ),
    "CB-EVAL-06": Entry(
        "B is worse than A, or not run as A is",
        "The evaluation ran, and its answer is no. The reasons are listed: a metric that is worse than claimed, or a "
        "fault such as another preprocessing, outputs that depend on the batch, or exchanged classes.",
        causes=(
            "the file was exported from other weights, or with another preprocessing",
            "a type that overflows (float16)",
            "Context Broadcasting in a finished checkpoint, which needs training",
        ),
        do=("cbsurgeon verify A B --bisect", "export again"),
    ),
    "CB-EVAL-07": Entry(
        "there is no such corruption or attack",
        "--robust takes names, each with a strength if you like.",
        causes=("a typing mistake", "a strength that is no positive number"),
        do=("choose one from the message", "--robust occlusion,noise=5,fgsm=1"),
    ),
    "CB-EVAL-08": Entry(
        "the images cannot be corrupted or attacked",
        "Corruptions need images with labels, and attacks the gradient of a model.",
        causes=("an attack on an ONNX file or engine without its model", "a dataset of arrays, or without labels"),
        do=("give the model the file was exported from as A", "leave fgsm and pgd out"),
    ),
}
