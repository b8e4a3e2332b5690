"""Labels of a data set as numbers of a task's classes."""

import logging
from collections.abc import Iterable, Iterator, Sequence

from mergeloom.data.layout import check_names
from mergeloom.data.shards import Sample
from mergeloom.errors import MergeloomError

log = logging.getLogger(__name__)


class Numbering:
    """From a data set's labels to the places of their names among a task's class names.

    Parameters
    ----------
    classnames : the task's classes in the order of its labels.
    names : the data set's classes in the order of its label numbers; None if they are the task's.
    title : what the data set is called in messages.

    Raises
    ------
    MergeloomError – names that the task has no class for.
    """

    def __init__(self, classnames: Sequence[str], names: Sequence[str] | None, title: str) -> None:
        self._names = list(classnames if names is None else names)
        self._key = "classnames" if names is None else "names"
        self._title = title
        self._unknown_logged = False
        check_names(self._names, classnames, title)
        # A data set has its labels as numbers or as names.
        self._places: dict[int | str, int] = {}
        for number, name in enumerate(self._names):
            self._places[number] = self._places[name] = classnames.index(name)

    def check_recorded(self, recorded: Sequence[str], file: str) -> None:
        """Compare with the names that the data set itself records, by their letters and digits.

        Names that are none of the preset's are no error, since a class may go by another name; the
        first file that has any logs them.

        Raises
        ------
        MergeloomError – another number of classes, or a name that the preset has at another place.
        """
        names = self._names
        if len(recorded) != len(names):
            raise MergeloomError(
                f"{file}: has {len(recorded)} classes ({', '.join(recorded[:3])}, …), the preset's "
                f"`{self._key}` are {len(names)} ({', '.join(names[:3])}, …)"
            )
        places = {_plain(name): place for place, name in enumerate(names)}
        unknown = []
        for number, name in enumerate(recorded):
            if _plain(name) == _plain(names[number]):
                continue
            place = places.get(_plain(name))
            if place is None:
                unknown.append(name)
                continue
            raise MergeloomError(
                f"{file}: label {number} is {name!r}, but {names[number]!r} in the preset's "
                f"`{self._key}`, which has {names[place]!r} as label {place}. Give the data set's "
                "names in their order as `names` of the source; the order of `classnames` is free."
            )
        if unknown and not self._unknown_logged:
            self._unknown_logged = True
            log.warning(
                "%s: %d of %d class names are not in the preset's `%s`, so that their order could "
                "not be checked: %s",
                file,
                len(unknown),
                len(recorded),
                self._key,
                ", ".join(unknown[:5]) + (", …" if len(unknown) > 5 else ""),
            )

    def apply(self, samples: Iterable[Sample], complete: bool) -> Iterator[Sample]:
        """The samples with the task's labels.

        Parameters
        ----------
        complete : whether every class of the data set must occur.

        Raises
        ------
        MergeloomError – a label that is no class, or classes that do not occur.
        """
        seen = set()
        for sample in samples:
            place = self._places.get(sample.label)
            if place is None:
                raise MergeloomError(
                    f"{sample.where}: label {sample.label!r} is outside the {len(self._names)} "
                    f"classes of the preset's `{self._key}`"
                )
            seen.add(place)
            yield sample._replace(label=place)
        absent = [name for name in self._names if self._places[name] not in seen]
        if complete and absent:
            raise MergeloomError(
                f"{self._title}: {len(absent)} of the {len(self._names)} classes of the preset's "
                f"`{self._key}` have no image, the first are {', '.join(absent[:5])}. Is this the "
                "right list of classes?"
            )


def _plain(name: str) -> str:
    """A name without case, spaces and punctuation; itself if it is nothing else."""
    return "".join(filter(str.isalnum, name.casefold())) or name
