"""The room where sound and video containers are opened, with the same caution for both."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from mmlm.errors import InputError
from mmlm.media.source import called, opened
from mmlm.sample import Audio, Video

MAX_BYTES = 8 << 30
# By content. None of these can name another file: playlists and scripts (hls, dash, concat, sdp ...) stay out.
CONTAINERS = "wav,w64,aiff,mp3,flac,ogg,aac,amr,mov,mp4,m4a,3gp,matroska,webm,avi,mpeg,mpegts,gif"


@contextmanager
def container(item: Audio | Video, kind: Literal["audio", "video"]) -> Iterator[tuple[Any, Any]]:
    """The open container of `item` and its first stream of `kind`; whatever FFmpeg reports inside is an InputError.

    The file is handed over as a stream of bytes and every protocol is switched off: nothing else can be opened.
    """
    import av

    # PyAV's errors are also OSError or ValueError, by kind; a damaged file brings the others out of its bindings.
    faults = (
        av.FFmpegError, OSError, ValueError, EOFError, IndexError, TypeError, ArithmeticError, RuntimeError,
        MemoryError,
    )  # fmt: skip
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}
    with opened(item, MAX_BYTES) as stream:
        try:
            with av.open(stream, mode="r", options=options, metadata_errors="replace") as box:
                found = next(iter(getattr(box.streams, kind)), None)
                if found is None:
                    raise InputError(f"{called(item)}: there is no {kind} in it")
                if found.codec_context is None:
                    raise InputError(f"{called(item)}: its {kind} is in a coding that is not known here")
                yield box, found
        except InputError:
            raise
        except faults:
            raise InputError(
                f"{called(item)}: expected {kind} that can be decoded, came something else or a damaged file"
            ) from None
