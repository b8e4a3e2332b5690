# Where the base of an encoder comes from.

PRETRAINED = [e for e, p in PRESETS["encoders"].items() if "pretrain" in p["weights"]]
PUBLISHED = [e for e, p in PRESETS["encoders"].items() if "published" in p["weights"]]


def pretraining_of(wildcards):
    """The pretraining entry of an encoder's preset."""
    return preset("encoders", wildcards.encoder)["weights"]["pretrain"]


# What ends the name of a file of weights, and no tag of open_clip or revision of a repository.
WEIGHTS = (".pt", ".pth", ".bin", ".safetensors")
# What is read of a folder of transformers' files: the first of the weights, and what they are of.
WHOLE, CONFIG = ("model.safetensors", "pytorch_model.bin"), "config.json"


@explained
def given_weights(wildcards):
    """The files that published weights come from, where they are at hand and not of the hub."""
    encoder = preset("encoders", wildcards.encoder)
    weights, text = encoder["weights"]["published"], wildcards.encoder in TEXT_ENCODERS
    if text and Path(weights).exists():
        path = Path(weights)
        files = [path] if path.is_file() else [path / name for name in WHOLE]
        found = next((file for file in files if file.is_file()), None)
        if found is None:
            raise MergeloomError(
                f"{weights}: has none of {', '.join(WHOLE)}. It is weights.published of the encoder "
                f"{wildcards.encoder}: save the model in one file, and name it or its folder."
            )
        beside = found.with_name(CONFIG)
        return [str(file) for file in (found, beside) if file.is_file()]
    if Path(weights).is_file():
        return [weights]
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
    if text and "transformers" not in encoder["architecture"]:
        raise MergeloomError(
            f"encoder {wildcards.encoder}: weights.published {weights!r} is no file or folder, and its "
            "architecture, which is given by its sizes, names no repository of which it could be a "
            "revision: add architecture.transformers, or give the path of the weights."
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
