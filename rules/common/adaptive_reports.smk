# Studies of adapters: what each compares, its files and its targets.

from mergeloom.config.adaptive import entry_of

ADAPTIVE_STUDY = f"adaptive/{STUDY}/{{study}}"
ADAPTIVE_FIGURES = ("cost", "curves", "coefficients", "layers")


@explained
def entry_at(wildcards):
    """The entry of a study of adapters at the encoder, experts and benchmark of the path."""
    return entry_of(
        wildcards.study,
        PRESETS,
        wildcards.encoder,
        wildcards.experts,
        wildcards.benchmark,
    )


def mergers_beside(names):
    """Zero-shot, static mergers as given, fine-tuned."""
    return [ZEROSHOT, *(name for name in names if name != ZEROSHOT), FINETUNED]


def of_adapters(ending):
    """Input function: `{adapter}` with an ending for the adapters of a study, and for those that it
    takes from another encoder after them."""

    def paths(wildcards):
        entry = entry_at(wildcards)
        transfers = entry.get("transfers", {"from": "", "adapters": []})
        return [
            *expand(
                f"{ADAPTIVE}/{{adapter}}{ending}",
                adapter=entry["adapters"],
                **wildcards,
            ),
            *expand(
                f"{ADAPTIVE}/from/{{source}}/{{adapter}}{ending}",
                source=transfers["from"],
                adapter=transfers["adapters"],
                **wildcards,
            ),
        ]

    return paths


def states_of_adapters(ending):
    """Input function: what lies beside the states of the same adapters, in the same order."""

    def paths(wildcards):
        entry = entry_at(wildcards)
        transfers = entry.get("transfers", {"from": "", "adapters": []})
        there = dict(wildcards.items()) | {"encoder": transfers["from"]}
        return [
            path
            for place, names in (
                (dict(wildcards.items()), entry["adapters"]),
                (there, transfers["adapters"]),
            )
            for path in expand(f"{ADAPTED}{ending}", adapter=names, **place)
        ]

    return paths


def mergers_of_entry(wildcards):
    """Results of the static mergers beside a study's adapters, zero-shot first, fine-tuned last."""
    return expand(
        RESULT, merger=mergers_beside(entry_at(wildcards)["mergers"]), **wildcards
    )


def curves_of_adapters(wildcards):
    """The curves of a study's own adapters, in its order; empty of those that are not trained."""
    return expand(
        f"{ADAPTED}.parquet", adapter=entry_at(wildcards)["adapters"], **wildcards
    )


@explained
def corruptions_of(wildcards):
    """What a study compares on corrupted images; an entry without is an error."""
    entry = entry_at(wildcards)
    if "corruptions" not in entry:
        raise MergeloomError(
            f"adaptive {wildcards.study!r}: its entry {wildcards.encoder}/{wildcards.experts}/"
            f"{wildcards.benchmark} has no `corruptions`: name some, with adapters and mergers"
        )
    return entry["corruptions"]


def results_on_corrupted(wildcards):
    """Results of a study's mergers and adapters: on clean images, then on each kind of corrupted."""
    given = corruptions_of(wildcards)
    mergers = mergers_beside(given["mergers"])
    paths = []
    for folder in ("", *(f"corrupted/{name}/" for name in given["names"])):
        for study, names in (
            (f"<results>/{STUDY}", mergers),
            (ADAPTIVE, given["adapters"]),
        ):
            paths += expand(f"{study}/{folder}{{name}}.json", name=names, **wildcards)
    return paths


def published_of_adaptive(wildcards):
    """The published figures of this place, on clean and on corrupted images, as mappings."""
    place = (wildcards.encoder, wildcards.benchmark, wildcards.experts)
    return [
        figure._asdict()
        for figure in PUBLISHED_FIGURES
        if (figure.encoder, figure.benchmark, figure.experts) == place
    ]


def files_of_adaptive(study):
    """Tables and figures of all entries of a study of adapters."""
    files = []
    for entry in preset("adaptive", study)["studies"]:
        tables = ["summary.md", "cost.csv"]
        figures = [*ADAPTIVE_FIGURES]
        if "corruptions" in entry:
            tables.append("corrupted.csv")
            figures.append("corrupted")
        files += expand(
            f"<results>/{ADAPTIVE_STUDY}/{{file}}",
            encoder=entry["encoder"],
            experts=entry["experts"],
            benchmark=entry["benchmark"],
            study=study,
            file=[*tables, *(f"{name}.png" for name in figures)],
        )
    return files


def shown_of_adaptive(file, caption, label):
    """A table or figure of a study of adapters, shown in the report."""
    return report(
        f"<results>/{ADAPTIVE_STUDY}/{file}",
        caption=f"../config/report/adaptive_{caption}.rst",
        category="adaptive",
        subcategory="{encoder}, {benchmark}, {study}",
        labels={"result": label},
    )
