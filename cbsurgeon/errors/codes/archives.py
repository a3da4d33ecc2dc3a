"""Codes about the safe readers of safetensors files and zip archives: ST, ZIP."""

from cbsurgeon.errors.entry import Entry

_AGAIN = "download the file again, or write it again with safetensors.torch.save_file"
_UNKNOWN = "do not use the file if it comes from an unknown source"
_PLAIN = "write it again: torch.save(torch.load(FILE, weights_only=True), 'weights.pt')"

CODES = {
    "CB-ST-01": Entry(
        "the header of the safetensors file is not valid",
        "A safetensors file begins with the length of a JSON header. The length is larger than the file or the limit, "
        "or the header is not a JSON object.",
        causes=("a download that was cut off", "a file of another format with this suffix"),
        do=(_AGAIN,),
    ),
    "CB-ST-02": Entry(
        "two entries in the header of the safetensors file have the same name",
        "Different readers could use different entries for this name.",
        causes=("a file made by hand, or a malicious file",),
        do=(_AGAIN, _UNKNOWN),
    ),
    "CB-ST-03": Entry(
        "an entry of the safetensors header is not valid",
        "A tensor's entry must have a dtype, a shape and two offsets; every value of the metadata must be text. The "
        "library also refuses paths that are not UTF-8.",
        causes=("a file written by another program", "a damaged file", "the name of a file or folder is not UTF-8"),
        do=(_AGAIN, "rename the file or folder"),
    ),
    "CB-ST-04": Entry(
        "the offsets of the safetensors file do not fit its data",
        "The tensors must follow each other without gaps or overlap, from the first byte of data to the last.",
        causes=("a download that was cut off", "bytes appended to the file", "a malicious file"),
        do=(_AGAIN, _UNKNOWN),
    ),
    "CB-ST-05": Entry(
        "a tensor of the safetensors file has an unknown dtype",
        "The dtype is not one that torch can hold.",
        causes=("a newer version of the format", "a quantised format of another library"),
        do=("convert the tensor where the file was made", "pip install --upgrade safetensors torch"),
    ),
    "CB-ST-06": Entry(
        "the file is one shard of several",
        "A large checkpoint was split into files such as model-00001-of-00003.safetensors, and one of them was given.",
        causes=("the first shard was named instead of the index",),
        do=("name the index, model.safetensors.index.json",),
    ),
    "CB-ST-07": Entry(
        "the index of a sharded checkpoint cannot be used",
        "The index is not valid JSON, names files outside its folder, or its shards are missing or hold other tensors.",
        causes=("an incomplete download", "shards that were moved or renamed"),
        do=("keep the index and all its shards in one folder, with their own names", "download the folder again"),
    ),
    "CB-ZIP-01": Entry(
        "a member of the archive is compressed",
        "torch.save stores its members without compression. A compressed one could become far larger than the file.",
        causes=("an archive made by another program", "a malicious file"),
        do=("unpack it and store the tensors as safetensors", _UNKNOWN),
    ),
    "CB-ZIP-02": Entry(
        "a member of the archive appears twice",
        "Different readers could read different copies of it.",
        causes=("an archive made by another program", "a malicious file"),
        do=(_PLAIN, _UNKNOWN),
    ),
    "CB-ZIP-03": Entry(
        "a member of the archive is encrypted",
        "torch.save does not encrypt, and cbsurgeon takes no password.",
        causes=("an archive protected by a password",),
        do=("decrypt it first, and name the checkpoint inside",),
    ),
    "CB-ZIP-04": Entry(
        "the two headers of a member of the archive disagree",
        "A zip archive describes each member in a local header and in the table of contents. Here the two differ, or "
        "have flags that torch.save does not use.",
        causes=("an archive made by another program", "a malicious file"),
        do=(_PLAIN, _UNKNOWN),
    ),
    "CB-ZIP-05": Entry(
        "the members of the archive are declared larger than the archive",
        "The sizes in the archive's table of contents add up to more than the file.",
        causes=("a download that was cut off", "a malicious file"),
        do=("download the file again", _UNKNOWN),
    ),
    "CB-ZIP-06": Entry(
        "members of the archive overlap",
        "Two members use the same bytes of the file, so a small archive could unpack to a huge one.",
        causes=("a malicious file",),
        do=(_UNKNOWN,),
    ),
    "CB-ZIP-07": Entry(
        "a member of the archive has a name that torch.save does not write",
        "Names must be plain relative paths below one top folder.",
        causes=("an ordinary zip archive with several folders", "names with .. or an absolute path"),
        do=("unpack it and name the checkpoint inside", _UNKNOWN),
    ),
    "CB-ZIP-08": Entry(
        "the archive exceeds the limits of the reader",
        "It has too many members, or a member that must be read into memory as a whole is too large.",
        causes=("a checkpoint with hundreds of thousands of tensors", "a malicious file"),
        do=("store the tensors as safetensors", _UNKNOWN),
    ),
    "CB-ZIP-09": Entry(
        "the archive has a comment, or bytes that belong to no member",
        "torch.save writes no comment and no bytes outside the members.",
        causes=("a self-extracting or split archive", "bytes appended to the file", "a malicious file"),
        do=(_PLAIN, _UNKNOWN),
    ),
}
