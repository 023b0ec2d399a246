"""Videos and shards made on the fly, the JSONL that describes them, the comparison of folders."""

import filecmp
import fractions
import json

import av
import numpy as np

from mova_jax.data.shards import Caption, Manifest, VideoRecord, write_manifest, write_split


def flat_frames(levels, height=32, width=48):
    """One grey frame for each level, u8[f H W 3]."""
    return [np.full((height, width, 3), level, np.uint8) for level in levels]


def ramp(frames):
    """Grey frames; frame i has the level 8 i."""
    return flat_frames([8 * i % 256 for i in range(frames)])


def numbered(frames):
    """Frames that show their number in black and white squares."""
    return [_squares(i) for i in range(frames)]


def _squares(number):
    bits = [230 if number >> k & 1 else 20 for k in range(8)]
    squares = np.kron(np.array(bits, np.uint8).reshape(2, 4), np.ones((16, 16), np.uint8))
    return np.repeat(squares[..., None], 3, axis=2)


def numbers_of(frames):
    """The numbers that `numbered` frames u8[f H W 3] show."""
    levels = np.asarray(frames)[:, :32, :64].reshape(-1, 2, 16, 4, 16, 3).mean((2, 4, 5))
    return ((levels.reshape(-1, 8) > 128) * 2 ** np.arange(8)).sum(1).tolist()


def write_video(
    path,
    frames,
    times=None,
    rate=10,
    codec="mpeg4",
    pix_fmt="yuv420p",
    format=None,
    encoder=None,
    **options,
):
    """Writes u8[H W 3] frames and returns the path; times are in ticks of 1/rate s.

    `codec`, `pix_fmt`, `format` and the attributes in `encoder` are PyAV's, `options` those of the
    container.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=format, options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.bit_rate = 2_000_000
        for name, value in (encoder or {}).items():
            setattr(stream.codec_context, name, value)
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = i if times is None else times[i]
            frame.time_base = fractions.Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def film(path, codec="libx264", sound="", frames=40, rate=10, **settings):
    """A film whose frames show their number, with B-frames, and sound where a codec is named."""
    settings = {"encoder": {"max_b_frames": 2}} | settings
    if not sound:
        return write_video(path, numbered(frames), rate=rate, codec=codec, **settings)
    silent = write_video(
        path.with_name("silent.mkv"), numbered(frames), rate=rate, codec=codec, **settings
    )
    with av.open(str(silent)) as source, av.open(str(path), "w") as container:
        (picture,) = source.streams.video
        copy = container.add_stream_from_template(picture)
        spoken = container.add_stream(sound, rate=48000, layout="stereo")
        for packet in source.demux(picture):
            if packet.size:
                packet.stream = copy
                container.mux(packet)
        for number in range(frames * 48000 // rate // 1024):
            silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp")
            silence.rate, silence.pts = 48000, number * 1024
            silence.time_base = fractions.Fraction(1, 48000)
            container.mux(spoken.encode(silence))
        container.mux(spoken.encode())
    return path


def write_sound(path):
    """Writes an MP4 with sound and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        sound.rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())


def line(video="a.mp4", caption="A cat sits. It leaves.", **fields):
    """The fields of a line."""
    return {"video": video, "caption": caption, **fields}


def write_lines(path, *lines):
    """Writes a JSONL and returns its path; bytes are written as they are."""
    texts = [text if isinstance(text, bytes) else json.dumps(text).encode() for text in lines]
    path.write_bytes(b"".join(text + b"\n" for text in texts))
    return path


def video_record(id="r", captions=("a dog.",), alternatives=(), frames=(b"jpeg",), **fields):
    """A record with a frame a second; a caption is a text or the arguments of `Caption`."""
    said = (Caption(*((text,) if isinstance(text, str) else text)) for text in captions)
    times = np.arange(len(frames), dtype=np.float32)
    fields = {"height": 8, "width": 8, "timestamps": times, "duration": len(frames) + 0.0} | fields
    return VideoRecord(id, tuple(frames), captions=tuple(said), alternatives=alternatives, **fields)


def write_shards(folder, splits, limits=None, **fields):
    """Writes the records of each split as shards, with fields of the manifest; returns it."""
    infos = {
        split: write_split(folder, split, records, name="clips", **(limits or {}))
        for split, records in splits.items()
    }
    manifest = Manifest("clips", infos, **fields)
    write_manifest(folder, manifest)
    return manifest


def assert_same_files(one, two):
    """Two folders hold the same names with the same bytes."""
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*") if path.is_file())
    assert names == sorted(str(path.relative_to(two)) for path in two.rglob("*") if path.is_file())
    assert filecmp.cmpfiles(one, two, names, shallow=False) == (names, [], [])
