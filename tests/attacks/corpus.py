"""One hostile file per class of attack, with the answer it must get.

``CORPUS`` maps a name to the writer of the file and the error code. A writer gets a path and makes the file there;
those that would run code if they were trusted leave a file called ``ran`` in the folder when they do.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch

from tests.attacks import pickles, zips
from tests.attacks.pickles import HEAD, LEGACY, call, named, number, row, state, storage, tensor, text
from tests.attacks.zips import Entry

Writer = Callable[[Path], object]
CORPUS: dict[str, tuple[Writer, str]] = {}
CANARY = "ran"
ARCH = "mod:tests.models.factories:bare"
FLOATS = bytes(16)
HUGE = 1 << 40


def attack(code: str, name: str = "") -> Callable[[Writer], Writer]:
    def register(writer: Writer) -> Writer:
        CORPUS[name or writer.__name__] = (writer, code)
        return writer

    return register


def simple(name: str, code: str, writer: Writer) -> None:
    CORPUS[name] = (writer, code)


# Files that are no files, or no checkpoints.
simple("missing", "CB-LOAD-01", lambda path: None)
simple("link_to_nowhere", "CB-LOAD-01", lambda path: path.symlink_to(path.parent / "nowhere"))
simple("link_to_itself", "CB-LOAD-05", lambda path: path.symlink_to(path))
simple("folder", "CB-LOAD-02", lambda path: path.mkdir())
simple("pipe_that_never_answers", "CB-LOAD-03", lambda path: os.mkfifo(path))
simple("endless_device", "CB-LOAD-03", lambda path: path.symlink_to("/dev/zero"))
simple("empty", "CB-LOAD-04", lambda path: path.touch())
simple("web_page", "CB-LOAD-06", lambda path: path.write_text("<!DOCTYPE html><html>sign in</html>"))
simple("lfs_pointer", "CB-LOAD-06", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"))
simple("gzip", "CB-LOAD-06", lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(100)))
simple("engine", "CB-LOAD-06", lambda path: path.write_bytes(b"ftrt" + bytes(100)))
simple("noise", "CB-LOAD-06", lambda path: path.write_bytes(numpy.random.default_rng(0).bytes(999)))


@attack("CB-LOAD-06")
def tar(path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("../../evil"), io.BytesIO())


# Zip archives.
def plain(path: Path, **surroundings: Any) -> None:
    zips.checkpoint(path, state((text("w"), tensor(4, [2, 2], [2, 1]))), FLOATS, **surroundings)


def members(*more: Entry) -> list[Entry]:
    program = state((text("w"), tensor(4, [2, 2], [2, 1])))
    return [Entry("m/data.pkl", program), Entry("m/version", b"3\n"), Entry("m/data/0", FLOATS), *more]


simple("zip_cut_off", "CB-LOAD-07", lambda path: (plain(path), path.write_bytes(path.read_bytes()[:-30])))
simple("zip_with_bytes_behind", "CB-LOAD-07", lambda path: plain(path, after=b"PK\5\6 and a second directory"))
simple("zip_with_bytes_before", "CB-ZIP-09", lambda path: plain(path, before=b"PK\3\4" + bytes(40)))
simple("zip_bomb", "CB-ZIP-01", lambda path: zips.write(path, members(Entry("m/data/1", bytes(1 << 26), method=8))))
simple("zip_duplicate", "CB-ZIP-02", lambda path: zips.write(path, members(Entry("m/data.pkl", HEAD + b"N."))))
simple("zip_encrypted", "CB-ZIP-03", lambda path: zips.write(path, members(Entry("m/data/1", b"x", flags=0x0801))))
simple(
    "zip_two_names", "CB-ZIP-04", lambda path: zips.write(path, members(Entry("m/data/1", b"x", local_name="m/data/2")))
)
simple("zip_two_methods", "CB-ZIP-04", lambda path: zips.write(path, members(Entry("m/a", b"x", local_method=8))))
simple("zip_two_sizes", "CB-ZIP-04", lambda path: zips.write(path, members(Entry("m/a", b"xyz", local_size=7))))
simple(
    "zip_larger_inside",
    "CB-ZIP-05",
    lambda path: zips.write(path, members(Entry("m/data/1", b"x", size=HUGE, packed=HUGE))),
)
simple("zip_overlap", "CB-ZIP-06", lambda path: zips.write(path, members(Entry("m/data/1", FLOATS, header_at=0))))
simple("zip_climbs_out", "CB-ZIP-07", lambda path: zips.write(path, members(Entry("m/../../evil", b"x"))))
simple("zip_absolute", "CB-ZIP-07", lambda path: zips.write(path, members(Entry("/etc/evil", b"x"))))
simple("zip_backslash", "CB-ZIP-07", lambda path: zips.write(path, members(Entry("m\\..\\evil", b"x"))))
simple("zip_drive", "CB-ZIP-07", lambda path: zips.write(path, members(Entry("C:evil", b"x"))))
simple("zip_hidden_name", "CB-ZIP-07", lambda path: zips.write(path, members(Entry("m/data/1\0.txt", b"x"))))
simple("zip_two_folders", "CB-ZIP-07", lambda path: zips.write(path, members(Entry("other/data.pkl", HEAD + b"N."))))
simple("zip_many", "CB-ZIP-08", lambda path: (plain(path), lie_about_count(path)))
simple("zip_of_something_else", "CB-LOAD-06", lambda path: zips.write(path, [Entry("word/document.xml", b"<x/>")]))
simple("zip_without_data", "CB-LOAD-16", lambda path: zips.write(path, members()[:2]))


def lie_about_count(path: Path) -> None:
    """Claim more members, and a directory of that size, in a 64-bit end record."""
    import struct

    raw = path.read_bytes()[:-22]
    at = raw.index(b"PK\1\2")
    size = len(raw) - at
    end = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1 << 30, 1 << 30, size, at)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(raw), 1)
    path.write_bytes(raw + end + locator + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, size, at, 0))


@attack("CB-LOAD-11")
def torchscript(path: Path) -> None:
    zips.write(path, [Entry("m/data.pkl", HEAD + b"N."), Entry("m/constants.pkl", HEAD + b")."), Entry("m/code/a.py")])


@attack("CB-LOAD-13")
def exported_program(path: Path) -> None:
    zips.write(path, [Entry("m/archive_format", b"pt2"), Entry("m/models/model.json", b"{}")])


@attack("CB-LOAD-06")
def arrays_as_model(path: Path) -> None:
    with path.open("wb") as file:
        numpy.savez(file, x=numpy.zeros(3))


# Pickles that act.
def program(name: str, code: str, body: Callable[[Path], bytes], *data: bytes) -> None:
    CORPUS[name] = (lambda path: zips.checkpoint(path, body(path), *data), code)


def legacy(name: str, code: str, body: Callable[[Path], bytes], rest: bytes = b"") -> None:
    CORPUS[name] = (lambda path: path.write_bytes(LEGACY + body(path) + rest), code)


def touching(path: Path) -> bytes:
    return text(f"touch {path.parent / CANARY}")


program("runs_a_shell", "CB-LOAD-12", lambda path: HEAD + call("os", "system", touching(path)) + b".")
program("runs_a_shell_posix", "CB-LOAD-12", lambda path: HEAD + call("posix", "system", touching(path)) + b".")
legacy("runs_a_shell_legacy", "CB-LOAD-12", lambda path: HEAD + call("os", "system", touching(path)) + b".")
simple(
    "runs_a_shell_bare",
    "CB-LOAD-12",
    lambda path: path.write_bytes(HEAD + call("os", "system", touching(path)) + b"."),
)
program(
    "evaluates",
    "CB-LOAD-12",
    lambda path: HEAD + call("builtins", "eval", text(f"open({str(path.parent / CANARY)!r}, 'w')")) + b".",
)
program(
    "reaches_through_getattr", "CB-LOAD-12", lambda path: HEAD + call("builtins", "getattr", b"N", text("x")) + b"."
)
program("loads_again_unsafely", "CB-LOAD-12", lambda path: HEAD + call("torch", "load", text(str(path))) + b".")
program("imports_a_package", "CB-LOAD-12", lambda path: HEAD + named("antigravity", "x") + b".")
program("calls_a_method", "CB-LOAD-12", lambda path: HEAD + call("torch.jit._script", "RecursiveScriptModule") + b".")
program("hides_in_a_dtype", "CB-LOAD-12", lambda path: HEAD + call("torch", "float32", number(3)) + b".")
program("sets_state", "CB-LOAD-12", lambda path: HEAD + number(3) + b"}b.")
program("creates_an_object", "CB-LOAD-12", lambda path: HEAD + named("collections", "OrderedDict") + b")\x81.")
program(
    "stack_global",
    "CB-LOAD-12",
    lambda path: b"\x80\x04" + text("os") + text("system") + b"\x93" + touching(path) + b"\x85R.",
)
program("newer_protocol", "CB-LOAD-12", lambda path: b"\x80\x05N.")
program("inst_opcode", "CB-LOAD-12", lambda path: HEAD + b"(" + touching(path) + b"ios\nsystem\n.")
program("numpy_scalar", "CB-LOAD-12", lambda path: HEAD + call("numpy.core.multiarray", "scalar", b"N") + b".")
program("foreign_reference", "CB-LOAD-12", lambda path: HEAD + row(text("module"), named("torch", "Size")) + b"Q.")
program("fills_memory", "CB-LOAD-12", lambda path: HEAD + call("builtins", "bytearray", number(1 << 36)) + b".")


@attack("CB-LOAD-12")
def pickled_module(path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path)


@attack("CB-LOAD-15")
def sparse(path: Path) -> None:
    torch.save({"w": torch.eye(3).to_sparse()}, path)


@attack("CB-LOAD-15")
def quantized(path: Path) -> None:
    torch.save({"w": torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.qint8)}, path)


@attack("CB-LOAD-15")
def on_meta_device(path: Path) -> None:
    torch.save({"w": torch.zeros(3, device="meta")}, path)


# Pickles that lie about sizes.
program("storage_of_a_terabyte", "CB-LOAD-16", lambda path: state((text("w"), tensor(HUGE, [HUGE], [1]))), FLOATS)
legacy(
    "legacy_terabyte",
    "CB-LOAD-16",
    lambda path: state((text("w"), tensor(HUGE, [HUGE], [1], legacy=True))),
    HEAD + b"]" + text("0") + b"a." + bytes(24),
)
program("view_behind_the_storage", "CB-LOAD-16", lambda path: state((text("w"), tensor(4, [5], [1]))), FLOATS)
program("offset_behind_the_storage", "CB-LOAD-16", lambda path: state((text("w"), tensor(4, [1], [1], 4))), FLOATS)
program("stride_behind_the_storage", "CB-LOAD-16", lambda path: state((text("w"), tensor(4, [2], [HUGE]))), FLOATS)
program("repeats_one_number", "CB-LOAD-16", lambda path: state((text("w"), tensor(4, [HUGE], [0]))), FLOATS)
program("negative_extent", "CB-LOAD-07", lambda path: state((text("w"), tensor(4, [-1], [1]))), FLOATS)
program("negative_offset", "CB-LOAD-07", lambda path: state((text("w"), tensor(4, [1], [1], -9))), FLOATS)
program("shape_without_stride", "CB-LOAD-07", lambda path: state((text("w"), tensor(4, [2, 2], [1]))), FLOATS)
program("storage_twice", "CB-LOAD-07", lambda path: HEAD + storage(4) + storage(9) + b"\x86.", FLOATS)
program(
    "tuple_that_doubles",
    "CB-LOAD-16",
    lambda path: HEAD + b"}" + b")q\x00" + b"h\x00h\x00\x86q\x00" * 100 + b"Ns.",
)
program("tuple_too_deep", "CB-LOAD-16", lambda path: HEAD + b"})" + b"\x85" * 100_000 + b"Ns.")
program("pickle_too_long", "CB-LOAD-16", lambda path: HEAD + b"N0" * (9 << 20) + b"N.")
program("pickle_of_many_lists", "CB-LOAD-16", lambda path: HEAD + b"]" * (15 << 20) + b".")
program("text_of_an_exabyte", "CB-LOAD-07", lambda path: HEAD + b"\x8d" + b"\xff" * 7 + b"\x0f.")
legacy("legacy_text_of_an_exabyte", "CB-LOAD-07", lambda path: HEAD + b"\x8d" + b"\xff" * 7 + b"\x0f.")
program("pickle_cut_off", "CB-LOAD-07", lambda path: state((text("w"), b"N"))[:-1])
program("pickle_pops_nothing", "CB-LOAD-07", lambda path: HEAD + b"R.")
program("pickle_forgets", "CB-LOAD-07", lambda path: HEAD + b"h\x07.")
program("pickle_noise", "CB-LOAD-07", lambda path: HEAD + b"\xff\xfe\xfd")
legacy("legacy_cut_off", "CB-LOAD-07", lambda path: state((text("w"), b"N"))[:-3])
program("weights_of_numbers", "CB-FIT-02", lambda path: state((text("w"), number(3))))
program("keys_of_numbers", "CB-FIT-02", lambda path: state((number(3), tensor(4, [4], [1]))), FLOATS)


# Safetensors.
def header(body: bytes | dict[str, Any], data: bytes = FLOATS, length: int | None = None) -> Writer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    said = len(raw) if length is None else length
    return lambda path: path.write_bytes(said.to_bytes(8, "little") + raw + data)


def entry(shape: list[Any], begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


GOOD = json.dumps(entry([4], 0, 16))
simple("key_twice", "CB-ST-02", header(f'{{"w":{GOOD},"w":{GOOD}}}'.encode()))
simple("dtype_twice", "CB-ST-02", header(b'{"w":{"dtype":"F32","dtype":"I32","shape":[4],"data_offsets":[0,16]}}'))
simple("metadata_twice", "CB-ST-02", header(f'{{"__metadata__":{{}},"__metadata__":{{}},"w":{GOOD}}}'.encode()))
simple("header_of_exabytes", "CB-ST-01", header({"w": entry([4], 0, 16)}, length=(1 << 63) - 1))
simple("header_too_long", "CB-ST-01", header(b"{" + b" " * (17 << 20) + b"}"))
simple("header_cut_off", "CB-LOAD-07", header({"w": entry([4], 0, 16)}, b"", length=500))
simple("data_cut_off", "CB-LOAD-07", header({"w": entry([4], 0, 16)}, FLOATS[:-1]))
simple("data_overlaps", "CB-ST-04", header({"w": entry([4], 0, 16), "v": entry([2], 8, 16)}))
simple("data_shared", "CB-ST-04", header({"w": entry([4], 0, 16), "v": entry([4], 0, 16)}))
simple("data_with_hole", "CB-ST-04", header({"w": entry([2], 0, 8), "v": entry([1], 12, 16)}))
simple("data_behind_end", "CB-ST-04", header({"w": entry([2], 0, 8)}))
simple("offset_negative", "CB-ST-03", header({"w": entry([4], -16, 0)}))
simple("offset_backwards", "CB-ST-04", header({"w": entry([4], 16, 0)}))
simple("offset_boolean", "CB-ST-03", header({"w": entry([1], False, 4)}))
simple("offset_fraction", "CB-ST-03", header({"w": entry([4], 0.0, 16.0)}))
simple("offset_beyond_64_bits", "CB-ST-03", header({"w": entry([4], 0, 1 << 64)}))
simple("shape_overflows", "CB-ST-04", header({"w": entry([1 << 62, 1 << 62, 4], 0, 16)}))
simple("shape_of_a_million_axes", "CB-ST-03", header({"w": entry([1] * 1_000_000, 0, 4)}))
simple("shape_negative", "CB-ST-03", header({"w": entry([-2, -2], 0, 16)}))
simple("dtype_unknown", "CB-ST-05", header({"w": entry([4], 0, 16, "F4")}))
simple("dtype_a_list", "CB-ST-05", header({"w": entry([4], 0, 16, ["F32"])}))
simple("entry_extra", "CB-ST-03", header({"w": {**entry([4], 0, 16), "code": "x"}}))
simple("entry_a_number", "CB-ST-03", header({"w": 3}))
simple("header_nested", "CB-ST-01", header(b'{"w":' + b"[" * 200_000))
simple("header_huge_number", "CB-ST-01", header(b'{"w":' + b"9" * 100_000 + b"}"))
simple("header_nan", "CB-ST-01", header(b'{"w":NaN}'))
simple("header_not_utf8", "CB-ST-01", header(b'{"\xff\xfe":3}'))
simple("header_not_json", "CB-ST-01", header(b"{'w': 3}"))
simple("metadata_numbers", "CB-ST-03", header({"__metadata__": {"a": 3}, "w": entry([4], 0, 16)}))
simple("no_tensor_at_all", "CB-FIT-02", header({}, b""))


# Shards.
def index(placed: Any, *shards: str) -> Writer:
    def write_index(path: Path) -> None:
        path.write_text(placed if isinstance(placed, str) else json.dumps({"weight_map": placed}))
        for name in shards:
            header({"w": entry([4], 0, 16)})(path.parent / name)

    return write_index


simple("index_climbs_out", "CB-ST-07", index({"w": "../a.safetensors"}))
simple("index_absolute", "CB-ST-07", index({"w": "/etc/a.safetensors"}))
simple("index_names_a_pickle", "CB-ST-07", index({"w": "a.bin"}))
simple("index_missing_shard", "CB-LOAD-01", index({"w": "a.safetensors"}))
simple("index_other_keys", "CB-ST-07", index({"v": "a.safetensors"}, "a.safetensors"))
simple(
    "index_key_in_two_shards",
    "CB-ST-07",
    index({"w": "a.safetensors", "v": "b.safetensors"}, *("a.safetensors", "b.safetensors")),
)
simple("index_key_twice", "CB-ST-07", index('{"weight_map":{"w":"a.safetensors","w":"b.safetensors"}}'))
simple("index_not_json", "CB-ST-07", index("weights"))


# Our own metadata.
def described(architecture: Any = ARCH, **values: Any) -> Writer:
    document = {"schema": "cbsurgeon.checkpoint/1", "architecture": architecture, **values}
    return header({"__metadata__": {"cbsurgeon": json.dumps(document)}, "w": entry([4], 0, 16)})


TINY = "timm:vit_tiny_patch16_224"
simple("names_code", "CB-LOAD-21", described("mod:os:getcwd"))
simple("names_a_folder", "CB-LOAD-21", described("hf:../folder"))
simple("names_a_download", "CB-LOAD-21", described("timm:hf-hub:someone/model"))
simple("asks_for_a_download", "CB-REF-05", described(TINY, architecture_options={"pretrained": True}))
simple("asks_for_another_file", "CB-REF-05", described(TINY, architecture_options={"checkpoint_path": "x"}))
simple("asks_for_a_kernel", "CB-REF-05", described("hf:ViTModel", architecture_options={"attn_implementation": "a/b"}))
simple("asks_for_remote_code", "CB-REF-05", described("hf:ViTModel", architecture_options={"auto_map": {"a": "b"}}))
simple("absurd_option", "CB-META-01", described(TINY, architecture_options={"num_classes": HUGE}))
simple("many_layers", "CB-REF-06", described(TINY, architecture_options={"depth": 100_000}))
simple("large_classifier", "CB-LOAD-26", described(TINY, architecture_options={"num_classes": 1 << 20}))
simple("large_architecture", "CB-LOAD-26", described("timm:eva_giant_patch14_224"))
simple("unknown_option", "CB-REF-03", described(TINY, architecture_options={"evil": 1}))
simple("another_version", "CB-META-02", described(schema="cbsurgeon.checkpoint/9"))
simple("recipes_not_a_list", "CB-META-01", described(recipes="cb"))
simple("recipes_nobody_replays", "CB-LOAD-22", described(recipes=[{"op": "cb"}]))
simple("ties_to_nothing", "CB-META-01", described(aliases={"v": "u"}))
simple("ties_to_itself", "CB-META-01", described(aliases={"w": "w"}))
simple("document_not_json", "CB-META-01", header({"__metadata__": {"cbsurgeon": "{"}, "w": entry([4], 0, 16)}))
simple(
    "document_nested",
    "CB-META-01",
    header({"__metadata__": {"cbsurgeon": "[" * 100_000}, "w": entry([4], 0, 16)}),
)


# Inputs (names that begin with ``inputs_`` are given to --inputs).
@attack("CB-INPUT-03")
def inputs_objects(path: Path) -> None:
    with path.open("wb") as file:
        numpy.savez(file, x=numpy.array([{}], dtype=object))


@attack("CB-INPUT-03")
def inputs_bomb(path: Path) -> None:
    zips.write(path, [Entry("x.npy", bytes(1 << 26), method=8, size=1 << 31)])


@attack("CB-INPUT-03")
def inputs_wrong_shape(path: Path) -> None:
    raw = io.BytesIO()
    numpy.lib.format.write_array_header_1_0(raw, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)})
    zips.write(path, [Entry("x.npy", raw.getvalue() + FLOATS)])


@attack("CB-INPUT-03")
def inputs_evil_header(path: Path) -> None:
    zips.write(path, [Entry("x.npy", b"\x93NUMPY\1\0\x40\0" + b"[" * 64)])


simple("inputs_not_an_archive", "CB-INPUT-03", lambda path: path.write_bytes(pickles.HEAD + b"N."))
simple("inputs_missing", "CB-LOAD-01", lambda path: None)
simple("inputs_duplicate", "CB-ZIP-02", lambda path: zips.write(path, [Entry("x.npy", b"a"), Entry("x.npy", b"b")]))
