"""The recipe: a small JSON document with an operator and the sites where it is inserted; it can be edited by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cbsurgeon.errors import UsageError
from cbsurgeon.graph.block import Block, Heads, Hook, Mask
from cbsurgeon.models.files import strict_json
from cbsurgeon.operators.common import notes
from cbsurgeon.operators.common.fields import Fields
from cbsurgeon.operators.common.masking import VALID
from cbsurgeon.operators.common.unfolding import Unfold
from cbsurgeon.operators.registry import operator_class

SCHEMA = "cbsurgeon.recipe/1"

POSITIONS = ("front", "mid", "end", "query")
"""The positions of sites in a recipe."""


@dataclass(frozen=True)
class RecipeSite:
    """One site of a recipe.

    Attributes:
        index, stack, kind, path: the block, as ``inspect`` shows it.
        position: ``front``, ``mid`` or ``end``; ``query`` for an operator on the queries of an attention.
        token_axes, channel_axis, batch_axes: roles of the tensor's axes there.
        tokens, channels: sizes when the recipe was made; only ``channels`` has to stay the same.
        hooks: the module whose input or output the tensor is; empty when only a program can be edited.
        calls: how often the block runs in one forward pass.
        enabled: set to false to leave this site out.
        mask: the input that marks padding; only for a masked operator.
        unfold: how the axis that samples and tokens share is split; the axes above are those of the split tensor.
        heads: for every head, the ranges of channels that are its queries; only at ``query``.
    """

    index: int
    stack: str
    kind: str
    path: str
    position: str
    token_axes: tuple[int, ...]
    channel_axis: int
    batch_axes: tuple[int, ...]
    tokens: int
    channels: int
    hooks: tuple[Hook, ...]
    calls: int = 1
    enabled: bool = True
    mask: Mask | None = None
    unfold: Unfold | None = None
    heads: Heads = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON form; ``mask``, ``unfold`` and ``heads`` only where there are any."""
        return {
            "index": self.index,
            "stack": self.stack,
            "kind": self.kind,
            "path": self.path,
            "position": self.position,
            "token_axes": list(self.token_axes),
            "channel_axis": self.channel_axis,
            "batch_axes": list(self.batch_axes),
            "tokens": self.tokens,
            "channels": self.channels,
            "hooks": [
                {"module": hook.module, "when": hook.when, "before_dropout": hook.before_dropout} for hook in self.hooks
            ],
            "calls": self.calls,
            "enabled": self.enabled,
            **({"mask": self.mask.to_dict()} if self.mask is not None else {}),
            **({"unfold": self.unfold.to_dict()} if self.unfold is not None else {}),
            **({"heads": [[list(part) for part in head] for head in self.heads]} if self.heads else {}),
        }


@dataclass(frozen=True)
class Excluded:
    """A block that could have been chosen but was not, with the reason."""

    index: int
    path: str
    reason: str


