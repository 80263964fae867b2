"""The fixed vocabularies of normpipe: statuses, reasons, emotions, action units.

Interfaces use names, never class numbers: datasets number their classes differently.
"""

from collections.abc import Iterable
from typing import Literal

Status = Literal["ok", "rejected", "failed"]

#: Every reason that a row may have, with its status and its text for users.
#: ``rejected``: the input was readable but unusable. ``failed``: it could not be processed.
REASONS: dict[str, tuple[Status, str]] = {
    # ingest, and reading in align
    "missing_file": ("failed", "the listed file does not exist"),
    "empty_file": ("failed", "the file has no bytes"),
    "not_a_file": ("failed", "the path is a folder or a device"),
    "outside_root": ("failed", "the path leaves the input folder"),
    "unreadable": ("failed", "the file cannot be read (permissions, input/output error)"),
    "not_an_image": ("failed", "the bytes are no image of a known format"),
    "heic_not_installed": (
        "failed",
        "the file is HEIC or HEIF, which needs pillow-heif: pip install pillow-heif",
    ),
    "unknown_range": ("failed", "the image does not say which value is white: set align.white"),
    "unknown_colours": ("failed", "the image's colours are not RGB or grey, but LAB: convert it"),
    "no_picture": ("failed", "the row of the Parquet file has no picture"),
    "truncated": ("failed", "the image data ends early or is damaged"),
    "too_many_pixels": ("failed", "the image is larger than the limit on pixels"),
    "too_many_bytes": ("failed", "the file is larger than the limit on bytes"),
    "decode_timeout": ("failed", "decoding took longer than the limit"),
    "decode_memory": ("failed", "decoding needs more memory than the limit"),
    "decoder_died": ("failed", "the process that decoded the file crashed on it"),
    "several_frames": (
        "failed",
        "the file is an animation (see ingest.animations) or has several pages",
    ),
    "not_a_video": ("failed", "the bytes are no video of a known format"),
    "too_many_frames": ("failed", "the video has more frames than the limit"),
    "bad_frame": ("failed", "the video's frame is damaged, or needs one that is"),
    "missing_frame": ("failed", "the video has no frame of this number"),
    "unsupported_member": ("failed", "the archive's member is encrypted, or packed in a rare way"),
    "repeated_member": ("failed", "the archive has several members of this name"),
    "url_not_allowed": ("failed", "the path is an address, which the job does not allow"),
    "url_failed": ("failed", "the address could not be fetched in time"),
    "path_not_utf8": ("failed", "the file name is not valid UTF-8; rename it"),
    "changed_since_ingest": ("failed", "the file was changed after it was ingested"),
    "quarantined": ("failed", "its shard could not be processed after several tries"),
    # withdraw
    "withdrawn": ("rejected", "a person was withdrawn; nothing of them is left but the count"),
    # align
    "no_face": ("rejected", "no face was found"),
    "face_too_small": ("rejected", "the face is smaller than the least size"),
    "low_score": ("rejected", "the detection score is below the threshold"),
    "implausible_face": ("rejected", "what was found makes no sense as a face, however turned"),
    "no_face_in_box": ("rejected", "no face was found where the list says that one is"),
    "no_landmarks": ("rejected", "the list gives neither landmarks nor a box"),
    "bad_supplied_box": ("rejected", "the listed box or landmarks are no face within the image"),
    "face_lost": ("rejected", "none of the frame's faces is where the tracked one was"),
    # normalize
    "black_output": ("rejected", "the normalized image is nearly black"),
    "saturated_output": ("rejected", "the normalized image is mostly white or clipped"),
    "flat_output": ("rejected", "the normalized image has almost no contrast"),
    "not_finite_output": ("rejected", "the network returned NaN or infinite values"),
    # import-variant
    "not_in_import": ("rejected", "the imported set has no picture of it"),
    "other_size": ("rejected", "the imported picture is not square, or not of the set's size"),
    # pair
    "no_normalized": ("rejected", "the aligned row has no normalized row"),
    "no_original": ("rejected", "the normalized row has no aligned row"),
}

#: Emotion names in the order of AffectNet's release (its numbers 0 to 7).
EMOTIONS = (
    "neutral",
    "happiness",
    "sadness",
    "surprise",
    "fear",
    "disgust",
    "anger",
    "contempt",
)

