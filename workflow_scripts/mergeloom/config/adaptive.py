"""Studies of adapters (config/adaptive.yaml): what each compares, on what, and whether it can be.

A study is a list of entries: an encoder, a collection of experts and a benchmark, the adapters that
are compared there, and the static mergers beside them. An entry may also adapt to corrupted images,
and use adapters of another encoder.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from mergeloom.config.adapters import check_serves, is_portable, reads_features, settings_of
from mergeloom.config.extractors import choose_extractor
from mergeloom.config.presets import choose
from mergeloom.config.study import check_encoder, corruption_and_severity, reads
from mergeloom.errors import MergeloomError

PLACE = {"encoder": "encoders", "experts": "experts", "benchmark": "benchmarks"}  # key -> kind
# Folders beside those of studies.
TAKEN = ("corrupted", "from", "on")

Presets = Mapping[str, Mapping[str, Any]]
Entry = Mapping[str, Any]


def check_adaptive(presets: Presets) -> None:
    """Check every study of adapters.

    Raises
    ------
    MergeloomError – an unknown encoder, collection of experts, benchmark, merger, adapter or
    corruption; an encoder that cannot read the benchmark; two entries of one place; a study whose
    name is that of a folder beside it; an adapter that does not serve the encoder; a transfer from
    the encoder itself, or of an adapter whose state serves no other; what is compared on corrupted
    images but not on clean ones.
    """
    for study, given in presets["adaptive"].items():
        if study in TAKEN:
            raise MergeloomError(
                f"adaptive {study!r}: its files would lie among those of results/adaptive/…/"
                f"{study}/; rename the study"
            )
        places: list[tuple[str, ...]] = []
        for entry in given["studies"]:
            place = tuple(entry[key] for key in PLACE)
            where = f"adaptive {study!r}: {'/'.join(place)}"
            if place in places:
                raise MergeloomError(
                    f"{where} stands twice, and both would write the same files: make one of both"
                )
            places.append(place)
            for kind, name in _names(entry):
                try:
                    choose(kind, presets[kind], name)
                except MergeloomError as error:
                    raise MergeloomError(f"{where}: {error}") from None
            encoder = presets["encoders"][entry["encoder"]]
            of = presets["benchmarks"][entry["benchmark"]]
            try:
                check_encoder(entry["encoder"], encoder, of, presets["tasks"])
                for name in entry["adapters"]:
                    check_serves(name, presets["adapters"][name], encoder)
            except MergeloomError as error:
                raise MergeloomError(f"{where}: {error}") from None
            _check_corruptions(entry, encoder, where)
            if "transfers" in entry:
                _check_transfers(entry, presets, where)


def _names(entry: Entry) -> Iterator[tuple[str, str]]:
    """Every preset that an entry names, with its kind."""
    yield from ((kind, entry[key]) for key, kind in PLACE.items())
    if "transfers" in entry:
        yield "encoders", entry["transfers"]["from"]
    for part in (entry, entry.get("transfers", {}), entry.get("corruptions", {})):
        yield from (("mergers", name) for name in part.get("mergers", []))
        yield from (("adapters", name) for name in part.get("adapters", []))


def _check_corruptions(entry: Entry, encoder: Mapping[str, Any], where: str) -> None:
    if "corruptions" not in entry:
        return
    if reads(encoder) == "text":
        raise MergeloomError(
            f"{where}: `corruptions` are of images, and {entry['encoder']} reads text: leave them "
            "out"
        )
    try:
        for name in entry["corruptions"]["names"]:
            corruption_and_severity(name)
    except MergeloomError as error:
        raise MergeloomError(f"{where}: {error}") from None
    for kind in ("adapters", "mergers"):
        for name in entry["corruptions"][kind]:
            if name not in entry[kind]:
                raise MergeloomError(
                    f"{where}: corruptions.{kind} has {name}, which `{kind}` lacks: corrupted "
                    "images are compared with clean ones, so add it there, too"
                )


def _check_transfers(entry: Entry, presets: Presets, where: str) -> None:
    source, encoder = entry["transfers"]["from"], entry["encoder"]
    if source == encoder:
        raise MergeloomError(
            f"{where}: `transfers` are from {encoder} itself, where its adapters are already: name "
            "another encoder, or leave them out"
        )
    try:
        of = presets["benchmarks"][entry["benchmark"]]
        check_encoder(source, presets["encoders"][source], of, presets["tasks"])
    except MergeloomError as error:
        raise MergeloomError(f"{where}: transfers.from: {error}") from None
    for name in entry["transfers"]["adapters"]:
        adapter = presets["adapters"][name]
        refused = f"{where}: transfers.adapters has {name}, "
        if not is_portable(adapter):
            raise MergeloomError(
                f"{refused}but the state of {adapter['method']} belongs to the layers of {source}: "
                f"leave it out, or list it in `adapters`, to be adapted on {encoder}"
            )
        settings = settings_of(adapter)
        if settings.get("per") == "layer" and settings["transfer"] == "exact":
            raise MergeloomError(
                f"{refused}which has coefficients of each layer of {source}: take one with the "
                "parameter `transfer: by_relative_depth`, or with `per: task`"
            )
        if reads_features(adapter):
            try:
                here, there = (choose_extractor(adapter, e, presets) for e in (encoder, source))
            except MergeloomError as error:
                raise MergeloomError(f"{where}: transfers.adapters: {name}: {error}") from None
            if here != there:
                raise MergeloomError(
                    f"{refused}which reads features of {there} on {source} and of {here} on "
                    f"{encoder}: give the adapter an `extractor` of its own, or both encoders the "
                    "same"
                )


def entry_of(study: str, presets: Presets, encoder: str, experts: str, benchmark: str) -> Any:
    """The entry of a study at a place.

    Raises
    ------
    MergeloomError – no study of this name, or no entry of it there; the message lists those it has.
    """
    place = (encoder, experts, benchmark)
    given = choose("adaptive", presets["adaptive"], study)["studies"]
    for entry in given:
        if tuple(entry[key] for key in PLACE) == place:
            return entry
    known = ", ".join("/".join(entry[key] for key in PLACE) for entry in given)
    raise MergeloomError(f"adaptive {study!r} has no entry {'/'.join(place)}; it has: {known}")
