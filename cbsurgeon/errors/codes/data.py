"""Codes about datasets and preprocessing: DATA."""

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
}