#: Other spellings that occur in label files, mapped to the names above.
EMOTION_SYNONYMS = {
    "happy": "happiness",
    "sad": "sadness",
    "surprised": "surprise",
    "fearful": "fear",
    "afraid": "fear",
    "scared": "fear",
    "disgusted": "disgust",
    "angry": "anger",
    "contemptuous": "contempt",
}

#: Words that mean "unknown" in lists, in lower case: as pandas, R, spreadsheets and ARFF write
#: them. In columns of numbers always, in text unless ``ingest.unknown_words`` says otherwise.
UNKNOWN_WORDS = ("-", "?", "#n/a", "<na>", "n/a", "na", "nan", "none", "null")

#: End of the name of a label column that counts the raters who chose an emotion.
_VOTES = "_votes"


def sorted_emotions(names: Iterable[str]) -> list[str]:
    """Return emotions in the order of ``EMOTIONS``, then all other names by the alphabet."""
    found = {*names}
    return [*(name for name in EMOTIONS if name in found), *sorted(found - {*EMOTIONS})]


#: Columns of votes, in the order of ``EMOTIONS``: how many raters chose the emotion, and how many
#: none of them. Numbers from 0, mostly whole; null if unknown.
VOTE_COLUMNS = (*(emotion + _VOTES for emotion in EMOTIONS), "unknown" + _VOTES)

#: Action units of the Facial Action Coding System that normpipe names (Ekman & Friesen 1978).
ACTION_UNITS: dict[str, str] = {
    "AU1": "inner brow raiser",
    "AU2": "outer brow raiser",
    "AU4": "brow lowerer",
    "AU5": "upper lid raiser",
    "AU6": "cheek raiser",
    "AU7": "lid tightener",
    "AU9": "nose wrinkler",
    "AU10": "upper lip raiser",
    "AU11": "nasolabial deepener",
    "AU12": "lip corner puller",
    "AU13": "sharp lip puller",
    "AU14": "dimpler",
    "AU15": "lip corner depressor",
    "AU16": "lower lip depressor",
    "AU17": "chin raiser",
    "AU18": "lip pucker",
    "AU19": "tongue show",
    "AU20": "lip stretcher",
    "AU22": "lip funneler",
    "AU23": "lip tightener",
    "AU24": "lip pressor",
    "AU25": "lips part",
    "AU26": "jaw drop",
    "AU27": "mouth stretch",
    "AU28": "lip suck",
    "AU29": "jaw thrust",
    "AU30": "jaw sideways",
    "AU31": "jaw clencher",
    "AU32": "lip bite",
    "AU33": "cheek blow",
    "AU34": "cheek puff",
    "AU35": "cheek suck",
    "AU36": "tongue bulge",
    "AU37": "lip wipe",
    "AU38": "nostril dilator",
    "AU39": "nostril compressor",
    "AU43": "eyes closed",
    "AU45": "blink",
    "AU61": "eyes turn left",
    "AU62": "eyes turn right",
    "AU63": "eyes up",
    "AU64": "eyes down",
}


def status_of(reason: str) -> Status:
    """Return the status (``rejected`` or ``failed``) of a reason."""
    return REASONS[reason][0]


def is_failure(reason: str) -> bool:
    """Return whether a reason means ``failed``; False for an unknown one of a newer release."""
    return REASONS.get(reason, ("rejected", ""))[0] == "failed"


class SampleError(Exception):
    """One sample cannot be used; its row gets the reason, and the rest of its batch continues."""

    def __init__(self, reason: str, detail: str = "") -> None:
        """``reason``: one of ``REASONS``. Raises ValueError for any other."""
        if reason not in REASONS:
            raise ValueError(f"{reason!r} is not in the vocabulary of reasons")
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def emotion_name(text: str) -> str:
    """Return the emotion's standard name, or the text in lower case if it is not a known one."""
    name = text.strip().lower()
    return EMOTION_SYNONYMS.get(name, name)


def vote_column(name: str) -> str | None:
    """Return the column of ``VOTE_COLUMNS`` that a spelling means, such as ``Happy_votes``."""
    plain = name.strip().lower()
    column = emotion_name(plain.removesuffix(_VOTES)) + _VOTES
    return column if plain.endswith(_VOTES) and column in VOTE_COLUMNS else None


def vote_columns(names: Iterable[str]) -> list[str]:
    """Return the vote columns among the columns of a label table, in their standard order."""
    found = set(names)
    return [column for column in VOTE_COLUMNS if column in found]
