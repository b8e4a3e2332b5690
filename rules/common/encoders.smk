# Where the base of an encoder comes from.

PRETRAINED = [e for e, p in PRESETS["encoders"].items() if "pretrain" in p["weights"]]
PUBLISHED = [e for e, p in PRESETS["encoders"].items() if "published" in p["weights"]]


def pretraining_of(wildcards):
    """The pretraining entry of an encoder's preset."""
    return preset("encoders", wildcards.encoder)["weights"]["pretrain"]


# What ends the name of a file of weights, and no tag of open_clip or revision of a repository.
WEIGHTS = (".pt", ".pth", ".bin", ".safetensors")


@explained
def given_weights(wildcards):
    """The files that published weights come from, where they are at hand and not of the hub."""
    weights = preset("encoders", wildcards.encoder)["weights"]["published"]
    if Path(weights).is_file():
        return [weights]
    text = wildcards.encoder in TEXT_ENCODERS
    if text and Path(weights).is_dir():
        return sorted(str(file) for file in Path(weights).iterdir() if file.is_file())
    if "/" in weights or weights.endswith(WEIGHTS):
        instead = (
            "a revision of the repository that architecture.transformers names"
            if text
            else "a tag of open_clip (`python -m open_clip.pretrained`)"
        )
        raise MergeloomError(
            f"{weights}: no such file. It is weights.published of the encoder {wildcards.encoder}: put "
            f"the file there, or set the key to {instead}."
        )
    return []


def origin_of_encoder(wildcards):
    """Which architecture and weights a published encoder has, in words."""
    encoder = preset("encoders", wildcards.encoder)
    named = (encoder["architecture"].get(key) for key in ("open_clip", "transformers"))
    architecture = next(filter(None, named), "its own architecture")
    return f"{architecture}, {encoder['weights']['published']}"


def pretraining_recipe(wildcards):
    """The name of the recipe that an encoder is pretrained by."""
    return pretraining_of(wildcards)["recipe"]


def of_pretraining_tasks(pattern):
    """Input function: the pattern for every task that the encoder is pretrained on."""

    def paths(wildcards):
        return expand(
            pattern,
            task=pretraining_of(wildcards)["tasks"],
            form=form_of(wildcards.encoder),
            encoder=wildcards.encoder,
        )

    return paths
