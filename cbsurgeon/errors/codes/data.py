"""Codes about datasets and what is measured on them: DATA, EVAL, ANALYZE."""

from cbsurgeon.errors.entry import Entry

_FLAGS = "say it: --size 224 --crop 0.875 --interpolation bicubic --mean imagenet --std imagenet"

CODES = {
    "CB-DATA-01": Entry(
        "the preprocessing of images is not known",
        "The dataset has images, and neither the model nor its file says how they become its input. It is never "
        "guessed: a wrong guess costs several points of accuracy and looks like a broken export.",
        causes=(
            "a model of your own, or an ONNX file that cbsurgeon did not write",
            "a transformers processor that does more than resize, crop and normalise",
        ),
        do=(_FLAGS, "set Model.preprocessing before exporting, so that the file carries it"),
    ),
    "CB-DATA-02": Entry(
        "a description of the preprocessing is wrong",
        "A size, crop, mean, standard deviation or name in it is not possible.",
        causes=(
            "a typing mistake in a flag",
            "a file written by another program",
            "as many means as channels are needed",
        ),
        do=(_FLAGS,),
    ),
    "CB-DATA-03": Entry(
        "the dataset does not exist",
        "There is no such folder.",
        causes=("a typing mistake", "a prefix such as hf: or torchvision: is missing"),
        do=("check the path",),
    ),
    "CB-DATA-04": Entry(
        "the folder has no image",
        "No file in it or below it has the suffix of an image.",
        causes=("the wrong folder", "another format: .npz, WebDataset shards, a folder saved by datasets"),
        do=("name the folder that has one sub-folder a class", "another kind of dataset takes its prefix, such as hf:"),
    ),
    "CB-DATA-05": Entry(
        "the folder has images beside folders of images",
        "It is unclear whether the images have labels.",
        causes=("an image was left beside the folders of classes", "the parent of the dataset was named"),
        do=("move the images into the folders of their classes",),
    ),
    "CB-DATA-06": Entry(
        "images have no label map",
        "A folder with images/ and labels/ has a label map of the same name for each image.",
        causes=("a map is missing", "maps have a suffix in their names, such as _mask"),
        do=("rename the maps as their images",),
    ),
    "CB-DATA-07": Entry(
        "the folder leads back into itself",
        "A link inside the folder points to a folder that contains it.",
        causes=("a symbolic link",),
        do=("remove the link",),
    ),
    "CB-DATA-08": Entry(
        "the order of the classes is not clear",
        "The folders of the classes have numbers as names. torchvision sorts them as text (1, 10, 2), timm by number "
        "(1, 2, 10); with the wrong order most labels are wrong.",
        causes=("class folders named 0, 1, 2 and so on",),
        do=("--class-order alphabetic or --class-order numeric, as the model was trained",),
    ),
    "CB-DATA-09": Entry(
        "the dataset cannot be read",
        "The folder or file is there, and its contents are no dataset.",
        causes=("arrays of different lengths", "images that are not uint8", "missing permissions"),
        do=("read the reason in the message",),
    ),
    "CB-DATA-10": Entry(
        "the dataset does not have the model's inputs",
        "A model with several inputs, such as token ids and a mask, needs all of them from the dataset.",
        causes=("a folder of images for a model of images and text", "arrays with other names"),
        do=("write an .npz file with one array for each input of the model, and labels",),
    ),
    "CB-DATA-11": Entry(
        "a sample cannot be read",
        "With --strict, an image that is damaged, cut off or too large is an error.",
        causes=("an interrupted copy", "a file that is no image"),
        do=("repair or remove the file", "leave out --strict: it is counted and named in the result"),
    ),
    "CB-DATA-12": Entry(
        "a number of samples or processes is too small",
        "A batch and a limit have at least one sample.",
        causes=("a zero",),
        do=("give a positive number",),
    ),
    "CB-DATA-13": Entry(
        "a process that decodes images ended",
        "A worker process was ended by the system.",
        causes=("too little memory", "a small /dev/shm, as containers have"),
        do=("--workers 0", "docker run --shm-size 1g"),
    ),
    "CB-DATA-14": Entry(
        "no sample of the dataset can be read",
        "Every image failed to decode, so there is nothing to measure.",
        causes=("a folder of files that only have the suffix of an image", "an interrupted copy"),
        do=("look at the first failure in the message",),
    ),
    "CB-DATA-15": Entry(
        "torchvision has no such dataset",
        "torchvision:NAME:ROOT names a class of torchvision.datasets and the folder its files are in.",
        causes=("a typing mistake", "the folder is missing in the reference"),
        do=("torchvision:CIFAR10:DATA, for example",),
    ),
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
