"""What the rules look through: every image file of a survey with what a look at it showed."""

from dataclasses import dataclass

from tlcli.data.folder import FolderIndex, ImageFile
from tlcli.doctor.hashing import Hashes
from tlcli.doctor.look import Failure, Look, Picture
from tlcli.doctor.survey import Candidate, Survey


@dataclass(frozen=True, slots=True)
class Seen:
    """One image file: its place, its content, and the picture in it or why there is none."""

    place: Candidate
    look: Look

    @property
    def path(self) -> str:
        """Relative to DATA."""
        return self.place.path

    @property
    def found(self) -> Picture | Failure:
        """The picture, or why it could not be decoded."""
        return self.look.found

    @property
    def hashes(self) -> Hashes | None:
        """Perceptual hashes; None where there is nothing to recognise a picture by."""
        return self.found.hashes if isinstance(self.found, Picture) else None


def index_of(survey: Survey, seen: list[Seen]) -> FolderIndex:
    """The images that can be decoded, as `finetune` sees them after it has read them."""
    images = tuple(
        ImageFile(file.path, file.place.label, file.look.sha256, file.look.bytes, file.place.given)
        for file in seen
        if isinstance(file.found, Picture)
    )
    return FolderIndex(survey.root, survey.classes, images, survey.others)
