# What jobs take of a machine.


def memory(wildcards, input, attempt):
    """Megabytes for a job that holds a few copies of its inputs beside torch."""
    return int((1500 + 3 * input.size_mb) * 1.5 ** (attempt - 1))


def memory_of_model(wildcards, input, attempt):
    """Megabytes for a job that uses a model beside torch; images stay where they are, mapped."""
    weights = [f for f in input if f.startswith(f"{ROOTS['models']}/")]
    return int(
        (3000 + 6 * max(map(os.path.getsize, weights)) / 1e6) * 1.5 ** (attempt - 1)
    )


def memory_of_mixture(wildcards, input, attempt):
    """Megabytes for a job that holds a base and all that is mixed beside torch, with some to train."""
    weights = [f for f in input if f.startswith(f"{ROOTS['models']}/")]
    return int(
        (4000 + 2 * sum(map(os.path.getsize, weights)) / 1e6) * 1.5 ** (attempt - 1)
    )


def memory_of_stream(wildcards, attempt):
    """Megabytes for a job that holds a few images at a time, and a line for each of a split's."""
    return int(2000 * 1.5 ** (attempt - 1))


def memory_of_texts(wildcards, input, attempt):
    """Megabytes for a job that holds texts, their prompts and their tokens; tables are compressed."""
    return int((1500 + 20 * input.size_mb) * 1.5 ** (attempt - 1))


def threads_of_images(wildcards):
    """Threads that decode images; rendered tasks are so small that they rather run side by side."""
    return 1 if wildcards.task in RENDERED else 4


def memory_of_merge(wildcards, input, attempt):
    """Megabytes for a job that streams its inputs: torch, a model, and a parameter of all tasks."""
    return int((2000 + 0.15 * input.size_mb) * 1.5 ** (attempt - 1))


def memory_of_statistics(wildcards, attempt):
    """Megabytes for a job that holds a model and gradients or Gram matrices, more than it takes itself."""
    return int(12000 * 1.5 ** (attempt - 1))


def memory_of_propagation(wildcards, attempt):
    """Megabytes for a job that lets examples of all tasks pass a model, besides merging it."""
    pixels = preset("encoders", wildcards.encoder)["image"]["size"] ** 2
    tasks = len(tasks_of(wildcards))
    # A patch of 14 × 14 pixels has 1024 activations; a Gram matrix of ViT-L-14 has 4096 rows.
    activations = config["statistics"]["examples"] * pixels * (4 * 1024 / 14**2) / 1e6
    return int((6000 + tasks * (100 + activations)) * 1.5 ** (attempt - 1))