@dataclass(frozen=True)
class Recipe:
    """An operator and its sites in one structure.

    Attributes:
        op: operator name.
        options: operator options, JSON values.
        layers: the selector as it was given.
        position: ``front``, ``mid`` or ``end``.
        fingerprint: digest of the structure the recipe was made for.
        structure: the blocks of that structure (kind, path, fc1, fc2, channels, hidden, calls), so that a message can
            name a difference.
        sites: the sites of the operator.
        excluded: blocks that were left out, with reasons.
        reference: the model it was made from; for information only.
        given: the parameters of ``forward()`` that were given when the recipe was made: no other one was tested for
            hiding tokens. Empty if that is not known.
        versions: versions of cbsurgeon and torch when it was made; for information only.
    """

    op: str
    sites: tuple[RecipeSite, ...]
    fingerprint: str
    structure: tuple[Mapping[str, Any], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    layers: str = "upper"
    position: str = "end"
    excluded: tuple[Excluded, ...] = ()
    reference: str = "object"
    given: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.active)

    @property
    def active(self) -> tuple[RecipeSite, ...]:
        """The sites that are enabled."""
        return tuple(site for site in self.sites if site.enabled)

    @property
    def indices(self) -> tuple[int, ...]:
        """Indices of the blocks that are enabled, in order."""
        return tuple(sorted({site.index for site in self.active}))

    def without(self, *indices: int) -> Recipe:
        """The same recipe with some blocks disabled."""
        return replace(
            self,
            sites=tuple(replace(site, enabled=site.enabled and site.index not in indices) for site in self.sites),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON form, schema ``cbsurgeon.recipe/1``; the order of keys never changes."""
        return {
            "schema": SCHEMA,
            "op": self.op,
            "options": dict(sorted(self.options.items())),
            "layers": self.layers,
            "position": self.position,
            "reference": self.reference,
            **({"given": list(self.given)} if self.given else {}),
            "fingerprint": self.fingerprint,
            "sites": [site.to_dict() for site in self.sites],
            "excluded": [{"index": block.index, "path": block.path, "reason": block.reason} for block in self.excluded],
            "structure": [_in_order(block) for block in self.structure],
            "versions": dict(sorted(self.versions.items())),
        }

    @property
    def digest(self) -> str:
        """Digest of operator, options and sites; equal for recipes that turn the same structure into the same model."""
        start = operator_class(self.op).start
        sites = [
            [[hook.module, hook.when] for hook in site.hooks[:1]] + [list(site.token_axes), site.channel_axis]
            for site in self.active
        ]
        options = {name: value for name, value in self.options.items() if name not in start}
        return notes.digest({"op": self.op, "options": options, "sites": sites})

    def to_json(self) -> str:
        """The document as text, two-space indented, byte-stable."""
        return strict_json.dumps(self.to_dict()) + "\n"

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Recipe:
        """Read a document.

        Raises:
            UsageError: it is not a recipe, or a field is missing, unknown, or has the wrong type or value.
        """
        if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
            found = document.get("schema") if isinstance(document, Mapping) else type(document).__name__
            raise UsageError(
                "this is not a recipe",
                code="CB-RECIPE-01",
                where="the recipe",
                why=f'"schema" is {found!r}, not {SCHEMA!r}',
                do="make one with `cbsurgeon insert REF --dry-run --json`",
            )
        try:
            return _recipe(Fields(document, "the recipe"))
        except (TypeError, ValueError) as error:
            raise UsageError(
                "the recipe cannot be read",
                code="CB-RECIPE-02",
                where="the recipe",
                why=str(error),
                do="compare it with the output of `cbsurgeon insert REF --dry-run --json`",
            ) from error

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read a document from text: a recipe, or the result of ``insert --json``, which holds one.

        Raises:
            UsageError: it is not JSON, or not a recipe.
        """
        try:
            document = strict_json.parse(text)
        except strict_json.NotStrictJSON as error:
            raise UsageError(
                "the recipe is not JSON",
                code="CB-RECIPE-01",
                where="the recipe",
                why=str(error),
                do="make one with `cbsurgeon insert REF --dry-run --recipe-out recipe.json`",
            ) from error
        if isinstance(document, dict) and document.get("schema") == "cbsurgeon.insert/1":
            document = document.get("recipe")
        return cls.from_dict(document)


def _recipe(fields: Fields) -> Recipe:
    recipe = Recipe(
        op=fields.text("op"),
        options=fields.object("options", {}),
        layers=fields.text("layers", ""),
        position=fields.text("position", "end", POSITIONS),
        fingerprint=fields.text("fingerprint"),
        structure=tuple(Fields(block, "a block of the structure").all() for block in fields.list("structure", ())),
        sites=tuple(_site(Fields(site, f"site {number}")) for number, site in enumerate(fields.list("sites"))),
        excluded=tuple(_excluded(Fields(block, "an excluded block")) for block in fields.list("excluded", ())),
        reference=fields.text("reference", "object"),
        given=tuple(str(name) for name in fields.list("given", ())),
        versions={str(key): str(text) for key, text in fields.object("versions", {}).items()},
    )
    fields.finish()
    return recipe


def _site(fields: Fields) -> RecipeSite:
    mask, unfold = fields.get("mask", None), fields.get("unfold", None)
    site = RecipeSite(
        index=fields.whole("index"),
        stack=fields.text("stack"),
        kind=fields.text("kind"),
        path=fields.text("path"),
        position=fields.text("position", among=POSITIONS),
        token_axes=fields.wholes("token_axes"),
        channel_axis=fields.whole("channel_axis"),
        batch_axes=fields.wholes("batch_axes"),
        tokens=fields.whole("tokens"),
        channels=fields.whole("channels"),
        hooks=tuple(_hook(Fields(hook, "a hook")) for hook in fields.list("hooks", ())),
        calls=fields.whole("calls", 1, least=1),
        enabled=fields.flag("enabled", True),
        mask=None if mask is None else _mask(Fields(mask, "the mask of a site")),
        unfold=None if unfold is None else Unfold.from_dict(unfold),
        heads=tuple(tuple(_span(part) for part in head) for head in fields.list("heads", ())),
    )
    fields.finish()
    return site


def _hook(fields: Fields) -> Hook:
    when: Any = fields.text("when", among=("input", "output"))
    hook = Hook(fields.text("module"), when, fields.flag("before_dropout", False))
    fields.finish()
    return hook


def _excluded(fields: Fields) -> Excluded:
    block = Excluded(fields.whole("index"), fields.text("path"), fields.text("reason"))
    fields.finish()
    return block


def _mask(fields: Fields) -> Mask:
    valid: Any = fields.text("valid", among=VALID)
    mask = Mask(fields.text("input"), valid, fields.text("module", ""), fields.flag("rows", False))
    fields.finish()
    return mask


def _span(part: Any) -> tuple[int, int]:
    if not isinstance(part, list | tuple) or len(part) != 2 or any(type(end) is not int for end in part):
        raise ValueError(f"a range of channels is {str(part)[:60]}, not [start, stop]")
    return part[0], part[1]


OUTLINE = ("kind", "path", "fc1", "fc2", "channels", "hidden", "calls")
"""The facts of a block that a recipe depends on."""


def outline(block: Block) -> dict[str, Any]:
    """The facts of a block that a recipe depends on."""
    facts = {name: getattr(block, name) for name in OUTLINE}
    return {name: list(fact) if isinstance(fact, tuple) else fact for name, fact in facts.items()}


def _in_order(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A block's facts in a fixed order, whatever their order in the document; unknown keys come last."""
    known = [name for name in OUTLINE if name in facts]
    return {name: facts[name] for name in (*known, *sorted(set(facts) - set(known)))}
