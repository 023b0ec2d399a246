"""Pictures of tiles as phones and cameras write them: AVIF and HEIC, built box by box.

No library at hand writes them. The form is that of ISO/IEC 23008-12, 6.6.2.3 (grid).
"""

import io
import struct

import av

# Encoder -> the kind of an item, the box of its configuration, the brand of the file.
_KINDS = {"libsvtav1": (b"av01", b"av1C", b"avif"), "libx265": (b"hvc1", b"hvcC", b"heic")}

# With B-frames x265 never sets the decoding time of a single picture: the muxer may refuse it.
_OPTIONS = {"libx265": {"x265-params": "bframes=0:log-level=0"}}


def tiled_picture(tiles, columns, encoder, thumbnail=None):
    """The bytes of a picture of tiles u8[H W 3], all of one size, row by row."""
    kind, _, brand = _KINDS[encoder]
    rows, (high, wide) = len(tiles) // columns, tiles[0].shape[:2]
    height, width = rows * high, columns * wide
    coded = [_encode(tile, encoder) for tile in tiles]
    grid = struct.pack(">4B2H", 0, 0, rows - 1, columns - 1, width, height)
    items = {1: (b"grid", grid)} | {n: (kind, data) for n, (_, data) in enumerate(coded, 2)}
    numbers = list(items)[1:]
    links = [_box(b"dimg", struct.pack(f">{2 + len(numbers)}H", 1, len(numbers), *numbers))]
    properties = [_size(height, width), _size(high, wide), coded[0][0]]
    owned = {1: [1]} | {number: [2, 0x83] for number in numbers}  # 0x80: essential
    if thumbnail is not None:
        config, data = _encode(thumbnail, encoder)
        number = len(items) + 1
        items[number] = (kind, data)
        links.append(_box(b"thmb", struct.pack(">3H", number, 1, 1)))
        properties += [_size(*thumbnail.shape[:2]), config]
        owned[number] = [4, 0x85]

    def head(offset):
        places = b""
        for number, (_, data) in items.items():
            places += struct.pack(">3H2I", number, 0, 1, offset, len(data))
            offset += len(data)
        owners = b"".join(
            struct.pack(f">HB{len(own)}B", n, len(own), *own) for n, own in owned.items()
        )
        entries = [
            _full(b"infe", 2, struct.pack(">2H", n, 0), k, b"\0") for n, (k, _) in items.items()
        ]
        return _box(b"ftyp", brand, bytes(4), b"mif1", brand) + _full(
            b"meta",
            0,
            _full(b"hdlr", 0, bytes(4), b"pict", bytes(13)),
            _full(b"pitm", 0, struct.pack(">H", 1)),
            _full(b"iloc", 0, b"\x44\0", struct.pack(">H", len(items)), places),
            _full(b"iinf", 0, struct.pack(">H", len(items)), *entries),
            _full(b"iref", 0, *links),
            _box(
                b"iprp",
                _box(b"ipco", *properties),
                _full(b"ipma", 0, struct.pack(">I", len(owned)), owners),
            ),
        )

    start = len(head(0)) + 8
    return head(start) + _box(b"mdat", *(data for _, data in items.values()))


def _encode(image, encoder):
    """The box of the configuration, and the data of one coded image."""
    out, (_, name, _) = io.BytesIO(), _KINDS[encoder]
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream(encoder, rate=1, options=_OPTIONS.get(encoder))
        stream.height, stream.width = image.shape[:2]
        stream.pix_fmt = "yuv420p"
        if encoder == "libx265":
            stream.codec_context.codec_tag = "hvc1"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    data = out.getvalue()
    at = data.index(name) - 4
    with av.open(io.BytesIO(data)) as container:
        packet = bytes(next(container.demux(video=0)))
    return data[at : at + int.from_bytes(data[at : at + 4])], packet


def _box(kind, *parts):
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def _full(kind, version, *parts):
    return _box(kind, struct.pack(">I", version << 24), *parts)


def _size(height, width):
    return _full(b"ispe", 0, struct.pack(">2I", width, height))
