"""Codes about datasets and what is measured on them: DATA, EVAL, ANALYZE."""

from cbsurgeon.errors.entry import Entry

_FLAGS = "state it: --size 224 --crop 0.875 --interpolation bicubic --mean imagenet --std imagenet"

CODES = {
    "CB-DATA-01": Entry(
        "the preprocessing of the images is unknown",
        "The dataset has images, and neither the model nor its file states the preprocessing. cbsurgeon does not guess "
        "it, because a wrong guess would cost several points of accuracy and look like a broken export.",
        causes=(
            "a model of your own, or an ONNX file that cbsurgeon did not write",
            "a transformers processor that does more than resize, crop and normalise",
        ),
        do=(_FLAGS, "set Model.preprocessing before exporting, so that the file carries it"),
    ),
    "CB-DATA-02": Entry(
        "the description of the preprocessing is not valid",
        "A size, crop, mean, standard deviation or name is not a possible value.",
        causes=(
            "a typing mistake in a flag",
            "a file written by another program",
            "more or fewer means than channels",
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
        do=(
            "name the folder that has one sub-folder per class",
            "for another kind of dataset, add its prefix: hf:FOLDER",
        ),
    ),
    "CB-DATA-05": Entry(
        "the folder has images beside folders of images",
        "It is unclear whether the images have labels.",
        causes=("an image was left beside the folders of classes", "the parent of the dataset was named"),
        do=("move the images into the folders of their classes",),
    ),
    "CB-DATA-06": Entry(
        "images have no label map",
        "In a folder with images/ and labels/, each image needs a label map of the same name.",
        causes=("a map is missing", "maps have a suffix in their names, such as _mask"),
        do=("give each map the name of its image",),
    ),
    "CB-DATA-07": Entry(
        "the folder contains itself, or too many folders",
        "A link inside the folder points to a folder that contains it, or the folder has more levels or more folders "
        "than a dataset can have.",
        causes=("a symbolic link", "a folder that is not a dataset, such as /"),
        do=("remove the link", "give the folder of the images itself"),
    ),
    "CB-DATA-08": Entry(
        "the class names are numbers, and their order is ambiguous",
        "The folders of the classes have numbers as names. torchvision sorts them as text (1, 10, 2), timm by number "
        "(1, 2, 10); with the wrong order most labels are wrong.",
        causes=("class folders named 0, 1, 2 and so on",),
        do=("--class-order alphabetic or --class-order numeric, as the model was trained",),
    ),
    "CB-DATA-09": Entry(
        "the dataset cannot be read",
        "The folder or file exists, but its contents are not a dataset.",
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
        causes=("an interrupted copy", "a file that is not an image"),
        do=("repair or remove the file", "leave out --strict: the sample is then left out, and the result names it"),
    ),
    "CB-DATA-12": Entry(
        "a batch size, a limit or a number of workers is too small",
        "--batch and --limit need at least one sample, and --workers cannot be negative.",
        causes=("a zero or a negative number",),
        do=("give a positive number",),
    ),
    "CB-DATA-13": Entry(
        "a process that decodes images was killed",
        "The operating system ended a worker process.",
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
        "it is unclear which output to evaluate",
        "The model has several outputs. Unless --output-name is given, the one called logits is evaluated, or the only "
        "one with the right number of dimensions. This model has neither.",
        causes=("a model without a classifier", "a model that returns features as well", "a typing mistake"),
        do=("--output-name NAME, with a name from the message",),
    ),
    "CB-EVAL-02": Entry(
        "the labels are not those of the task",
        "Classification takes one class index per sample, multilabel one value per class, segmentation one map per "
        "image.",
        causes=("one-hot labels for a classifier", "a --task that does not fit the labels"),
        do=("labels.argmax(1) turns one-hot labels into class indices", "leave --task out"),
    ),
    "CB-EVAL-03": Entry(
        "model and dataset have different classes",
        "The number of classes of the dataset, or a label in it, does not fit the outputs of the model.",
        causes=("a dataset with some of the classes", "a model with the classifier of another dataset"),
        do=(
            "--classes FILE with the output index of each class of the dataset",
            "--model-option num_classes=N, where the weights have another number of classes than their architecture",
        ),
    ),
    "CB-EVAL-04": Entry(
        "the file of classes cannot be used",
        "The file must contain the output index of each class of the dataset, one per line, without repetition.",
        causes=("names of classes instead of numbers", "indices that the model does not have"),
        do=("write it as numbers: 6, 11, 13 and so on",),
    ),
    "CB-EVAL-05": Entry(
        "there is no such metric",
        "The name is not a metric of the task, the metric needs more classes, or your own metric cannot be used.",
        causes=(
            "a typing mistake",
            "top-5 of five classes or fewer is always right",
            "a function that returns one number per batch instead of one per image",
        ),
        do=("choose one from the message", "write mod:package.module:function"),
    ),
    "CB-EVAL-06": Entry(
        "B is worse than A, or has a fault",
        "The evaluation ran and its check failed. The message lists the reasons: a metric that is worse than claimed, "
        "or a fault such as another preprocessing, outputs that depend on the batch, or swapped classes.",
        causes=(
            "the file was exported from other weights, or with another preprocessing",
            "a type that overflows (float16)",
            "Context Broadcasting in a finished checkpoint, which needs training",
        ),
        do=("cbsurgeon verify A B --bisect", "export again"),
    ),
    "CB-EVAL-07": Entry(
        "there is no such corruption or attack",
        "--robust takes names, each with an optional strength.",
        causes=("a typing mistake", "a strength that is not a positive number"),
        do=("choose one from the message", "--robust occlusion,noise=5,fgsm=1"),
    ),
    "CB-EVAL-08": Entry(
        "the images cannot be corrupted or attacked",
        "Corruptions need images with labels, and attacks need the gradient of a model.",
        causes=("an attack on an ONNX file or engine without its model", "a dataset of arrays, or without labels"),
        do=("give the model the file was exported from as A", "leave fgsm and pgd out"),
    ),
    "CB-ANALYZE-01": Entry(
        "the batch does not fit the model's inputs",
        "The number, names or shapes of the tensors are not those of the inputs that the model was captured with. Only "
        "the batch may differ.",
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
        "no data was given to analyse the model on",
        "Without --data, photographs that come with scikit-image are used. That needs a model with one input that "
        "states its preprocessing.",
        causes=("a text model", "a model of your own, which states no preprocessing"),
        do=("--data images/", "--data file.npz, with one array for each input of the model"),
    ),
    "CB-ANALYZE-03": Entry(
        "this is not a supported kind of data",
        "Data can be a folder of images, an .npz file, a tensor, tensors by input name, or an iterable of batches.",
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
        causes=("files that are not images", "damaged files"),
        do=("open one of the named files", "give another --data"),
    ),
    "CB-ANALYZE-06": Entry(
        "the attention has no such query",
        "A picture shows the attention of one query: the class token, the query of a given number, or the mean over "
        "all. It is taken from the last attention over the whole image.",
        causes=("--query class for a model without a class token", "a number beyond the last query"),
        do=("--query mean",),
    ),
    "CB-ANALYZE-07": Entry(
        "the plot cannot be written in this format",
        "Plots are .png or .svg files. On the command line, -o takes .json and .html as well.",
        causes=("another suffix",),
        do=("-o analysis.html", "analysis.plot('curves.svg')"),
    ),
    "CB-ANALYZE-08": Entry(
        "the model cannot be captured whole",
        "inspect and insert work with the largest parts that torch.export can capture. An analysis reads attention "
        "from the graph of the whole model.",
        causes=("control flow that depends on values", "an operation that torch.export does not follow"),
        do=("make the reported operation traceable", "cbs.analyze(model.module.encoder, data=its inputs)"),
    ),
}
