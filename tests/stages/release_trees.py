"""Miniature copies of the releases, as they lie on disk."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(root: Path, *names: str) -> None:
    """Write tiny grey pictures."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), len(name) % 256).save(path)


def text(root: Path, name: str, *lines: str) -> None:
    """Write a text file."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def array(root: Path, name: str, value: str) -> None:
    """Write a ``.npy`` that holds one text, as AffectNet has them."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.array(value))


def raf(root: Path, numbers: tuple[int, ...] = (5, 1, 7)) -> Path:
    """Two training and one test picture, one of them missing; a picture without a label."""
    names = ["train_00001", "train_00002", "test_0001"]
    rows = [f"{name}.jpg {number}" for name, number in zip(names, numbers, strict=True)]
    text(root, "EmoLabel/list_patition_label.txt", *rows)
    picture(root, *(f"Image/aligned/{name}_aligned.jpg" for name in (names[0], *names[2:])))
    picture(root, "Image/aligned/train_00009_aligned.jpg")
    picture(root, *(f"Image/original/{name}.jpg" for name in names))
    return root


def affectnet_lists(root: Path) -> Path:
    """The lists with boxes."""
    header = (
        "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,"
        "expression,valence,arousal"
    )
    text(
        root,
        "Manually_Annotated_file_lists/training.csv",
        header,
        "1/a.jpg,1,2,4,5,1;2;3,1,0.5,-0.25",
        "1/b.JPG,0,0,8,8,1;2;3,10,-2,-2",
    )
    text(
        root,
        "Manually_Annotated_file_lists/validation.csv",
        header,
        "2/c.png,2,2,4,4,9;9,7,-0.5,0.125",
    )
    picture(root, *(f"Manually_Annotated_Images/{name}" for name in ("1/a.jpg", "1/b.JPG")))
    picture(root, "Manually_Annotated_Images/2/c.png", "Manually_Annotated_Images/3/d.jpg")
    return root


def affectnet_arrays(root: Path) -> Path:
    """A file for each label of each picture."""
    for part, name, exp, val, aro in (
        ("train_set", "7", "2", "-0.5", "0.25"),
        ("train_set", "12", "0", "-2", "-2"),
        ("val_set", "0", "6", "0.75", "0.5"),
    ):
        for kind, value in (("exp", exp), ("val", val), ("aro", aro), ("lnd", "1;2")):
            array(root, f"{part}/annotations/{name}_{kind}.npy", value)
        if name != "12":
            picture(root, f"{part}/images/{name}.jpg")
    return root


def disfa_labels(root: Path, frames: int = 3) -> None:
    """Levels of two units for two people; frames count from 1."""
    for subject in ("SN001", "SN003"):
        for unit, levels in (("1", (0, 2, 5)), ("12", (1, 3, 0)), ("5", (0, 0, 4))):
            text(
                root,
                f"ActionUnit_Labels/{subject}/{subject}_au{unit}.txt",
                *(f"{frame + 1},{levels[frame]}" for frame in range(frames)),
            )
    text(root, "Landmark_Points/SN001/frame_lm/SN001_0000_lm.txt", "1 2")


def bp4d(root: Path) -> Path:
    """Two coded sequences, with levels of one unit for one of them."""
    header = ",".join(str(number) for number in range(100))
    for name, frames in (("F001_T1", (643, 644)), ("F003_T8", (2440,))):
        rows = []
        for frame in frames:
            units = {1: frame % 2, 12: 1, 7: 9 if frame == 643 else 0}
            cells = [str(units.get(number, 9)) for number in range(1, 100)]
            rows.append(",".join([str(frame), *cells]))
        text(root, f"AUCoding/AU_OCC/{name}.csv", header, *rows)
    text(root, "AUCoding/AU_INT/AU06/F001_T1_AU06.csv", "643,3", "644,9")
    text(root, "AUCoding/AU_INT/AU12/F001_T1_AU12.csv", "643,0", "644,5")
    picture(root, "F001/T1/0643.jpg", "F001/T1/644.jpg", "F001/T1/645.jpg", "F003/T8/2440.jpg")
    return root


def bp4d_plus(root: Path) -> Path:
    """A sequence whose columns are not the units of their place."""
    text(
        root,
        "AU_OCC/F041_T7.csv",
        "frame,1,2,4,5,6,39",
        "10,1,0,0,1,0,1",
        "11,0,1,0,0,0,0",
    )
    text(root, "AU_INT/AU06/F041_T7_AU06.csv", "10,0", "11,4")
    picture(root, "2D/F041/T7/0009.jpg")
    return root


def fer2013_row(emotion: int, seed: int, usage: str, side: int = 8) -> str:
    """Return a row of fer2013.csv; the pixels are those of ``fer2013_pixels``."""
    pixels = " ".join(str(value) for value in fer2013_pixels(seed, side).reshape(-1))
    return f"{emotion},{pixels},{usage}"


def fer2013_pixels(seed: int, side: int = 8) -> np.ndarray:
    """Return (side, side) uint8 pixels."""
    return np.random.default_rng(seed).integers(0, 256, (side, side)).astype(np.uint8)


def fer2013(root: Path) -> Path:
    """Four pictures in a table."""
    text(
        root,
        "fer2013.csv",
        "emotion,pixels,Usage",
        fer2013_row(0, 0, "Training"),
        fer2013_row(3, 1, "Training"),
        fer2013_row(6, 2, "PublicTest"),
        fer2013_row(1, 3, "PrivateTest"),
    )
    return root


VOTES_HEADER = (
    "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
)


def ferplus_votes(root: Path) -> Path:
    """The votes for the pictures of ``fer2013``; the last shows no face."""
    text(
        root,
        "fer2013new.csv",
        VOTES_HEADER,
        "Training,fer0000000.png,4,0,0,1,3,2,0,0,0,0",
        "Training,fer0000001.png,6,0,1,1,0,0,0,0,2,0",
        "PublicTest,fer0028638.png,0,5,5,0,0,0,0,0,0,0",
        "PrivateTest,,0,0,0,0,0,0,0,0,0,10",
    )
    return root


def ck_plus(root: Path) -> Path:
    """Two sequences, one with a label for its last picture."""
    stem = "S005/001/S005_001_0000000"
    picture(root, f"cohn-kanade-images/{stem}1.png", f"cohn-kanade-images/{stem}2.png")
    picture(root, "cohn-kanade-images/S010/002/S010_002_00000001.png")
    text(root, f"Emotion/{stem}2_emotion.txt", "   3.0000000e+00")
    return root


def aff_wild2(root: Path) -> Path:
    """Two frames of a video, one of them without a picture, for each of the three tasks."""
    tasks = "annotations"
    text(
        root,
        f"{tasks}/EXPR_Classification_Challenge/Train_Set/12-24.txt",
        "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other",
        *("4", "-1", "7"),
    )
    text(
        root,
        f"{tasks}/VA_Estimation_Challenge/Validation_Set/12-24.txt",
        "valence,arousal",
        *("0.5,-0.25", "-5,-5", "0,1"),
    )
    text(
        root,
        f"{tasks}/AU_Detection_Challenge/Train_Set/12-24.txt",
        "AU1,AU2,AU12",
        *("0,1,0", "-1,-1,-1", "1,1,1"),
    )
    picture(root, "cropped_aligned/12-24/00001.jpg", "cropped_aligned/12-24/00002.jpg")
    return root
