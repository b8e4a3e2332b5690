# Paths of a study: one encoder, one collection of experts, one benchmark.


def tasks_of(wildcards, of="benchmark"):
    """The tasks of a benchmark; the other names of the path must exist, too."""
    preset("experts", wildcards.experts)
    return readable(wildcards.encoder, preset("benchmarks", getattr(wildcards, of)))


@explained
def readable(encoder, tasks):
    """The tasks, all of which an encoder must be able to read."""
    given = {task: preset("tasks", task) for task in tasks}
    check_encoder(encoder, preset("encoders", encoder), tasks, given)
    return tasks


def form_of(encoder):
    """The form in which an encoder reads a split of a task, as it stands in the name of the file."""
    given = preset("encoders", encoder)
    return encoder if reads(given) == "text" else f"{given['image']['size']}px"


def known_of_images(what, function):
    """Input or params function: what another gives, and an error for an encoder that reads text."""

    @explained
    def given(wildcards):
        if wildcards.encoder in TEXT_ENCODERS:
            raise MergeloomError(
                f"{what} of encoders that read images, and {wildcards.encoder} reads text"
            )
        return function(wildcards)

    return given


def over_tasks(pattern, of="benchmark", **fixed):
    """Input function: the pattern for every task of a benchmark; `{form}` is the encoder's.

    Further names in the pattern are given as values, or as functions of the wildcards.
    """

    def paths(wildcards):
        form = form_of(wildcards.encoder)
        given = {k: v(wildcards) if callable(v) else v for k, v in fixed.items()}
        return expand(
            pattern, task=tasks_of(wildcards, of), form=form, **{**wildcards, **given}
        )

    return paths


def of_studies(pattern, experts=None, **more):
    """The pattern for every encoder, collection of experts and benchmark of the configuration."""
    return expand(
        pattern,
        encoder=config["encoders"],
        experts=config["experts"] if experts is None else experts,
        benchmark=config["benchmarks"],
        **more,
    )


def of_tasks(pattern):
    """The pattern for every encoder, collection of experts and task of the configuration."""
    tasks = dict.fromkeys(
        t for b in config["benchmarks"] for t in PRESETS["benchmarks"][b]
    )
    return expand(
        pattern, encoder=config["encoders"], experts=config["experts"], task=tasks
    )


STUDY = "{encoder}/{experts}/{benchmark}"
ALL_ROWS = [ZEROSHOT, *(m for m in config["mergers"] if m != ZEROSHOT), FINETUNED]
MERGED = "<models>/{encoder}/{experts}/merged/{benchmark}/{merger}.safetensors"
RESULT = f"<results>/{STUDY}/{{merger}}.json"
